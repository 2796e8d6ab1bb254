"""What a rehearsal does with each Dag: a run of it, from its trigger through all that tasks report to its clearing.

A worker's part is asked of the application that serves, as workers ask it. The scheduler's part, which is to queue tasks, is
one statement on the stage.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from app.commands.asking import Asking, Unserved, quoted
from app.dags import partitions, serialized_dag, timetables
from app.dags.partitions import PartitionedSchedule
from app.db import dag_runs, dags, samples
from app.db.direct import DirectSession
from app.db.stage import Stage
from app.db.tables import AnyRow
from app.errors import FOREIGN, UnknownInDag
from app.tasks import deadlines, threads
from app.tasks.carriers import Carriers
from app.tasks.deadlines import UnusableVariable
from app.tasks.service import Service
from app.tasks.triggering import new_tasks

HOST, PID = "rehearsal", 1
MOST_TASKS = 10_000  # of a run
PARTITION_KEY = "2026-01-01"  # that mappers are asked about; one that they do not take is an answer too
Data = Mapping[str, Any]


@dataclass(slots=True)
class Life:
    """What became of one Dag.

    :param tasks: how many of its task instances were run to an end.
    :param faults: what could not be served, as (operation, why).
    :param refused: why no task can trigger it as it is, here as on Airflow's own server; empty when one can.
    """

    dag_id: str
    tasks: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)
    refused: str = ""


async def live(stage: Stage, service: Service, asking: Asking, dag_id: str) -> Life:
    """Live a run of a Dag on a stage, and leave nothing of it.

    :raises RetryableDatabaseError: when the database cannot do it now.
    """
    life = Life(dag_id)
    async with stage.scene() as session:
        version = await dags.newest_version(session, dag_id=dag_id)
        if version is None:
            life.refused = "it was never serialized"
            return life
        life.faults += _unknown(version[1], service)
        try:
            await deadlines.planned(service, session, run=_promised(dag_id, version[0]), now=datetime.now(UTC))
        except UnusableVariable:  # whose value is nobody's to know
            life.refused = "the variable of a deadline is not there, or is no number"
        except UnknownInDag as error:
            life.faults.append(("a trigger", str(error)))
        if not (life.faults or life.refused):  # what else fails would follow from it
            try:
                await _Run(session, service, asking, life, version).live()
            except Unserved as unserved:
                life.faults.append((unserved.operation, unserved.reason))
    return life


def _promised(dag_id: str, version: uuid.UUID) -> dict[str, Any]:
    """Return the columns of a run from which its deadlines are reckoned."""
    named = {"dag_id": dag_id, "run_id": "rehearsal", "created_dag_version_id": version}
    return {**named, "logical_date": None, "queued_at": datetime.now(UTC)}


def _unknown(data: Data, service: Service) -> Iterator[tuple[str, str]]:
    """Yield what a Dag's serialized form names that cannot be told or asked here, and where it cannot be read."""
    trusted, now = service.settings.trusted_classes, datetime.now(UTC)

    def ask_mappers() -> None:
        timetable = data["dag"]["timetable"]
        if "partition_mapper_config" in timetable["__var"]:
            for mapper in PartitionedSchedule(timetable, trusted=trusted).fingerprint.values():
                partitions.downstream(mapper, PARTITION_KEY, trusted)

    questions = {
        "a trigger": lambda: serialized_dag.planned_tasks(data, None),
        "a trigger with a logical date": lambda: timetables.manual_interval(data["dag"]["timetable"], now, trusted=trusted),
        "an event of a partition": ask_mappers,
    }
    for operation, ask in questions.items():
        try:
            ask()
        except UnknownInDag as error:
            yield operation, str(error)
        except (KeyError, TypeError, AttributeError) as error:
            yield operation, f"the serialized form cannot be read: {type(error).__name__}"
        except FOREIGN:  # a mapper's own: it was asked, and does not take the key
            continue


