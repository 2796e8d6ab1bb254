"""Heartbeats: one statement, guarded by its own WHERE, for one task instance or for many at once."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ARRAY, DateTime, Integer, Text, Uuid, bindparam, func, literal, or_, select, true, update

from app.db.session import Session
from app.db.tables import task_instance
from app.server import metrics

Process = tuple[uuid.UUID, str, int]  # a task instance, with host and process id of who says to run it
_HEARTBEAT = (
    update(task_instance)
    .where(
        task_instance.c.id == bindparam("pk"),
        task_instance.c.state == "running",
        task_instance.c.hostname == bindparam("on_host"),
        task_instance.c.pid == bindparam("by_process"),
    )
    .values(last_heartbeat_at=bindparam("now"), updated_at=bindparam("now"))
    .returning(literal(1))
)


_PROCESSES = (
    func.unnest(
        bindparam("pks", type_=ARRAY(Uuid)), bindparam("hosts", type_=ARRAY(Text)), bindparam("pids", type_=ARRAY(Integer))
    )
    .table_valued("pk", "host", "process")
    .render_derived(name="processes")
)
_RUNS_IT = (
    task_instance.c.state == "running",
    task_instance.c.hostname == _PROCESSES.c.host,
    task_instance.c.pid == _PROCESSES.c.process,
)
_BEAT = (
    select(task_instance.c.id)
    .join(_PROCESSES, task_instance.c.id == _PROCESSES.c.pk)
    .where(*_RUNS_IT)
    .order_by(task_instance.c.id)
    .with_for_update(key_share=True, skip_locked=True, of=task_instance)
)
_WRITE = update(task_instance).values(last_heartbeat_at=bindparam("now"), updated_at=bindparam("now"))
_BEATING = _BEAT.cte("beating")
_HEARTBEATS = _WRITE.where(task_instance.c.id == _BEATING.c.id).returning(
    task_instance.c.id, task_instance.c.hostname, task_instance.c.pid
)


_is_due = func.coalesce(task_instance.c.last_heartbeat_at <= bindparam("due", type_=DateTime(timezone=True)), true())
_VERIFIED = (
    select(task_instance.c.id, task_instance.c.hostname, task_instance.c.pid, _is_due.label("is_due"))
    .join(_PROCESSES, task_instance.c.id == _PROCESSES.c.pk)
    .where(*_RUNS_IT)
    .cte("verified")
)
_DUE = _BEAT.where(task_instance.c.id.in_(select(_VERIFIED.c.id).where(_VERIFIED.c.is_due)), _is_due).cte("due")
_WRITTEN = _WRITE.where(task_instance.c.id == _DUE.c.id).returning(task_instance.c.id).cte("written")
_SPARING = select(_VERIFIED).where(or_(~_VERIFIED.c.is_due, _VERIFIED.c.id.in_(select(_WRITTEN.c.id))))


async def verify(session: Session, *, processes: Sequence[Process], now: datetime, interval: timedelta) -> set[Process]:
    """Verify heartbeats as :func:`record` does, and record those whose last one is as old as ``interval``; one statement.

    :returns: those of the processes that run their task instance, and were recorded if they were due.
    """
    parameters = {**_arrays(processes), "now": now, "due": now - interval}
    rows = (await session.execute(_SPARING, parameters)).all()
    metrics.NOT_WRITTEN.inc(sum(not row.is_due for row in rows))
    return {(row.id, row.hostname, row.pid) for row in rows}


async def record(session: Session, *, processes: Sequence[Process], now: datetime) -> set[Process]:
    """Record heartbeats of task instances that these very processes run; one statement, guarded by its own WHERE.

    One alone needs no more than its row: in the form for many it would cost PostgreSQL twice as much.

    :returns: those of the processes that were recorded; of several, those whose row somebody holds are passed over.
    :raises LockTimeout: when somebody holds the row of the only one.
    """
    if len(processes) == 1:
        ((pk, host, pid),) = processes
        found = await session.scalar(_HEARTBEAT, {"pk": pk, "on_host": host, "by_process": pid, "now": now})
        return set(processes) if found is not None else set()
    rows = await session.execute(_HEARTBEATS, {**_arrays(processes), "now": now})
    return {tuple(row) for row in rows}


def _arrays(processes: Sequence[Process]) -> dict[str, list[Any]]:
    pks, hosts, pids = (list(column) for column in zip(*processes, strict=True))
    return {"pks": pks, "hosts": hosts, "pids": pids}
