"""What a rehearsal reads, as workers do: what is stored for them, and with another server what that answers to the same."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx
import orjson

from app.commands.asking import Asking, Unserved, quoted
from app.db import samples
from app.db.stage import Stage
from app.errors import ConfigurationError, RefusedRequest, SecretsBackendTimeout
from app.tasks.service import Service

MOST_XCOMS, MOST_TASKS, MOST_ASSETS = 10, 3, 200  # of a Dag's newest run, and of the database
OTHERS_WITHIN = 30.0  # seconds in which the other server answers
DIGEST = 6  # bytes of a body's hash
# Lists that Airflow reads without ORDER BY: what comes first is PostgreSQL's choice, and no difference.
UNORDERED = {"breadcrumbs", "consumed_asset_events", "created_dagruns", "inactive_assets", "source_aliases", "tags"}


@dataclass(frozen=True, slots=True)
class Difference:
    """An answer that another server gives otherwise.

    :param ours: status, and a hash of the body.
    """

    operation: str
    path: str
    ours: str
    others: str


@dataclass(slots=True)
class Readings:
    """What was read.

    :param counts: how many of what there is were read.
    :param faults: what could not be, as (what, why).
    :param asked: requests that two servers answered, by operation.
    :param differences: those that they answered otherwise.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[str, str]] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)