class _Run:
    """A run of a Dag on a stage, and who takes part in it.

    :param version: the id and the whole of the Dag's newest serialized form.
    """

    def __init__(
        self, session: DirectSession, service: Service, asking: Asking, life: Life, version: tuple[uuid.UUID, Data]
    ) -> None:
        self._session, self._service, self._asking, self._life = session, service, asking, life
        self._version, self._data = version
        self._dag_id = life.dag_id
        self._run_id = f"manual__{datetime.now(UTC).replace(microsecond=0).isoformat()}"
        self._path = f"/dag-runs/{quoted(self._dag_id)}/{quoted(self._run_id)}"

    async def live(self) -> None:
        """Trigger the run, run all its tasks, the first of them through every state that a worker reports, and clear it.

        :raises Unserved: when something cannot be served; the rest is left out.
        """
        dag_id, run_id, tasks = self._dag_id, self._run_id, self._data["dag"]["tasks"]
        is_refused = await self._trigger()
        storage = self._service.storage
        await samples.queue(self._session, storage, dag_id=dag_id, run_id=run_id)
        outlets = {task["__var"]["task_id"]: serialized_dag.outlets_of(task["__var"]) for task in tasks}
        rows = await samples.tasks(self._session, storage, dag_id=dag_id, run_id=run_id, most=MOST_TASKS)
        for number, row in enumerate(rows):
            ti_id = row.id
            await self._start(ti_id)
            if number == 0:
                ti_id = await self._through_every_state(row)
            await self._report(ti_id, "success", end_date=_now(), task_outlets=outlets[row.task_id])
            self._life.tasks += 1
        await self._asking.require("GET", self._path)
        if not is_refused:
            await self._asking.require("POST", f"{self._path}/clear")

    async def _trigger(self) -> bool:
        """Trigger the run; make it as the scheduler does where no task can, and say whether it is so."""
        answer = await self._asking.ask("POST", self._path, json={})
        if not answer.is_error:
            return False
        detail = answer.json()["detail"]
        reason, message = (detail.get("reason"), detail.get("message")) if isinstance(detail, dict) else ("", detail)
        needs_conf = message == await threads.invalid_param(self._data["dag"].get("params") or (), {})
        if reason not in ("import_errors", "denied_run_type") and not needs_conf:
            raise Unserved("a trigger", f"{answer.status_code} {message}")
        self._life.refused = "its params need a conf" if needs_conf else f"{reason}".replace("_", " ")
        await self._schedule()
        return reason == "import_errors"  # which is refused to those who clear, too

    async def _schedule(self) -> None:
        now, of_run = datetime.now(UTC), {"dag_id": self._dag_id, "run_id": self._run_id}
        carriers = Carriers(None, self._service.revision, {}, about={})
        values = {
            "run_type": "scheduled",
            "triggered_by": "TIMETABLE",
            "state": "queued",
            "run_after": now,
            "queued_at": now,
        }
        values |= {"conf": {}, "clear_number": 0, "created_dag_version_id": self._version, "span_status": "not_started"}
        values |= {**of_run, "context_carrier": carriers.of_run}
        storage = self._service.storage
        planned = serialized_dag.planned_tasks(self._data, None)
        about: dict[str, Any] = {**of_run, "version": self._version}
        new = new_tasks(planned, **about, carriers=carriers, now=now)
        run = dag_runs.new(schema=storage.schema, values=values, now=now)
        await storage.task_instances.create_run(self._session, run=run, new=new, now=now)

    async def _through_every_state(self, row: AnyRow) -> uuid.UUID:
        """Take a task that runs through all that its worker may report on the way, and return its id as it is then."""
        own, asking = f"/task-instances/{row.id}", self._asking
        xcom = f"/xcoms/{quoted(self._dag_id)}/{quoted(self._run_id)}/{quoted(row.task_id)}/return_value"
        xcom += "" if row.map_index < 0 else f"?map_index={row.map_index}"
        await asking.require("PUT", f"{own}/heartbeat", ti_id=row.id, json={"hostname": HOST, "pid": PID})
        await asking.require("PUT", f"{own}/rtif", ti_id=row.id, json={"field": "value"})
        await asking.require("POST", xcom, ti_id=row.id, json={"n": 1})
        await asking.require("GET", xcom, ti_id=row.id)
        await self._report(row.id, "deferred", classpath="rehearsal.Trigger", next_method="execute_complete")
        await self._again(row, tries=0)
        await self._report(row.id, "up_for_reschedule", end_date=_now(), reschedule_date=_now(minutes=1))
        await self._again(row, tries=0)
        await self._report(row.id, "up_for_retry", end_date=_now())
        return await self._again(row, tries=1)

    async def _again(self, row: AnyRow, *, tries: int) -> uuid.UUID:
        """Let the scheduler and a worker begin once more, and return the id of the try."""
        ti_id = await samples.queue_one(self._session, self._service.storage, task=row, tries=tries)
        await self._start(ti_id)
        return ti_id

    async def _start(self, ti_id: uuid.UUID) -> None:
        process = {"hostname": HOST, "unixname": HOST, "pid": PID, "start_date": _now()}
        await self._asking.require(
            "PATCH", f"/task-instances/{ti_id}/run", ti_id=ti_id, json={"state": "running", **process}
        )

    async def _report(self, ti_id: uuid.UUID, state: str, **more: Any) -> None:
        await self._asking.require("PATCH", f"/task-instances/{ti_id}/state", ti_id=ti_id, json={"state": state, **more})


def _now(**later: int) -> str:
    return (datetime.now(UTC) + timedelta(**later)).isoformat()
