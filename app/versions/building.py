"""One application per API date, and the look-up that chooses it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import date
from functools import lru_cache
from typing import Any

import orjson
from fastapi import FastAPI, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.db.retrying import ComingBack
from app.errors import RefusedRequest, RejectedByDatabase
from app.routes import ROUTERS
from app.routes.operations import Operation, Operations
from app.routes.rendering import json_response, render
from app.server.auth import REQUIREMENTS
from app.server.bodies import Bodies
from app.server.middleware import header, send_json
from app.tasks import clearing
from app.tasks.service import Service
from app.versions import VERSIONS, changes, documents, pages
from app.versions.changes import Change, Downgrade, Guard, OlderModels
from app.versions.dispatch import REFUSALS, Dispatcher

VERSION_HEADER = b"airflow-api-version"
READS = ("GET", "HEAD")
ECHOED_INPUT = 1000  # bytes of a refused value that the answer repeats; the rest of a 10 MB body helps nobody

# While they make models, FastAPI and pydantic silence warnings in the whole process: so one thread at a time makes any. The
# event loop waits for one date's at most, some 35 ms: those of all dates are made before the first routes are.
_MAKING = threading.RLock()

_date = TypeAdapter(date)


class VersionedApp(FastAPI):
    """FastAPI's application of one API date, without Starlette's own answer to unexpected errors.

    Errors must reach our middleware (503 for retryable ones, one place for the rest) before an answer was sent. Its routes
    take as long to make as hundreds of requests, so they are made in a thread: with the first request that comes here, or
    before, by :meth:`make_ready`.

    :param make_routes: adds the routes to it, once.
    """

    def __init__(self, make_routes: Callable[[FastAPI], None], **options: Any) -> None:
        super().__init__(**options)
        self._make_routes = make_routes
        self._making = asyncio.Lock()
        self._document = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.middleware_stack is None:
            await self.make_ready()
        if scope["path"].removeprefix(scope["root_path"]) == self.openapi_url and scope["method"] in READS:
            async with self._making:
                self._document = self._document or await asyncio.to_thread(self._rendered)
            return await Response(self._document, media_type="application/json")(scope, receive, send)
        await super().__call__(scope, receive, send)

    async def make_ready(self) -> None:
        """Make the routes, if they are not there."""
        async with self._making:
            self.middleware_stack = self.middleware_stack or await asyncio.to_thread(self.build_middleware_stack)

    def build_middleware_stack(self) -> ASGIApp:
        with _MAKING:
            self._make_routes(self)
        stack = super().build_middleware_stack()
        assert isinstance(stack, ServerErrorMiddleware)
        return stack.app

    def openapi(self) -> dict[str, Any]:
        """Return the document of this date, built on first use."""
        if not self.openapi_schema:
            self.openapi_schema = documents.completed(super().openapi(), self.state.models)
        return self.openapi_schema

    def _rendered(self) -> bytes:
        """Return the document as FastAPI answers it; to build and render it takes as long as a hundred requests."""
        with _MAKING:
            return bytes(JSONResponse(self.openapi()).body)


class ApiVersions:
    """An ASGI application that chooses the API date's own by the ``Airflow-API-Version`` header.

    None means the newest, a date between two the older of them, one after the newest the newest; a date from before the
    API existed is not found. The header is repeated in the answer as it was sent.

    :param service: what handlers use; its metadata revision decides the newest date.
    :param bodies: what this process holds of bodies.
    """

    def __init__(self, service: Service, bodies: Bodies) -> None:
        self._service = service
        self._served = tuple(v for v in VERSIONS if v.date <= service.revision.newest_api_date)
        self._apps: dict[str, Dispatcher] = {}
        self._bodies = bodies
        self._app_for = lru_cache(maxsize=256)(self._resolve)
        self.newest = self._served[0].date
        self._newest_header = self.newest.encode()

    def app(self, version: str) -> Dispatcher:
        """Return the application of a served date, built on first use."""
        if version not in self._apps:
            with _MAKING:
                if version not in self._apps:
                    self._apps[version] = build_app(self._service, version, self._bodies)
        return self._apps[version]

    async def make_ready(self) -> None:
        """Make, one after another, what the first request that needs it would wait for; what takes long in a thread.

        The routes of older dates are left until somebody asks something there that is wrong: they take a MiB each.
        """
        for version in self._served:
            await asyncio.to_thread(self.app, version.date)
        await clearing.compile_ahead(self._service)
        newest = self.app(self.newest).app
        assert isinstance(newest, VersionedApp)
        await newest.make_ready()

    def operation(self, scope: Scope) -> str | None:
        """Return the name of the operation that a request's method and path name, as of the newest date."""
        found, _ = self.app(self.newest).find(scope)
        return None if found is None else found.name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (newline := scope["path"].find("\n")) >= 0:  # which no path of Airflow's matches: its mount's does at the end
            if newline == len(scope["path"]) - 1:
                self._chosen(scope)
            return await send_json(send, 404, {"detail": "Not Found"})
        chosen = self._chosen(scope)
        if isinstance(chosen, tuple):
            status, detail = chosen
            return await send_json(send, status, {"detail": detail})
        await chosen(scope, receive, send)

    def _chosen(self, scope: Scope) -> ASGIApp | tuple[int, Any]:
        """Return what answers the date that is asked for, and repeat that in the answer."""
        found = header(scope, VERSION_HEADER)
        scope["added_headers"].append((VERSION_HEADER, self._newest_header if found is None else found))
        return self._app_for(None if found is None else found.decode("latin-1"))

    def _resolve(self, asked: str | None) -> ASGIApp | tuple[int, Any]:
        """Return the application for a header's value, or the status and detail that refuse it."""
        if asked is None:
            return self.app(self.newest)
        if not asked:
            return 404, "Not Found"
        try:
            wanted = _date.validate_python(asked).isoformat()
        except ValidationError as error:
            location = ["header", "Airflow-API-Version"]
            return 422, [{**problem, "loc": location} for problem in error.errors(include_url=False)]
        for version in self._served:
            if version.date <= wanted:
                return self.app(version.date)
        return 404, "Not Found"


