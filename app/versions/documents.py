"""What the OpenAPI documents say beyond FastAPI's own: models without an operation, the version header, the
token, and our 503.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from app.schemas import documented
from app.schemas.base import TerminalTIState
from app.schemas.task_instances import TIServerTerminatedPayload
from app.versions.changes import OlderModels

EXTRA = (
    documented.BundleInfo,
    documented.DagAttributeTypes,
    documented.HTTPExceptionResponse,
    documented.TaskInstance,
    documented.TriggerRule,
    documented.WeightRule,
    TerminalTIState,
)
UNDOCUMENTED = (TIServerTerminatedPayload,)  # what is taken from newer workers and no released document has
SCHEME = "JWTBearer"  # what the released documents call a bearer token
JSON_VALUE = {"anyOf": [{"type": t} for t in ("object", "array", "string", "number", "integer", "boolean", "null")]}
UNAVAILABLE = {
    "description": "The database could not do it now; nothing was written, and the same request may succeed later",
    "headers": {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}},
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/HTTPExceptionResponse"}}},
}
INVALID = {
    "description": "Validation Error",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/HTTPValidationError"}}},
}


def completed(document: dict[str, Any], models: OlderModels) -> dict[str, Any]:
    """Return FastAPI's document with what it lacks.

    :param models: of the document's API date.
    """
    schemas = document["components"]["schemas"]
    for model in EXTRA:
        schemas.setdefault(model.__name__, TypeAdapter(models.annotation(model)).json_schema())
    schemas["JsonValue"] = JSON_VALUE
    for undocumented in UNDOCUMENTED:
        schemas.pop(undocumented.__name__, None)
    document["components"]["securitySchemes"] = {SCHEME: {"type": "http", "scheme": "bearer"}}
    version = _version_parameter(document["info"]["version"])
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.setdefault("parameters", []).append(version)
            operation["responses"].setdefault("422", INVALID)
            operation["responses"]["503"] = UNAVAILABLE
    return document


def _version_parameter(date: str) -> dict[str, Any]:
    """Return the header that chooses the API date, which every operation takes."""
    schema = {"type": "string", "format": "date", "title": "Airflow-Api-Version", "default": date}
    return {"name": "Airflow-API-Version", "in": "header", "required": False, "schema": schema}
