"""The application that serves, asked in this process as workers ask it: the whole way of a request, but for the network."""

from __future__ import annotations

import traceback
import uuid
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

import app
from app.errors import ReadOnlyServer, RetryableDatabaseError, StatementTimeout
from app.routes import MOUNT_POINT
from app.server.bodies import Bodies
from app.server.middleware import CorrelationId
from app.settings import OWN_SECTION
from app.tasks import attempts
from app.tasks.service import Service
from app.versions.building import ApiVersions

HERE = "http://rehearsal"
ROOT = Path(app.__file__).parent.parent
# The last day on which who writes need not be a task that lives; on the stage there is none to trigger a run.
OF_NOBODY = {"Airflow-API-Version": (date.fromisoformat(attempts.SINCE) - timedelta(days=1)).isoformat()}
LONGEST_REASON = 300  # characters of a refusal that are told


class Unserved(Exception):
    """An operation could not be served.

    :param operation: its name.
    :param reason: why, without values.
    """

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(f"{operation}: {reason}")
        self.operation, self.reason = operation, reason


class Asking:
    """Asks the newest API date of a service; what is written by no task, an older one where the newest refuses that.

    :param service: what answers.
    """

    def __init__(self, service: Service) -> None:
        self._tokens = service.tokens
        self._versions = ApiVersions(service, Bodies(together=service.settings.server.max_held_body_bytes))
        self.api_date = self._versions.newest
        application = httpx.ASGITransport(CorrelationId(self._versions), root_path=MOUNT_POINT)
        self._client = httpx.AsyncClient(transport=application, base_url=HERE + MOUNT_POINT)

    def operation(self, method: str, path: str) -> str | None:
        """Return method and template of the operation that a path names, None when this date has none."""
        path = httpx.URL(f"{HERE}{MOUNT_POINT}{path}").path
        found = self._versions.operation({"method": method, "path": path, "root_path": MOUNT_POINT})
        return found and f"{method} {found.removeprefix(MOUNT_POINT)}"

    def token(self, ti_id: uuid.UUID | None = None) -> str:
        """Return a token that speaks for a task instance, or for one that there is not."""
        return self._tokens.mint({"sub": str(ti_id or uuid.uuid4()), "scope": "execution"})

    async def ask(self, method: str, path: str, *, ti_id: uuid.UUID | None = None, json: Any = None) -> httpx.Response:
        """Ask as a task instance; without a body where ``json`` is None.

        :raises Unserved: when it cannot be answered for a reason that lies here.
        :raises RetryableDatabaseError: when the database cannot do it now.
        """
        try:
            headers = {"Authorization": f"Bearer {self.token(ti_id)}"}
            headers |= OF_NOBODY if ti_id is None and method != "GET" else {}
            return await self._client.request(method, path, json=json, headers=headers)
        except ReadOnlyServer as error:
            raise Unserved(self._name(method, path), "it writes what a rehearsal does not") from error
        except StatementTimeout as error:
            reason = f"the database took longer than [{OWN_SECTION}] statement_timeout"
            raise Unserved(self._name(method, path), reason) from error
        except RetryableDatabaseError:
            raise
        except Exception as error:  # a defect, or a foreign class' own
            raise Unserved(self._name(method, path), f"a defect: {type(error).__name__} in {_place(error)}") from error

    async def require(self, method: str, path: str, *, ti_id: uuid.UUID | None = None, json: Any = None) -> httpx.Response:
        """Ask, and return an answer that is none of a refusal.

        :raises Unserved: when it is refused too; see :meth:`ask` for the rest.
        """
        answer = await self.ask(method, path, ti_id=ti_id, json=json)
        if answer.is_error:
            raise Unserved(self._name(method, path), f"{answer.status_code} {told(answer)}")
        return answer

    async def close(self) -> None:
        """Let go of the application."""
        await self._client.aclose()

    def _name(self, method: str, path: str) -> str:
        return self.operation(method, path) or f"{method} {path}"


def told(answer: httpx.Response) -> str:
    """Return why a request was refused."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(detail.get("message", detail) if isinstance(detail, dict) else detail)[:LONGEST_REASON]


def quoted(name: str) -> str:
    """Return a name as one segment of a path."""
    return quote(name, safe="")


def _place(error: BaseException) -> str:
    """Return where in our code an error came from; what it says may hold values."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(ROOT)]
    return f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno}" if ours else "a library"
