"""What a change between two API dates can say, and how models follow it."""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic
from starlette.requests import Request

from app.schemas.base import newer, without_newer

Downgrade = Callable[[dict[str, Any]], None]
Guard = Callable[[Request], Awaitable[Any]]
NEVER = "9999-12-31"  # after the date of every server


@dataclass(frozen=True, slots=True)
class Change:
    """One change that an API date brought.

    :param description: what it brought, for people.
    :param added_fields: by model, the fields that did not exist before it.
    :param changed_fields: by model, the types that fields had before it.
    :param removed_fields: by model, the fields that existed only before it, with their types.
    :param idle_fields: by model, those of the added fields that say nothing to a server without the change, whatever their
        value: it takes the report without them. Of the others that is so of null alone.
    :param added_operations: names of the operations that did not exist before it.
    :param moved_operations: by operation name, the path below its router's prefix, and the name, that it had before.
    :param added_parameters: by operation name, the query parameters that did not exist before it.
    :param changed_parameters: by operation name, the types that parameters had before it.
    :param added_refusals: by operation name, the statuses that were not documented before it.
    :param guards: by operation name, what must let a request pass since it, once its token did.
    :param downgrades: by operation name, what turns an answer's body into what it was before.
    :param by_date_since: the server, by its newest API date, from which on the date that a client asks for decides whether
        it sees the change. An older server shows it to every date, or, if it is older than the change, to none. "" for all
        servers, :data:`NEVER` for a change that came with the server of its date, whatever a client asks for.
    """

    description: str
    added_fields: Mapping[type[pydantic.BaseModel], tuple[str, ...]] = field(default_factory=dict)
    changed_fields: Mapping[type[pydantic.BaseModel], Mapping[str, Any]] = field(default_factory=dict)
    removed_fields: Mapping[type[pydantic.BaseModel], Mapping[str, Any]] = field(default_factory=dict)
    idle_fields: Mapping[type[pydantic.BaseModel], tuple[str, ...]] = field(default_factory=dict)
    added_operations: frozenset[str] = frozenset()
    moved_operations: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    added_parameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    changed_parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    added_refusals: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    guards: Mapping[str, Guard] = field(default_factory=dict)
    downgrades: Mapping[str, Downgrade] = field(default_factory=dict)
    by_date_since: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """An API date and what it changed.

    :param date: ISO, as in the ``Airflow-API-Version`` header.
    :param changes: what came with it; each says whether the date or the server decides who sees it.
    """

    date: str
    changes: tuple[Change, ...]


def undone(versions: Iterable[Version], date: str, *, server: str) -> Iterator[Change]:
    """Yield the changes that a date does not have, newest first.

    The released documents show which changes follow the date, and from which server on.

    :param date: the API date that is served.
    :param server: the newest date that Airflow's own server of this metadata revision serves.
    """
    for version in versions:
        for change in version.changes:
            decides = date if change.by_date_since <= server else server
            if decides < version.date:
                yield change


def without(*names: str) -> Downgrade:
    """Return what removes fields from a body."""

    def downgrade(body: dict[str, Any]) -> None:
        for name in names:
            body.pop(name, None)

    return downgrade


def context_without(*names: str) -> Downgrade:
    """Return what removes fields from the Dag run of a run context."""

    def downgrade(context: dict[str, Any]) -> None:
        without(*names)(context["dag_run"])

    return downgrade


class OlderModels:
    """The models as they were before some changes.

    :param changes: the changes to undo.
    """

    def __init__(self, changes: tuple[Change, ...]) -> None:
        self._missing: dict[type[pydantic.BaseModel], set[str]] = {}
        self._idle: dict[type[pydantic.BaseModel], set[str]] = {}
        self._types: dict[type[pydantic.BaseModel], dict[str, Any]] = {}
        self._extra: dict[type[pydantic.BaseModel], dict[str, Any]] = {}
        for change in changes:
            for model, names in change.added_fields.items():
                self._missing.setdefault(model, set()).update(names)
            for model, names in change.idle_fields.items():
                self._idle.setdefault(model, set()).update(names)
            for model, types_before in change.changed_fields.items():
                self._types.setdefault(model, {}).update(types_before)
            for model, fields_before in change.removed_fields.items():
                self._extra.setdefault(model, {}).update(fields_before)
        self._older: dict[type[pydantic.BaseModel], type[pydantic.BaseModel]] = {}
        self._newest: dict[type[pydantic.BaseModel], type[pydantic.BaseModel]] = {}

    def annotation(self, annotation: Any) -> Any:
        """Return a type annotation with every model in it as it was."""
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            return self._model(annotation)
        origin, arguments = get_origin(annotation), get_args(annotation)
        if not arguments:
            return annotation
        if origin is Annotated:
            return Annotated[(self.annotation(arguments[0]), *arguments[1:])]
        older = tuple(self.annotation(argument) for argument in arguments)
        if older == arguments:
            return annotation
        if origin is Union or origin is types.UnionType:
            return functools.reduce(operator.or_, older)
        return origin[older]

    def upgrade(self, value: Any) -> Any:
        """Return a request's model instance as one of the newest model; fields that did not exist are unset."""
        newest = self._newest.get(type(value))
        if newest is None:
            return value
        return newest.model_construct(_fields_set=value.model_fields_set, **value.__dict__)

    def _model(self, model: type[pydantic.BaseModel]) -> type[pydantic.BaseModel]:
        if model not in self._older:
            fields: dict[str, Any] = {}
            for name, info in model.model_fields.items():
                if name not in self._missing.get(model, ()):
                    older = self._types.get(model, {}).get(name) or self.annotation(info.annotation)
                    if older is not info.annotation:
                        info = copy(info)
                        info.annotation = older
                    fields[name] = (older, info)
            fields |= {name: (older, ...) for name, older in self._extra.get(model, {}).items()}
            self._older[model] = model if self._is_same(model, fields) else self._create(model, fields)
        return self._older[model]

    def _create(self, model: type[pydantic.BaseModel], fields: dict[str, Any]) -> type[pydantic.BaseModel]:
        idle = self._idle.get(model, ())
        unknown = {name: name in idle for name in self._missing.get(model, ())}
        validators = {"_newer": without_newer(**unknown) if fields else newer()} if unknown else {}
        older: type[pydantic.BaseModel] = pydantic.create_model(
            model.__name__,
            __config__=model.model_config,
            __doc__=model.__doc__,
            __module__=model.__module__,
            __validators__=validators,
            **fields,
        )
        self._newest[older] = model
        return older

    @staticmethod
    def _is_same(model: type[pydantic.BaseModel], fields: dict[str, Any]) -> bool:
        return fields.keys() == model.model_fields.keys() and all(
            info is model.model_fields[name] for name, (_, info) in fields.items()
        )
