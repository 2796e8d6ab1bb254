"""The application: middleware in reading order, and what lives as long as the process."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import Gauge
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__, releases
from app import settings as settings_module
from app.db.lock_timeouts import LockTimeouts
from app.db.session import Database
from app.errors import ConfigurationError, RetryableDatabaseError, UnknownRevision
from app.routes import MOUNT_POINT
from app.server import extras, metrics, patience
from app.server.admission import Admission, Door
from app.server.auth import Tokens
from app.server.bodies import Bodies
from app.server.draining import Readiness
from app.server.event_loop import Lag
from app.server.middleware import (
    AccessLog,
    Answered,
    CorrelationId,
    Count,
    Observed,
    RetryableErrors,
    RootPath,
)
from app.server.stats import Stats
from app.settings import Settings, StatsSettings
from app.tasks.heartbeats import Heartbeats
from app.tasks.secrets import Secrets
from app.tasks.service import Service
from app.versions.building import ApiVersions

if TYPE_CHECKING:  # what is not installed is not looked for
    from app.server.traces import Traces

log = structlog.get_logger(__name__)

METRICS = "/metrics"
BELOW = f"{MOUNT_POINT}/"
HEALTH = f"{MOUNT_POINT}/health"
LOOK_EVERY = 1.0  # seconds between two looks at the metadata revision
COLLECTED_AFTER = 5_000  # objects more than there were: a request leaves no cycles, and all that wait would be walked
MOST_HELD = 1000  # requests that wait for the end of a migration; nothing of them was read but their heads


class Application(Starlette):
    """Starlette, with requests to the execution API taken straight from our middleware to it.

    :param api: what is mounted at :data:`MOUNT_POINT`.
    :param metrics_port: on which metrics are answered, and nothing else; None for the port of all.
    """

    def __init__(self, api: ExecutionApi, *, metrics_port: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._api = api
        self._metrics_port = metrics_port

    def build_middleware_stack(self) -> ASGIApp:
        rest: ASGIApp = ExceptionMiddleware(self.router)

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if self._metrics_port is not None and self._is_elsewhere(scope):
                await PlainTextResponse("Not Found", 404)(scope, receive, send)
            elif scope["type"] == "http" and scope["path"].startswith(BELOW):
                scope["root_path"] += MOUNT_POINT
                await self._api(scope, receive, send)
            else:
                await rest(scope, receive, send)

        stack: ASGIApp = application
        for middleware in reversed(self.user_middleware):
            stack = middleware.cls(stack, *middleware.args, **middleware.kwargs)
        return stack

    def _is_elsewhere(self, scope: Scope) -> bool:
        """Whether this request came to the wrong one of the two ports."""
        if scope["type"] != "http":
            return False
        return (scope["path"] == METRICS) is not ((scope.get("server") or (None, None))[1] == self._metrics_port)


class ExecutionApi:
    """The application under ``/execution``: bound to the metadata revision of the database, whenever that changes."""

    def __init__(self, bodies: Bodies) -> None:
        self.service: Service | None = None
        self._bodies = bodies
        self._versions: ApiVersions | None = None
        self._is_known = asyncio.Event()  # whether the database is at the revision that is served
        self._held = 0

    def open(self, service: Service) -> None:
        """Bind the routes to what they use, before the first request."""
        versions = ApiVersions(service, self._bodies)
        versions.app(versions.newest)  # the first request shall not pay for it
        self.service, self._versions = service, versions
        self._is_known.set()
        metrics.BUILD.labels(__version__, service.revision.name).set(1)
        log.info("serving", metadata_revision=service.revision.name, newest_api_date=service.revision.newest_api_date)

    async def follow(self) -> None:
        """Look every second whether the database was migrated; serve as it is then, and nothing while that is unknown.

        What the first requests would wait for is made before. After whatever a look meets there is another one: a process
        that has stopped looking would serve the next migration's tables as what they were.
        """
        ready: ApiVersions | None = None
        while True:
            try:
                if ready is not self._versions and self._versions is not None:
                    ready = self._versions
                    await ready.make_ready()
                await asyncio.sleep(LOOK_EVERY)
                await self._look()
            except Exception:  # whatever it is: not to look again costs more
                log.exception("what follows the metadata revision has failed, and goes on")

    async def _look(self) -> None:
        """Look once."""
        assert self.service is not None
        try:
            revision = await releases.of(self.service.database)
        except RetryableDatabaseError:
            return
        except ConfigurationError as error:
            if self._is_known.is_set():
                self._is_known.clear()
                log.error("requests are refused", error=str(error))
            return
        if revision is not self.service.revision:
            self._is_known.clear()
            metrics.BUILD.labels(__version__, self.service.revision.name).set(0)
            self.service.database.forget_connections()  # what they prepared was for the tables as they were
            await asyncio.to_thread(self.open, replace(self.service, revision=revision))
        self._is_known.set()

    def gauges(self) -> dict[Gauge, Callable[[], float]]:
        """Return what tells how many requests are held."""
        return {
            metrics.HELD.labels("migration"): lambda: self._held,
            metrics.HELD.labels("turn"): lambda: 0 if self.service is None else self.service.turns.waiting,
        }

    def traces(self) -> Traces | None:
        """Return what makes spans, None when they are off or nothing is served yet."""
        return None if self.service is None else self.service.traces

    def operation(self, scope: Scope) -> str | None:
        """Return the name of the operation that a request's method and path name, None for none."""
        path = scope["path"]
        if path == METRICS and scope["method"] == "GET":
            return METRICS
        if self._versions is None or not path.startswith(BELOW):
            return None
        return self._versions.operation({**scope, "root_path": MOUNT_POINT})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._versions is not None, "requests come after the lifespan has started"
        if not self._is_known.is_set() and not scope["path"].startswith(HEALTH):
            await self._hold()
        await self._versions(scope, receive, send)

    async def _hold(self) -> None:
        """Let a request wait for the end of a migration, as long as its client waits too.

        :raises UnknownRevision: it has not come by then.
        """
        if self._held >= MOST_HELD:
            raise UnknownRevision
        self._held += 1
        try:
            await asyncio.wait_for(self._is_known.wait(), patience.CONNECTION)
        except TimeoutError:
            raise UnknownRevision from None
        finally:
            self._held -= 1


