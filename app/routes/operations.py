"""The router that every resource uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from fastapi.datastructures import DefaultPlaceholder

from app.schemas.documented import HTTPExceptionResponse


def refusal(description: str) -> dict[str, Any]:
    """Return how a refusal is documented whose body tells the reason."""
    return {"description": description, "model": HTTPExceptionResponse}


class Operations(APIRouter):
    """A router whose handlers return what :func:`app.routes.rendering.render` takes.

    Their return annotation says nothing about the body, so that it is documented by ``response_model`` alone.
    """

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if isinstance(options.get("response_model"), DefaultPlaceholder):
            options["response_model"] = None
        super().add_api_route(path, endpoint, **options)
