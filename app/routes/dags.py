"""Dags."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request

from app.db import dags
from app.routes.operations import Operations
from app.schemas.dags import DagResponse
from app.server.auth import execution_token
from app.tasks import service
from app.tasks.transitions import Refuse

router = Operations(dependencies=[Depends(execution_token)])


@router.get("/{dag_id}", response_model=DagResponse, responses={404: {"description": "DAG not found for the given dag_id"}})
async def get_dag(request: Request, dag_id: str) -> Any:
    """Get a DAG."""
    async with service.of(request).database.autocommit() as session:
        row = await dags.get(session, dag_id=dag_id)
    if row is None:
        return Refuse(404, {"reason": "not_found", "message": f"The Dag with dag_id: `{dag_id}` was not found"})
    return {
        "dag_id": row.dag_id,
        "is_paused": row.is_paused,
        "bundle_name": row.bundle_name,
        "bundle_version": row.bundle_version,
        "relative_fileloc": row.relative_fileloc,
        "owners": row.owners,
        "tags": sorted(row.tags or ()),
        "next_dagrun": row.next_dagrun,
    }