def build_app(service: Service, version: str, bodies: Bodies) -> Dispatcher:
    """Return the application of one API date.

    :param bodies: what this process holds of bodies, whatever their date.
    """
    with _MAKING:
        return _built(service, version, bodies)


def _built(service: Service, version: str, bodies: Bodies) -> Dispatcher:
    undone = tuple(changes.undone(VERSIONS, version, server=service.revision.newest_api_date))
    models = OlderModels(undone)
    routers = [
        (prefix, tag, list(_as_of(undone, operations, models, service.database.coming_back)))
        for prefix, tag, operations in ROUTERS
    ]
    guards = _guards(undone)

    has_documents = service.settings.server.documents

    def make_routes(app: FastAPI) -> None:
        if has_documents:
            pages.add_pages(app)
        for prefix, tag, operations in routers:
            for operation in operations:
                _add(app, prefix + operation.path, tag, operation, models)

    app = VersionedApp(
        make_routes,
        title="Airflow Task Execution API",
        description="The private Airflow Task Execution API.",
        version=version,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
        openapi_url=f"/{pages.DOCUMENT}" if has_documents else None,
        docs_url=None,  # see app.versions.pages
        redoc_url=None,
        servers=pages.SERVERS,
        root_path_in_servers=False,
        strict_content_type=False,  # the client of Task SDK 1.0 names none
    )
    app.state.service = service
    app.state.api_date = version
    app.state.models = models
    for refusal in REFUSALS:
        app.add_exception_handler(refusal, _refused)
    dispatcher = Dispatcher(app, _refused, bodies=bodies, largest=service.settings.server.max_body_bytes)
    for prefix, _, operations in routers:
        for operation in operations:
            dispatcher.add(
                prefix + operation.path,
                operation.methods,
                operation.endpoint,
                operation.options["dependencies"],
                guard=guards.get(operation.options["name"]),
                stores_body="requestBody" in (operation.options.get("openapi_extra") or ()),
            )

    async def not_allowed(request: Request, _: Exception) -> Response:
        """Name every method of the path, as HTTP wants it (RFC 9110, 15.5.6); Starlette names those of one route."""
        return json_response({"detail": "Method Not Allowed"}, 405, {"allow": ", ".join(dispatcher.methods(request.scope))})

    app.add_exception_handler(405, not_allowed)
    return dispatcher


def _guards(undone: tuple[Change, ...]) -> dict[str, Guard]:
    """Return what must let requests pass, beyond what is required of their tokens, by operation name."""
    gone = {name for change in undone for name in change.guards}
    declared = (change.guards for version in VERSIONS for change in version.changes)
    return {name: guard for guards in declared for name, guard in guards.items() if name not in gone}


def _downgrades(undone: tuple[Change, ...], operation: str) -> tuple[Downgrade, ...]:
    return tuple(change.downgrades[operation] for change in undone if operation in change.downgrades)