class Reading:
    """Reads what is stored, on a stage that stands.

    :param against: URL of Airflow's own server, or None.
    """

    def __init__(self, stage: Stage, service: Service, asking: Asking, *, against: str | None) -> None:
        self._stage, self._service, self._asking = stage, service, asking
        self._other = None if against is None else httpx.AsyncClient(base_url=against, timeout=OTHERS_WITHIN)
        self._key = os.urandom(16)
        self.found = Readings()

    async def close(self) -> None:
        """Let go of the other server."""
        if self._other is not None:
            await self._other.aclose()

    async def meet(self) -> None:
        """Ask the other server whether it is one to compare with, before each of its answers is a difference.

        :raises ConfigurationError: it does not answer, is no execution API, or refuses tokens that these settings sign.
        """
        if self._other is None:
            return
        health = await self._answer_of(self._other, "/health", None)
        if health.status_code != 200 or not health.headers.get("content-type", "").startswith("application/json"):
            raise ConfigurationError(
                f"--against names {self._other.base_url}, which is no execution API ({health.status_code} at /health);"
                " that of an API server is at http://HOST:8080/execution/"
            )
        counted = await self._answer_of(self._other, "/dag-runs/count?dag_id=-", None)
        if counted.status_code in (401, 403):
            raise ConfigurationError(
                f"--against names {self._other.base_url}, which refuses a token of these settings ({counted.status_code}):"
                " its [api_auth] jwt_secret or keys are others, and each task that comes from there would be refused here"
            )

    async def stored(self) -> None:
        """Read every variable and connection, and the newest assets."""
        async with self._stage.autocommit() as session:
            variables, connections = await samples.variables(session), await samples.connections(session)
            assets = await samples.assets(session, most=MOST_ASSETS)
        secrets = self._service.secrets
        for row in variables:
            await self._look("variable", row.name, secrets.variable(row.name, row.team_name))
            await self._compare(f"/variables/{quoted(row.name)}")
        for row in connections:
            await self._look("connection", row.name, secrets.connection(row.name, row.team_name))
            await self._compare(f"/connections/{quoted(row.name)}")
        for row in assets:
            self.found.counts["asset"] += 1
            await self._read(f"/assets/by-name?{urlencode({'name': row.name})}")
            await self._read(f"/assets/by-uri?{urlencode({'uri': row.uri})}")
            await self._read(f"/asset-events/by-asset?{urlencode({'name': row.name, 'uri': row.uri, 'limit': 5})}")

    async def dag(self, dag_id: str) -> None:
        """Read a Dag, and its newest run with some of its tasks and XComs."""
        named = quoted(dag_id)
        await self._read(f"/dags/{named}")
        await self._read(f"/dag-runs/count?dag_id={named}")
        async with self._stage.autocommit() as session:
            run = await samples.newest_run(session, dag_id=dag_id)
            if run is None:
                return
            which = {"dag_id": dag_id, "run_id": run.run_id}
            storage = self._service.storage
            tasks = await samples.tasks(session, storage, **which, most=MOST_TASKS)
            xcoms = await samples.xcoms(session, storage, **which, most=MOST_XCOMS)
        path = f"{named}/{quoted(run.run_id)}"
        self.found.counts["run"] += 1
        await self._read(f"/dag-runs/{path}")
        await self._read(f"/dag-runs/{path}/state")
        if run.logical_date is not None:
            await self._read(
                f"/dag-runs/previous?{urlencode({'dag_id': dag_id, 'logical_date': run.logical_date.isoformat()})}"
            )
        await self._read(f"/task-instances/count?{urlencode({'dag_id': dag_id, 'run_ids': run.run_id})}")
        await self._read(f"/task-instances/states?{urlencode({'dag_id': dag_id, 'run_ids': run.run_id})}")
        await self._read(f"/task-instances/breadcrumbs?{urlencode(which)}")
        for row in tasks:
            own = f"/task-instances/{row.id}"
            await self._read(f"{own}/previous-successful-dagrun", ti_id=row.id)
            await self._read(f"{own}/validate-inlets-and-outlets", ti_id=row.id)
            await self._read(f"/task-reschedules/{row.id}/start_date", ti_id=row.id)
        for row in xcoms:
            self.found.counts["XCom"] += 1
            asker = tasks[0].id if tasks else None
            index = "" if row.map_index < 0 else f"?map_index={row.map_index}"
            await self._read(f"/xcoms/{path}/{quoted(row.task_id)}/{quoted(row.key)}{index}", ti_id=asker)

    async def _look(self, what: str, name: str, looking: Awaitable[Any]) -> None:
        """Look one up as a handler does."""
        self.found.counts[what] += 1
        try:
            found = await looking
        except RefusedRequest:
            self.found.faults.append((f"{what} {name}", "the secrets backend denies access"))
        except SecretsBackendTimeout:
            self.found.faults.append((f"{what} {name}", "the secrets backend does not answer in time"))
        else:
            if found is None:
                self.found.faults.append((f"{what} {name}", "no key of [core] fernet_key decrypts it"))

    async def _read(self, path: str, *, ti_id: uuid.UUID | None = None) -> None:
        """Read what must be there; what this API date has no operation for is passed over."""
        if self._asking.operation("GET", path) is None:
            return
        if self._other is not None:
            await self._compare(path, ti_id=ti_id)
            return
        try:
            await self._asking.require("GET", path, ti_id=ti_id)
        except Unserved as unserved:
            self.found.faults.append((f"{unserved.operation} {path}", unserved.reason))

    async def _compare(self, path: str, *, ti_id: uuid.UUID | None = None) -> None:
        """Ask both servers the same, once more where they disagree: somebody may have written in between."""
        if self._other is None:
            return
        operation = self._asking.operation("GET", path) or path
        try:
            for _ in range(2):
                ours = self._hashed(await self._asking.ask("GET", path, ti_id=ti_id))
                others = self._hashed(await self._answer_of(self._other, path, ti_id))
                if ours == others:
                    break
        except Unserved as unserved:
            self.found.faults.append((f"{operation} {path}", unserved.reason))
            return
        self.found.asked[operation] += 1
        if ours != others:
            self.found.differences.append(Difference(operation, path, ours, others))

    async def _answer_of(self, other: httpx.AsyncClient, path: str, ti_id: uuid.UUID | None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._asking.token(ti_id)}", "Airflow-API-Version": self._asking.api_date}
        try:
            return await other.get(path, headers=headers)
        except httpx.HTTPError as error:
            raise ConfigurationError(
                f"--against names {other.base_url}, which does not answer: {error or type(error).__name__}"
            ) from error

    def _hashed(self, answer: httpx.Response) -> str:
        """Return an answer's status and its body's hash, whose key is of this rehearsal: no value can be guessed by it."""
        try:
            body = _canonical(_in_order(answer.json()))
        except ValueError:
            body = answer.content
        return f"{answer.status_code} {hashlib.blake2b(body, key=self._key, digest_size=DIGEST).hexdigest()}"


def _canonical(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _in_order(value: Any) -> Any:
    """Return a JSON value with its unordered lists in an order of our own."""
    if isinstance(value, list):
        return [_in_order(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {name: _in_order(each) for name, each in value.items()}
    return {name: sorted(each, key=_canonical) if name in UNORDERED and each else each for name, each in found.items()}
