"""The way of a request to its handler: token, body, values, call.

It is resolved once from the same signatures, models and dependencies that FastAPI has, and costs a fraction of FastAPI's own
way. The token comes first: what it does not open is refused before a byte of the body is read. FastAPI is asked only for
what is wrong with a request that may come in, so that every such refusal is worded as FastAPI words it, and for what is no
operation: its documents, unknown paths, other methods.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic
from fastapi import Request, Response, params
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import QueryParams
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import RefusedRequest, RejectedByDatabase, invalid_value
from app.routes import MOUNT_POINT
from app.server.auth import REQUIREMENTS
from app.server.bodies import DECODED_VALUES, QUICK, SMALL_BODY, STORED_VALUES, Bodies, Body
from app.server.middleware import header

JSON = b"application/json"
REFUSALS = (RefusedRequest, RejectedByDatabase, RequestValidationError)
# Bodies of these carry variables, rendered fields, trigger kwargs: users' data.
LARGE_BODIES = re.compile(r"^/(variables|store|hitlDetails|dag-runs)/|/(state|rtif)$")
DECODED_SHARE = 4  # of 64 MiB: one text of 16 MiB is decoded, validated, encrypted and sent in some 0.1 s
MANY_PROBLEMS = 100  # told one by one; each takes 2 us and a line of the answer
REQUIRED = inspect.Parameter.empty
Guard = Callable[[Request], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter.

    :param model: what validates it.
    :param is_list: whether it takes all of the name's values, not the last one.
    :param default: what it is when it is not given; :data:`REQUIRED` when it must be.
    """

    model: TypeAdapter[Any]
    is_list: bool
    default: Any

    def read(self, name: str, given: QueryParams) -> Any:
        """Return its value in a request.

        :raises ValueError: when it is missing or does not validate.
        """
        value: Any = (given.getlist(name) or None) if self.is_list else given.get(name)
        if value is not None:
            return self.model.validate_python(value)
        if self.default is REQUIRED:
            raise ValueError(f"{name} is missing")
        return self.default


@dataclass(frozen=True, slots=True)
class QueryModel:
    """A model of query parameters, none of which is a list or has another name outside."""

    model: type[pydantic.BaseModel]

    def read(self, _: str, given: QueryParams) -> Any:
        """Return the model of what is given; see :meth:`Query.read`."""
        return self.model.model_validate(dict(given))