def create_app(settings: Settings | None = None, *, readiness: Readiness | None = None) -> Starlette:
    """Return the whole ASGI application.

    :param settings: read from the environment and ``airflow.cfg`` by default.
    :param readiness: where the server tells that it ends.
    :raises ConfigurationError: when they cannot serve.
    """
    settings = settings or settings_module.load()
    tokens = Tokens(settings.tokens)
    database = Database(settings.database)
    database.coming_back.when_given_up = LockTimeouts(database)
    secrets = Secrets(settings, database)
    bodies = Bodies(together=settings.server.max_held_body_bytes)
    api = ExecutionApi(bodies)
    lag, under_way = Lag(), Count()
    door = Door(database.slots)
    server = settings.server
    sampling = metrics.Sampling(
        {
            metrics.IN_FLIGHT: lambda: under_way.now,
            metrics.LAG: lag.worst,
            metrics.BODY_BYTES: lambda: bodies.held,
            **api.gauges(),
            **database.gauges(),
            **door.gauges(),
        }
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        revision = await releases.of(database)
        api.open(
            Service(
                settings=settings,
                database=database,
                revision=revision,
                tokens=tokens,
                secrets=secrets,
                heartbeats=Heartbeats(database, write_interval=settings.heartbeat_write_interval),
                readiness=readiness or Readiness(),
                traces=(traces := _traces(settings)),
                stats=(stats := await asyncio.to_thread(_stats, settings)),  # it may ask a name server
            )
        )
        beside = [asyncio.create_task(api.follow()), asyncio.create_task(_look_at_keys(tokens))]
        gc.collect()
        gc.freeze()  # what start-up made lives on: no full collection shall walk it again
        gc.set_threshold(COLLECTED_AFTER)
        gc.enable()
        lag.start()
        sampling.start()
        if tokens.weakness:
            log.warning("the key of the task tokens is weak", reason=tokens.weakness)
        yield
        for task in beside:
            task.cancel()
        sampling.stop()
        lag.stop()
        await database.close()
        stats.close()
        if traces is not None:
            await traces.close()

    answered = Answered(
        operation=api.operation,
        access_log=AccessLog(server.access_log_share, server.access_log_heartbeats) if server.access_log else None,
    )
    application = Application(
        api,
        metrics_port=server.metrics_port,
        routes=[Route(METRICS, exposed), Mount(MOUNT_POINT, app=api)],
        middleware=[
            *([Middleware(RootPath, root_path=server.root_path)] if server.root_path else ()),
            Middleware(CorrelationId),
            *_request_spans(settings, api),
            Middleware(Observed, answered=answered, under_way=under_way),
            Middleware(Admission, door=door),
            Middleware(RetryableErrors),
        ],
        lifespan=lifespan,
    )
    # For what waits before it is parsed, see app.server.protocol.
    application.state.door, application.state.under_way, application.state.answered = door, under_way, answered
    return application


async def _look_at_keys(tokens: Tokens) -> None:
    """Say it where the tokens that are renewed here will be refused; tasks that end before that are served."""
    if (reason := await tokens.refusal_of_own()) is not None:
        log.error("tokens that are renewed here will be refused", reason=reason)


def _traces(settings: Settings) -> Traces | None:
    """Return what makes this process' spans, if they are on and can be sent; they are no reason not to serve."""
    try:
        return extras.traces(settings)
    except ConfigurationError as error:
        log.error("no spans are sent", reason=str(error))
        return None


def _stats(settings: Settings) -> Stats:
    """Return what sends counts, or nothing when they cannot be sent; they are no reason not to serve."""
    try:
        return extras.counts(settings)
    except ConfigurationError as error:
        log.error("no counts are sent", reason=str(error))
        return Stats(StatsSettings(), None)


def _request_spans(settings: Settings, api: ExecutionApi) -> list[Middleware]:
    """Return the middleware that goes on with the traces of requests; none that would have nothing to do."""
    if not extras.are_traces_made(settings) or settings.traces.propagation == "never":
        return []
    from app.server.traces import RequestSpans

    is_trusting = settings.traces.propagation == "unsafe-always"
    return [Middleware(RequestSpans, traces=api.traces, is_trusting=is_trusting)]


async def exposed(_: Request) -> Response:
    """Answer with the metrics of all worker processes in Prometheus' text format."""
    return Response(await metrics.exposition(), media_type=metrics.CONTENT_TYPE_LATEST)
