"""The least that a FastAPI service can do with a heartbeat: take its path and body, and answer."""

from __future__ import annotations

from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Heartbeat(BaseModel):
    """What a worker sends."""

    hostname: str
    pid: int


@app.put("/execution/task-instances/{task_instance_id}/heartbeat", status_code=204)
async def heartbeat(task_instance_id: UUID, payload: Heartbeat) -> None:
    """Answer."""


@app.get("/execution/health")
async def health() -> dict[str, str]:
    """Answer that it runs."""
    return {"status": "healthy"}