def _as_of(
    undone: tuple[Change, ...], operations: Operations, models: OlderModels, coming_back: ComingBack
) -> Iterator[Operation]:
    """Yield the operations of a router as they were before some changes."""
    gone = {name for change in undone for name in change.added_operations}
    moved = {name: before for change in undone for name, before in change.moved_operations.items()}
    for operation in operations.declared:
        if operation.name not in gone:
            path, name = moved.get(operation.name, (operation.path, operation.name))
            refusals = {status for change in undone for status in change.added_refusals.get(operation.name, ())}
            responses = {s: response for s, response in operation.options["responses"].items() if s not in refusals}
            options = {**operation.options, "name": name, "responses": responses}
            if name != operation.name:
                options["response_model"] = None
            parameters = _parameters(operation, undone, models)
            endpoint = _endpoint(operation, parameters, models, _downgrades(undone, operation.name), coming_back)
            yield Operation(path, endpoint, options)


def _add(app: FastAPI, path: str, tag: str, operation: Operation, models: OlderModels) -> None:
    """Add FastAPI's route for an operation: to the application, which makes it now.

    Routes of a router that is included are made again by the first request that comes there, in the event loop.
    """
    documented = models.annotation(operation.options["response_model"])
    options = {**operation.options, "tags": [tag], "response_model": documented}
    app.router.add_api_route(path, operation.endpoint, **options)
    route = app.routes[-1]
    assert isinstance(route, APIRoute)
    for required in _token_requirements(route.dependant):
        route.openapi_extra = {**(route.openapi_extra or {}), "security": [{documents.SCHEME: list(required)}]}


def _token_requirements(dependant: Dependant) -> Iterator[tuple[str, ...]]:
    """Yield what a route's dependencies, and theirs, require of the token."""
    for dependency in dependant.dependencies:
        if dependency.call in REQUIREMENTS:
            yield REQUIREMENTS[dependency.call]
        yield from _token_requirements(dependency)


def _parameters(operation: Operation, undone: tuple[Change, ...], models: OlderModels) -> list[inspect.Parameter]:
    """Return what a handler takes at one API date; what did not exist then has its default."""
    before = {name: kind for change in undone for name, kind in change.changed_parameters.get(operation.name, {}).items()}
    gone = {name for change in undone for name in change.added_parameters.get(operation.name, ())}
    declared = inspect.signature(operation.endpoint, eval_str=True).parameters.values()
    return [
        parameter.replace(annotation=models.annotation(before.get(parameter.name, parameter.annotation)))
        for parameter in declared
        if parameter.name not in gone
    ]


def _endpoint(
    operation: Operation,
    parameters: list[inspect.Parameter],
    models: OlderModels,
    downgrades: tuple[Downgrade, ...],
    coming_back: ComingBack,
) -> Callable[..., Awaitable[Response]]:
    """Return a handler for one API date: it takes that date's models and answers that date's body.

    A request is a unit of work: its client asks it again when it hears 503. So when it meets a lock, it begins again here.
    """
    handler, status = operation.endpoint, operation.options["status_code"] or 200
    signature = inspect.signature(handler, eval_str=True)
    wants_upgrade = any(p.annotation is not signature.parameters[p.name].annotation for p in parameters)
    sets_headers = "response" in signature.parameters

    async def endpoint(**arguments: Any) -> Response:
        if wants_upgrade:
            arguments = {name: models.upgrade(value) for name, value in arguments.items()}
        result = await coming_back(handler, **arguments)
        if downgrades and isinstance(result, dict):
            for downgrade in downgrades:
                downgrade(result)
        answer = render(result, status=status)
        if sets_headers:
            answer.headers.update(arguments["response"].headers)
        return answer

    endpoint.__name__ = handler.__name__
    endpoint.__doc__ = handler.__doc__
    declared = signature.replace(parameters=parameters, return_annotation=Response)
    endpoint.__signature__ = declared  # type: ignore[attr-defined]  # what FastAPI reads, in place of **arguments
    return endpoint


async def _refused(_: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    assert isinstance(error, RefusedRequest | RejectedByDatabase)
    return json_response({"detail": error.detail}, error.status)


def _invalid(error: RequestValidationError) -> Response:
    """Answer 422 with what was wrong where; a refused value is repeated only if it is short and can be."""
    problems = []
    for problem in error.errors():
        shown = {key: value for key, value in problem.items() if key not in ("url", "input", "ctx")}
        if "input" in problem and (given := _presentable(problem["input"])) is not None:
            shown["input"] = orjson.Fragment(given)
        if "ctx" in problem:
            shown["ctx"] = {
                key: value if isinstance(value, int | float | str) else {} for key, value in problem["ctx"].items()
            }
        problems.append(shown)
    return json_response({"detail": problems}, 422)


def _presentable(value: Any) -> bytes | None:
    if isinstance(value, bytes | str) and len(value) > ECHOED_INPUT:
        return None
    try:
        text = orjson.dumps(value.decode() if isinstance(value, bytes) else value)
    except (TypeError, ValueError, UnicodeDecodeError):
        return None
    return text if len(text) <= ECHOED_INPUT else None
