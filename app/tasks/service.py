"""What one worker process holds: built when it starts, handed to every request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request

from app import releases
from app.db.session import Database
from app.db.storage import Storage
from app.errors import ConfigurationError, RetryableDatabaseError
from app.releases import Revision
from app.server.auth import Tokens
from app.server.draining import Readiness
from app.server.stats import Stats
from app.settings import Settings
from app.tasks.heartbeats import Heartbeats
from app.tasks.secrets import Secrets
from app.tasks.turns import Turns

if TYPE_CHECKING:  # what is not installed is not looked for
    from app.server.traces import Traces


@dataclass(frozen=True, slots=True)
class Service:
    """The parts that handlers use.

    :param revision: the metadata revision of the database; once that is migrated, there is another service.
    :param stats: counts what Airflow's server counts for StatsD.
    :param traces: what makes spans; None when they are off.
    """

    settings: Settings
    database: Database
    revision: Revision
    tokens: Tokens
    secrets: Secrets
    heartbeats: Heartbeats
    readiness: Readiness
    stats: Stats
    traces: Traces | None = None
    turns: Turns = field(default_factory=Turns)

    @property
    def storage(self) -> Storage:
        """How the database of this revision stores what others store otherwise."""
        return self.revision.storage

    async def ping(self) -> dict[str, str | None]:
        """Ask every part that a request needs, within a bound; return what is wrong with each, or None, by name.

        A server that ends is not ready, however well its parts are: balancers shall turn to others while it still serves.
        """
        if self.readiness.is_draining:
            return {"server": "draining"}
        try:
            releases.supported(await self.database.ping(), self.database)
        except RetryableDatabaseError as error:
            return {"database": error.reason}
        except ConfigurationError as error:
            return {"database": str(error)}
        return {"database": None}


def of(request: Request) -> Service:
    """Return the service that answers ``request``."""
    service: Service = request.app.state.service
    return service


def api_date(request: Request) -> str:
    """Return the API date that answers ``request``: what a handler asks where a rule, and no model, follows the date."""
    date: str = request.app.state.api_date
    return date
