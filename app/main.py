"""The application: middleware in reading order, and what lives as long as the process."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__, metrics
from app import settings as settings_module
from app.db.session import Database
from app.routes import MOUNT_POINT
from app.server.admission import Admission, Door
from app.server.auth import Tokens
from app.server.bodies import Bodies
from app.server.draining import Readiness
from app.server.event_loop import Lag
from app.server.middleware import (
    AccessLog,
    CorrelationId,
    Count,
    Observed,
    RetryableErrors,
    TokenRefresh,
)
from app.settings import Settings
from app.tasks.heartbeats import Heartbeats
from app.tasks.secrets import Secrets
from app.tasks.service import Service
from app.versions.building import ApiVersions

log = structlog.get_logger(__name__)

METRICS = "/metrics"
BELOW = f"{MOUNT_POINT}/"


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
            if self._is_elsewhere(scope):
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
        """Whether metrics have a port of their own, and this request came to the wrong one of the two."""
        if self._metrics_port is None or scope["type"] != "http":
            return False
        return (scope["path"] == METRICS) is not ((scope.get("server") or (None, None))[1] == self._metrics_port)


class ExecutionApi:
    """The application under ``/execution``: bound to the metadata revision that is found when the process starts."""

    def __init__(self, bodies: Bodies) -> None:
        self.service: Service | None = None
        self._bodies = bodies
        self._versions: ApiVersions | None = None

    def open(self, service: Service) -> None:
        """Bind the routes to what they use, before the first request."""
        self.service = service
        self._versions = ApiVersions(service, self._bodies)
        self._versions.app(self._versions.newest)  # the first request shall not pay for it

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
        await self._versions(scope, receive, send)


def create_app(settings: Settings | None = None, *, readiness: Readiness | None = None) -> Starlette:
    """Return the whole ASGI application.

    :param settings: read from the environment and ``airflow.cfg`` by default.
    :param readiness: where the server tells that it ends.
    :raises ConfigurationError: when they cannot serve.
    """
    settings = settings or settings_module.load()
    tokens = Tokens(settings.tokens)
    database = Database(settings.database)
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
            **database.gauges(),
            **door.gauges(),
        }
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        revision = await database.revision()
        api.open(
            Service(
                settings=settings,
                database=database,
                revision=revision,
                tokens=tokens,
                secrets=secrets,
                heartbeats=Heartbeats(database),
                readiness=readiness or Readiness(),
            )
        )
        gc.collect()
        gc.freeze()  # what start-up made lives on: no full collection shall walk it again
        gc.enable()
        lag.start()
        sampling.start()
        metrics.BUILD.labels(__version__, revision.name).set(1)
        if tokens.weakness:
            log.warning("the key of the task tokens is weak", reason=tokens.weakness)
        log.info("serving", metadata_revision=revision.name, newest_api_date=revision.newest_api_date)
        yield
        sampling.stop()
        lag.stop()
        await database.close()

    return Application(
        api,
        metrics_port=server.metrics_port,
        routes=[Route(METRICS, exposed), Mount(MOUNT_POINT, app=api)],
        middleware=[
            Middleware(CorrelationId),
            Middleware(
                Observed,
                operation=api.operation,
                under_way=under_way,
                access_log=AccessLog(server.access_log_share, server.access_log_heartbeats) if server.access_log else None,
            ),
            Middleware(Admission, door=door),
            Middleware(RetryableErrors),
            Middleware(TokenRefresh, tokens=tokens),
        ],
        lifespan=lifespan,
    )


async def exposed(_: Request) -> Response:
    """Answer with the metrics of all worker processes in Prometheus' text format."""
    return Response(await asyncio.to_thread(metrics.exposition), media_type=metrics.CONTENT_TYPE_LATEST)
