"""Tries as Airflow 3.4 keeps them: each a row of ``task_instance``."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import (
    CTE,
    Column,
    ColumnElement,
    DateTime,
    Insert,
    Select,
    String,
    Update,
    Uuid,
    bindparam,
    case,
    exists,
    extract,
    func,
    insert,
    null,
    select,
    true,
    update,
)

from app.db.recording import Along, Part
from app.db.schema import Schema, known, writes
from app.db.session import Session
from app.db.tables import AnyRow
from app.db.tries import ENDED, NOTHING, Changes, Tries
from app.db.uuids import uuid7

ARCHIVED = {"state": "failed", "working_set": None, "archived_reason": "retry", "trigger_id": None}
FRESH: dict[str, ColumnElement[Any]] = {"working_set": true(), "archived_reason": null(), "external_executor_id": null()}


class ArchivedTries(Tries):
    """A try that ended keeps its row, out of the working set; its successor is inserted beside it.

    What refers to a try (its XComs, rendered fields, reschedules, what was asked of a person) stays with it; a note goes on.
    A row is written once in a transaction: another update of it would check its foreign keys again, and lock for that.
    """

    keep_end_dates = True
    counts_ahead = True

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._table = row = schema.task_instance
        self.live = row.c.working_set.is_(True)
        self._ending: dict[tuple[frozenset[str], frozenset[str]], Part] = {}
        self._succeeding: dict[frozenset[str], Insert] = {}
        self._going_on: dict[frozenset[str], Update] = {}
        is_archived = (row.c.id == bindparam("pk")) & row.c.working_set.is_(None)
        self._is_archived = select(exists().where(is_archived))
        now = bindparam("now", type_=DateTime(timezone=True))
        has_ended = func.coalesce(row.c.state.in_(ENDED), False)
        ends_now = ~has_ended & row.c.end_date.is_(None)
        self._archive_run = (
            update(row)
            .where(row.c.dag_id == bindparam("of_dag"), row.c.run_id == bindparam("of_run"), self.live)
            .where(row.c.state.is_not(None), row.c.state.not_in(["up_for_retry", "running", "restarting"]))
            .values(
                **{name: value for name, value in ARCHIVED.items() if name != "state"},
                state=case((has_ended, row.c.state), else_="failed"),
                end_date=case((ends_now, now), else_=row.c.end_date),
                duration=case((ends_now, extract("epoch", now - row.c.start_date)), else_=row.c.duration),
                updated_at=now,
            )
            .returning(row.c.id)
        )
        texts = [Column(name, String) for name in ("user_id", "content")]
        moments = [Column(name, DateTime(timezone=True)) for name in ("created_at", "updated_at")]
        self._note = schema.table("task_instance_note", Column("ti_id", Uuid, primary_key=True), *texts, *moments)
        self._keep_note = self._keeping(self._kept_note(bindparam("new_id", type_=Uuid)))

    def _kept_note(self, pk: ColumnElement[Any]) -> Select[Any]:
        """Select the note of a try as that of another one."""
        further = (column for column in self._note.c if column.name != "ti_id")
        return select(pk, *further).where(self._note.c.ti_id == bindparam("pk"))

    def _keeping(self, note: Select[Any]) -> Insert:
        return insert(self._note).from_select([column.name for column in self._note.c], note)

    async def is_archived(self, session: Session, *, ti_id: uuid.UUID) -> bool:
        return bool(await session.scalar(self._is_archived, {"pk": ti_id}))

    def next_begun(
        self, *, row: AnyRow, values: Mapping[str, Any], begun: Mapping[str, Any] = NOTHING, now: datetime
    ) -> tuple[Mapping[str, Any], Along]:
        ended = {name: value for name, value in known(self._table, values).items() if name != "state"}
        further = {"state": values["state"], **known(self._table, begun), "id": uuid7()}
        kind = frozenset(ended), frozenset(further)
        if kind not in self._ending:
            self._ending[kind] = self._ended(*kind)
        return {**ended, **ARCHIVED}, Along(self._ending[kind], {f"next_{name}": further[name] for name in further})

    async def end_all(self, session: Session, *, dag_id: str, run_id: str, now: datetime) -> set[uuid.UUID]:
        return set(await session.scalars(self._archive_run, {"of_dag": dag_id, "of_run": run_id, "now": now}))

    async def begin_all(self, session: Session, *, changes: Changes) -> None:
        alike: dict[frozenset[str], list[dict[str, Any]]] = {}
        for pk, values in changes:
            of_release = known(self._table, values)
            alike.setdefault(frozenset(of_release), []).append(writes(pk, of_release))
        for names, rows in alike.items():  # of those that were not ended, which go on as they are
            if names not in self._going_on:
                self._going_on[names] = self._schema.setting(names).where(self.live)
            await session.execute(self._going_on[names], rows)
        await self._succeed(session, changes)

    async def _succeed(self, session: Session, changes: Changes) -> None:
        """Insert the next tries of those that are archived, each with its own columns; notes are kept."""
        alike: dict[frozenset[str], list[dict[str, Any]]] = {}
        for pk, values in changes:
            begun = {**known(self._table, values), "id": uuid7()}
            alike.setdefault(frozenset(begun), []).append(writes(pk, begun))
        for names, rows in alike.items():
            await session.execute(self._successor(names), rows)
            await session.execute(self._keep_note, [{"pk": each["pk"], "new_id": each["new_id"]} for each in rows])

    def _ended(self, ended: Collection[str], further: Collection[str]) -> Part:
        """Return what inserts the successor of a try that is archived by the same statement, and keeps its note.

        :param ended: the columns that were reported of the try, which the successor has too.
        :param further: those in which it differs.
        """
        row = self._table
        fresh: dict[str, ColumnElement[Any]] = {
            **self._schema.bound(ended),
            **FRESH,
            "trigger_id": null(),
            "try_number": row.c.try_number + 1,
            **{name: bindparam(f"next_{name}", type_=row.c[name].type) for name in further},
        }
        columns = [column.key for column in row.c]

        def writes(changed: CTE) -> list[CTE]:
            has_changed = exists(select(changed.c.id))
            copied = select(*(fresh.get(name, row.c[name]) for name in columns)).where(
                row.c.id == bindparam("pk"), has_changed
            )
            note = self._kept_note(fresh["id"]).where(has_changed)
            return [insert(row).from_select(columns, copied).cte("begun"), self._keeping(note).cte("kept")]

        return Part(writes)

    def _successor(self, names: frozenset[str]) -> Insert:
        """Return the statement that inserts the next try of an archived one, in which these columns differ."""
        if names not in self._succeeding:
            row = self._table
            fresh: dict[str, ColumnElement[Any]] = {
                **FRESH,
                "try_number": row.c.try_number + 1,
                **self._schema.bound(names),
            }
            columns = [column.key for column in row.c]
            copied = select(*(fresh.get(name, row.c[name]) for name in columns))
            archived = copied.where(row.c.id == bindparam("pk"), row.c.working_set.is_(None))
            self._succeeding[names] = insert(row).from_select(columns, archived)
        return self._succeeding[names]
