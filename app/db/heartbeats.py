"""Heartbeats: one statement, guarded by its own WHERE, for one task instance or for many at once."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ARRAY, Integer, Text, Uuid, bindparam, func, literal, select, update

from app.db.session import Session
from app.db.tables import task_instance

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
_BEATING = (
    select(task_instance.c.id)
    .join(_PROCESSES, task_instance.c.id == _PROCESSES.c.pk)
    .where(
        task_instance.c.state == "running",
        task_instance.c.hostname == _PROCESSES.c.host,
        task_instance.c.pid == _PROCESSES.c.process,
    )
    .order_by(task_instance.c.id)
    .with_for_update(key_share=True, skip_locked=True, of=task_instance)
    .cte("beating")
)
_HEARTBEATS = (
    update(task_instance)
    .where(task_instance.c.id == _BEATING.c.id)
    .values(last_heartbeat_at=bindparam("now"), updated_at=bindparam("now"))
    .returning(task_instance.c.id, task_instance.c.hostname, task_instance.c.pid)
)


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
    pks, hosts, pids = (list(column) for column in zip(*processes, strict=True))
    rows = await session.execute(_HEARTBEATS, {"pks": pks, "hosts": hosts, "pids": pids, "now": now})
    return {tuple(row) for row in rows}
