"""Which XComs a task sees, and to which task instance what it pushes belongs: simple, until loops repeat tasks.

What a task in a loop asks of another one in it is of the pass that it is in itself, or of the one before. A task outside of
the loop sees all passes, one after the other.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from app.db.session import Session
from app.db.xcoms import Pass, Seen, Values, XComKey
from app.tasks.service import Service
from app.tasks.transitions import NOT_FOUND, Refuse

ARCHIVED = Refuse(
    410, {"reason": "not_found", "message": "Task Instance not found in the working set; its attempt has been archived"}
)
NEEDS_SCOPE = Refuse(400, "A loop producer requires an explicit scope or a consumer inside the loop")
NOT_SHARED = Refuse(400, "Previous-iteration lookup requires a shared loop scope")
T = TypeVar("T")
NO_PRIOR = Refuse(400, "Prior-date lookups are not supported for tasks inside a loop")


@dataclass(frozen=True, slots=True)
class Question:
    """What a task asks of XComs.

    :param asker: its task instance.
    :param map_index: None: a sequence of them, or one by its place in it.
    :param is_prior: whether it asks for prior dates too.
    :param is_previous: whether it asks for the pass of the loop before its own.
    :param tells_archived: whether a try that ended is told so, and not that it does not exist.
    """

    key: XComKey
    asker: uuid.UUID
    map_index: int | None = None
    is_prior: bool = False
    is_previous: bool = False
    tells_archived: bool = True


async def read(service: Service, question: Question, ask: Callable[[Session, Values], Awaitable[T]]) -> T | Refuse:
    """Return what is found where it is without loops; and what there is in a loop only if that is nothing.

    :param ask: reads from values; nothing is what is false.
    """
    key, xcoms = question.key, service.storage.xcoms
    if question.is_previous and question.is_prior:
        return Refuse(400, "previous_iteration cannot be combined with prior dates")
    async with service.database.autocommit() as session:
        if not question.is_previous and (found := await ask(session, xcoms)):
            return found
        index = -1 if question.map_index is None else question.map_index
        seen = await xcoms.seen(session, key=key, map_index=index, asker=question.asker)
        if seen is None:
            return await ask(session, xcoms) if question.is_previous else found
        if seen.is_same and not seen.is_live and question.map_index is not None and not question.is_prior:
            return ARCHIVED if question.tells_archived else NOT_FOUND
        if seen.loop is None:
            return NOT_SHARED if question.is_previous else found
        values = await _values(session, service, question, seen.loop, seen)
        return values if isinstance(values, Refuse) else await ask(session, values)


async def _values(session: Session, service: Service, question: Question, loop: uuid.UUID, seen: Seen) -> Values | Refuse:
    """Return the values that who asks sees of a task that a loop repeats."""
    xcoms = service.storage.xcoms
    if question.is_prior:
        return NO_PRIOR
    if seen.own is not None and seen.own.family == loop and seen.is_live:
        at = seen.own._replace(number=seen.own.number - question.is_previous)
        return await _ambiguous(session, service, question.key, at) or xcoms.within(at)
    if question.map_index is not None:
        return NEEDS_SCOPE
    return NOT_SHARED if question.is_previous else await xcoms.along(session, key=question.key, family=loop)


async def push(
    session: Session, service: Service, *, key: XComKey, map_index: int, asker: uuid.UUID, **pushed: Any
) -> Refuse | None:
    """Set a value; see :meth:`~app.db.xcoms.XComs.put`."""
    xcoms = service.storage.xcoms
    of: dict[str, Any] = {"key": key, "map_index": map_index, "asker": asker}
    if await xcoms.put(session, **of, **pushed):
        return None
    within = await _own_pass(session, service, **of)
    if isinstance(within, Refuse):
        return within
    if within is not None and await xcoms.put(session, **of, within=within, **pushed):
        return None
    if service.revision.xcoms.of_tries:
        message = f"Task Instance {key.task_id!r} not found in {key.run_id!r}"
        return Refuse(404, {"reason": "not_found", "message": message})
    return Refuse(404, f"DAG run not found on DAG {key.dag_id!r} with ID {key.run_id!r}")


async def remove(session: Session, service: Service, *, key: XComKey, map_index: int, asker: uuid.UUID) -> Refuse | None:
    """Delete a value, if there is one."""
    xcoms = service.storage.xcoms
    of: dict[str, Any] = {"key": key, "map_index": map_index, "asker": asker}
    if await xcoms.remove(session, **of):
        return None
    within = await _own_pass(session, service, **of)
    if isinstance(within, Refuse):
        return within
    if within is not None:
        await xcoms.remove(session, **of, within=within)
    return None


async def _own_pass(
    session: Session, service: Service, *, key: XComKey, map_index: int, asker: uuid.UUID
) -> Pass | Refuse | None:
    """Return in which pass the task instance is to which a task in a loop writes; None: there is none at all.

    For who found none where they are without loops.
    """
    seen = await service.storage.xcoms.seen(session, key=key, map_index=map_index, asker=asker)
    if seen is None or seen.loop is None:
        return None
    if seen.own is None or seen.own.family != seen.loop:
        return NEEDS_SCOPE
    return await _ambiguous(session, service, key, seen.own) or seen.own


async def _ambiguous(session: Session, service: Service, key: XComKey, at: Pass) -> Refuse | None:
    """Refuse what several task instances could be meant by: one that is being stopped, and the one in its place."""
    index = await service.storage.xcoms.ambiguous(session, key=key, at=at)
    if index is None:
        return None
    return Refuse(409, f"Multiple live producers for {key.dag_id}/{key.run_id}/{key.task_id} index {index}")