@dataclass(frozen=True, slots=True)
class Call:
    """A function with where each of its arguments comes from.

    :param path: path parameters, each with what validates it, or None for text as it is.
    :param tokens: the arguments that are the verified token; its guard has let it pass before.
    :param calls: other dependencies, whose results are arguments.
    :param queries: query parameters.
    :param unasked: what these are without a query; None when one of them must be given.
    :param guards: what it, and its dependencies, require of the token.
    :param body: the argument that the JSON body becomes, with what validates it.
    """

    function: Callable[..., Awaitable[Any]]
    path: Mapping[str, TypeAdapter[Any] | None]
    tokens: Sequence[str]
    calls: Mapping[str, Call]
    queries: Mapping[str, Query | QueryModel]
    unasked: Mapping[str, Any] | None
    guards: Sequence[Guard]
    body: tuple[str, TypeAdapter[Any]] | None
    takes_request: bool
    takes_response: bool

    async def arguments(self, request: Request, body: bytes) -> dict[str, Any]:
        """Return the arguments for a request.

        :raises RefusedRequest: when a dependency refuses it.
        :raises ValueError: when something does not validate; ``ValidationError`` is one.
        """
        found: dict[str, Any] = {}
        scope = request.scope
        given = scope["path_params"]
        for name, model in self.path.items():
            found[name] = given[name] if model is None else model.validate_python(given[name])
        for name in self.tokens:
            found[name] = scope["token"]
        for name, call in self.calls.items():
            found[name] = await call.function(**await call.arguments(request, body))
        if self.unasked is not None and not scope["query_string"]:
            found.update(self.unasked)
        elif self.queries:
            query = request.query_params
            for name, parameter in self.queries.items():
                found[name] = parameter.read(name, query)
        if self.body is not None:
            name, model = self.body
            if len(body) > QUICK:
                found[name] = await asyncio.to_thread(_decoded, model, body)
            else:
                found[name] = _decoded(model, body)
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
    :param guards: what must accept the request's token before anything else is looked at.
    :param handler: what answers it.
    :param largest: bytes that its body may have; 0 when it takes none.
    :param values: JSON values that its body may have.
    """

    name: str
    pattern: re.Pattern[str]
    guards: Sequence[Guard]
    handler: Call
    largest: int
    values: int


class Dispatcher:
    """Calls the handlers of one API date.

    :param app: FastAPI's application of that date, for what is wrong with a request, and what is no operation.
    :param refusal: answers the errors by which a request is refused.
    :param bodies: what this process holds of bodies.
    :param largest: bytes that a body may have that is stored as it comes; one with users' data that is decoded here has a
        :data:`DECODED_SHARE` of it at most, another :data:`SMALL_BODY`.
    """

    def __init__(
        self,
        app: ASGIApp,
        refusal: Callable[[Request, Exception], Awaitable[Response]],
        *,
        bodies: Bodies,
        largest: int,
    ) -> None:
        self.app = app
        self._refusal = refusal
        self._bodies = bodies
        self._largest = largest
        self._operations: dict[tuple[str, str], list[Operation]] = {}

    def add(
        self,
        path: str,
        methods: Sequence[str],
        endpoint: Callable[..., Awaitable[Response]],
        dependencies: Sequence[params.Depends],
        *,
        guard: Guard | None = None,
        stores_body: bool = False,
    ) -> None:
        """Take a route; they come in FastAPI's order.

        :param guard: what must let a request pass once its token did.
        :param stores_body: whether the handler reads the body itself and passes it on undecoded.
        """
        pattern, template, names = compile_path(path)
        handler = _call(endpoint, names)
        required = [each.dependency for each in dependencies if each.dependency is not None]
        assert REQUIREMENTS.keys() >= set(required), "what is required of every request is a token"
        guards = tuple(dict.fromkeys((*required, *handler.guards)))
        if guard is not None:
            guards += (guard,)
        largest = 0
        if handler.body is not None:
            largest = self._largest // DECODED_SHARE if LARGE_BODIES.search(path) else min(SMALL_BODY, self._largest)
        if stores_body:
            largest = self._largest
        values = STORED_VALUES if stores_body else DECODED_VALUES
        operation = Operation(MOUNT_POINT + template, pattern, guards, handler, largest, values)
        for method in methods:
            self._operations.setdefault((method, _first(path)), []).append(operation)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation, path_params = self.find(scope)
        if operation is None:
            return await self.app(scope, receive, send)
        scope.update(path_params=path_params, app=self.app, operation=operation.name)
        body = Body(self._bodies, receive, largest=operation.largest, values=operation.values)
        request = Request(scope, body.again)
        try:
            for guard in operation.guards:
                await guard(request)
            _refuse_nul(scope)
            content = await body.read(scope) if operation.largest else b""
            if operation.largest and not body.is_whole:
                return None  # nobody is left to be answered
            if operation.handler.body is None or (header(scope, b"content-type") or JSON).partition(b";")[0] == JSON:
                response = await self._called(operation.handler, request, content)
            else:
                response = None
        except REFUSALS as error:
            response = await self._refusal(request, error)
        finally:
            body.let_go()
        await (self.app if response is None else response)(scope, body.again, send)

    async def _called(self, handler: Call, request: Request, content: bytes) -> Response | None:
        """Return what the handler answers, or None when something does not validate and FastAPI shall say what."""
        try:
            arguments = await handler.arguments(request, content)
        except ValidationError as error:
            if error.error_count() <= MANY_PROBLEMS:
                return None
            problem = invalid_value(f"{error.error_count()} values are not what this operation takes", "body")
            raise RefusedRequest(HTTPStatus.UNPROCESSABLE_ENTITY, problem) from error
        except (ValueError, RecursionError):
            return None
        response: Response = await handler.function(**arguments)
        return response

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


def _decoded(model: TypeAdapter[Any], body: bytes) -> Any:
    is_plain = body.isascii() and b"\0" not in body  # else the encoding may be one of five, which takes longer to find out
    return model.validate_python(json.loads(body.decode("ascii") if is_plain else body))


def _refuse_nul(scope: Scope) -> None:
    """Refuse what no text of PostgreSQL's can hold.

    :raises RefusedRequest: 422.
    """
    query = scope["query_string"]
    if "\0" in scope["path"] or b"%00" in query or b"\0" in query:
        detail = invalid_value("must not contain NUL (%00)", "path" if "\0" in scope["path"] else "query")
        raise RefusedRequest(HTTPStatus.UNPROCESSABLE_ENTITY, detail)


def _call(function: Callable[..., Awaitable[Any]], in_path: Mapping[str, Any]) -> Call:
    """Take a handler or a dependency apart, as FastAPI does.

    :param in_path: the names of the path's parameters.
    """
    path: dict[str, TypeAdapter[Any] | None] = {}
    tokens: list[str] = []
    calls: dict[str, Call] = {}
    guards: list[Guard] = []
    queries: dict[str, Query | QueryModel] = {}
    body: tuple[str, TypeAdapter[Any]] | None = None
    parameters = inspect.signature(function, eval_str=True).parameters
    for name, parameter in parameters.items():
        annotation, default = parameter.annotation, parameter.default
        marks = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
        depends = next((mark for mark in marks if isinstance(mark, params.Depends)), None)
        in_query = any(isinstance(mark, params.Query) for mark in marks)
        if annotation in (Request, Response):
            continue
        if depends is not None and depends.dependency is not None:
            if depends.dependency in REQUIREMENTS:
                tokens.append(name)
                guards.append(depends.dependency)
            else:
                calls[name] = _call(depends.dependency, in_path)
                guards += calls[name].guards
        elif name in in_path:
            path[name] = None if annotation is str else TypeAdapter(annotation)
        elif not in_query and (_is_model(annotation) or any(isinstance(mark, params.Body) for mark in marks)):
            assert body is None, "a body is one argument"
            body = (name, TypeAdapter(annotation))
        else:
            queries[name] = _query(annotation, default)
    return Call(
        function,
        path,
        tokens,
        calls,
        queries,
        _unasked(queries),
        guards,
        body,
        takes_request="request" in parameters,
        takes_response="response" in parameters,
    )


def _unasked(queries: Mapping[str, Query | QueryModel]) -> Mapping[str, Any] | None:
    try:
        return {name: parameter.read(name, QueryParams()) for name, parameter in queries.items()}
    except ValueError:
        return None


def _query(annotation: Any, default: Any) -> Query | QueryModel:
    plain = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if _is_model(plain):
        fields: Mapping[str, Any] = plain.model_fields
        assert not any(field.alias or _is_list(field.annotation) for field in fields.values()), (
            "FastAPI reads these otherwise"
        )
        return QueryModel(plain)
    return Query(TypeAdapter(annotation), _is_list(plain), default)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)


def _is_list(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return any(_is_list(choice) for choice in get_args(annotation))
    return origin is list or annotation is list
