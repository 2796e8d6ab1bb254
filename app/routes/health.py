"""Health."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse

from app.routes.operations import Operations
from app.tasks import service

router = Operations()


@router.head("/health", include_in_schema=False)  # as balancers may ask; the released documents have no such operation
@router.get("/health", response_model=dict[str, Any])
async def health() -> Any:
    """Say that this process answers."""
    return {"status": "healthy"}


@router.head("/health/ping", include_in_schema=False)
@router.get("/health/ping")
async def ping(request: Request) -> JSONResponse:
    """Say whether the parts that this process needs answer too: 500 when one does not."""
    checks = await service.of(request).ping()
    failing = {name: error for name, error in checks.items() if error}
    body: dict[str, Any] = {"ok": [name for name in checks if name not in failing], "failing": failing}
    return JSONResponse(body, status_code=500 if failing else 200)
