"""The router that every resource uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.datastructures import DefaultPlaceholder

from app.schemas.documented import HTTPExceptionResponse


def refusal(description: str) -> dict[str, Any]:
    """Return how a refusal is documented whose body tells the reason."""
    return {"description": description, "model": HTTPExceptionResponse}


@dataclass(frozen=True, slots=True)
class Operation:
    """A route as it is declared, before an API date makes its own of it.

    :param options: what FastAPI's ``add_api_route`` takes beside path and endpoint.
    """

    path: str
    endpoint: Callable[..., Any]
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.endpoint.__name__

    @property
    def methods(self) -> list[str]:
        return sorted(self.options["methods"])


class Operations(APIRouter):
    """A router that remembers what is declared; the application of each API date makes routes of it.

    Handlers return what :func:`app.routes.rendering.render` takes. Their return annotation says nothing about the body, so
    that it is documented by ``response_model`` alone.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.declared: list[Operation] = []

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if isinstance(options.get("response_model"), DefaultPlaceholder):
            options["response_model"] = None
        options["dependencies"] = [*self.dependencies, *(options.get("dependencies") or ())]
        options["responses"] = {**self.responses, **(options.get("responses") or {})}
        self.declared.append(Operation(path, endpoint, options))
