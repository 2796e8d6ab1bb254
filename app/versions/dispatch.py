"""The short way from a request to its handler, for requests in which nothing is wrong.

FastAPI's own way costs several times what most handlers do. Here a request's route, token, path and body are resolved once,
from the same signatures, models and dependencies that FastAPI has. Whatever is not plainly right (no route, a token that is
refused, a value that does not validate, a query) goes FastAPI's way, body and all, and is answered there: so no refusal is
worded twice.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from fastapi import Request, Response, params
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import RefusedRequest, RejectedByDatabase
from app.routes import MOUNT_POINT
from app.server.middleware import header

JSON = b"application/json"
REFUSALS = (RefusedRequest, RejectedByDatabase, RequestValidationError)
OMITTED = inspect.Parameter.empty


class Unsupported(Exception):
    """A signature needs more than this way offers."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function with where each of its arguments comes from.

    :param path: path parameters, each with what validates it, or None for text as it is.
    :param calls: dependencies, whose results are arguments.
    :param values: queries, which are not given on this way and have their defaults.
    :param body: the argument that the JSON body becomes, with what validates it.
    """

    function: Callable[..., Awaitable[Any]]
    path: Mapping[str, TypeAdapter[Any] | None]
    calls: Mapping[str, Call]
    values: Mapping[str, Any]
    body: tuple[str, TypeAdapter[Any]] | None
    takes_request: bool
    takes_response: bool

    async def arguments(self, request: Request, body: bytes) -> dict[str, Any]:
        """Return the arguments for a request.

        :raises RefusedRequest: when a dependency refuses it.
        :raises ValueError: when something does not validate; ``ValidationError`` is one.
        """
        found = dict(self.values)
        given = request.scope["path_params"]
        for name, model in self.path.items():
            found[name] = given[name] if model is None else model.validate_python(given[name])
        for name, call in self.calls.items():
            found[name] = await call.function(**await call.arguments(request, body))
        if self.body is not None:
            name, model = self.body
            found[name] = model.validate_python(json.loads(body))
        if self.takes_request:
            found["request"] = request
        if self.takes_response:
            found["response"] = response = Response()
            del response.headers["content-length"]  # only what the handler sets is taken over
        return found


@dataclass(frozen=True, slots=True)
class Operation:
    """One route of one API date.

    :param name: its path's template, from the root; metrics are counted by it.
    :param pattern: matches a request's path below the mount point.
    :param dependencies: what must accept the request before the handler is called.
    :param handler: None when the route is left to FastAPI; it still stands in the way of those after it.
    """

    name: str
    pattern: re.Pattern[str]
    dependencies: Sequence[Call]
    handler: Call | None


class Dispatcher:
    """Calls the handlers of one API date.

    :param app: FastAPI's application of that date, for requests that are not plainly right.
    :param refusal: answers the errors by which a handler itself refuses a request.
    """

    def __init__(self, app: ASGIApp, refusal: Callable[[Request, Exception], Awaitable[Response]]) -> None:
        self.app = app
        self._refusal = refusal
        self._operations: dict[tuple[str, str], list[Operation]] = {}

    def add(
        self,
        path: str,
        methods: Sequence[str],
        endpoint: Callable[..., Awaitable[Response]],
        dependencies: Sequence[params.Depends],
    ) -> None:
        """Take a route; they come in FastAPI's order."""
        pattern, template, names = compile_path(path)
        required: list[Call] = []
        handler: Call | None = None
        try:
            required = [_call(d.dependency, names) for d in dependencies if d.dependency is not None]
            handler = _call(endpoint, names)
        except Unsupported:
            pass
        operation = Operation(MOUNT_POINT + template, pattern, required, handler)
        for method in methods:
            self._operations.setdefault((method, _first(path)), []).append(operation)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation, path_params = self.find(scope)
        if operation is not None:
            scope["operation"] = operation.name
        if operation is None or operation.handler is None or scope["query_string"]:
            return await self.app(scope, receive, send)
        body = b""
        if operation.handler.body is not None:
            if not (header(scope, b"content-type") or JSON).startswith(JSON):
                return await self.app(scope, receive, send)
            body, receive = await _read(receive)
        scope.update(path_params=path_params, app=self.app)
        request = Request(scope, receive)
        try:
            for dependency in operation.dependencies:
                await dependency.function(**await dependency.arguments(request, body))
            arguments = await operation.handler.arguments(request, body)
        except (RefusedRequest, ValueError, RecursionError):
            return await self.app(scope, receive, send)
        try:
            response = await operation.handler.function(**arguments)
        except REFUSALS as error:
            response = await self._refusal(request, error)
        await response(scope, receive, send)

    def methods(self, scope: Scope) -> list[str]:
        """Return the methods of the operations that a request's path may name."""
        path = scope["path"].removeprefix(scope["root_path"])
        named = (key for key, operations in self._operations.items() if any(o.pattern.match(path) for o in operations))
        return sorted({method for method, _ in named})

    def find(self, scope: Scope) -> tuple[Operation | None, dict[str, str]]:
        """Return the operation that a request's method and path name, with the path's parameters."""
        path = scope["path"].removeprefix(scope["root_path"])
        for operation in self._operations.get((scope["method"], _first(path)), ()):
            if found := operation.pattern.match(path):
                return operation, found.groupdict()
        return None, {}


def _first(path: str) -> str:
    """Return the first segment of a path."""
    return path[1:].partition("/")[0]


async def _read(receive: Receive) -> tuple[bytes, Receive]:
    """Return a request's body, and a ``receive`` that tells it again before it goes on."""
    parts, more = [], True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)
        parts.append(message.get("body", b""))
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    told: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    if message["type"] == "http.disconnect":
        told = [message]

    async def replay() -> Message:
        return told.pop() if told else await receive()

    return body, replay


def _call(function: Callable[..., Awaitable[Any]], in_path: Mapping[str, Any]) -> Call:
    """Take a handler or a dependency apart, as FastAPI does.

    :param in_path: the names of the path's parameters.
    :raises Unsupported: when it needs more than this way offers.
    """
    path: dict[str, TypeAdapter[Any] | None] = {}
    calls: dict[str, Call] = {}
    values: dict[str, Any] = {}
    bodies: list[tuple[str, TypeAdapter[Any]]] = []
    parameters = inspect.signature(function, eval_str=True).parameters
    for name, parameter in parameters.items():
        annotation, default = parameter.annotation, parameter.default
        marks = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
        depends = next((mark for mark in marks if isinstance(mark, params.Depends)), None)
        if annotation in (Request, Response):
            continue
        if depends is not None and depends.dependency is not None:
            calls[name] = _call(depends.dependency, in_path)
        elif name in in_path:
            path[name] = None if annotation is str else TypeAdapter(annotation)
        elif any(isinstance(mark, params.Query) for mark in marks):
            values[name] = _without_query(annotation) if default is OMITTED else default
        elif any(isinstance(mark, params.Param) for mark in marks) or bodies:
            raise Unsupported
        else:
            bodies.append((name, TypeAdapter(annotation)))
    return Call(
        function, path, calls, values, bodies[0] if bodies else None, "request" in parameters, "response" in parameters
    )


def _without_query(annotation: Any) -> Any:
    """Return what a model of query parameters is when none is given.

    :raises Unsupported: when one must be given, or it is no model.
    """
    try:
        return TypeAdapter(annotation).validate_python({})
    except ValidationError:
        raise Unsupported from None
