"""The application: middleware in reading order, and what lives as long as the process."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app import settings as settings_module
from app.db.session import Database
from app.server.auth import Tokens
from app.server.event_loop import Lag
from app.server.middleware import CorrelationId, LoadShedding, Observed, RequestLimits, RetryableErrors, TokenRefresh
from app.settings import Settings
from app.tasks.heartbeats import Heartbeats
from app.tasks.secrets import Secrets
from app.tasks.service import Service
from app.versions.building import ApiVersions

log = structlog.get_logger(__name__)

MOUNT_POINT = "/execution"
BELOW = f"{MOUNT_POINT}/"


class Application(Starlette):
    """Starlette, with requests to the execution API taken straight from our middleware to it.

    :param api: what is mounted at :data:`MOUNT_POINT`.
    """

    def __init__(self, api: ExecutionApi, **options: Any) -> None:
        super().__init__(**options)
        self._api = api

    def build_middleware_stack(self) -> ASGIApp:
        rest: ASGIApp = ExceptionMiddleware(self.router)

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"].startswith(BELOW):
                scope["root_path"] += MOUNT_POINT
                await self._api(scope, receive, send)
            else:
                await rest(scope, receive, send)

        stack: ASGIApp = application
        for middleware in reversed(self.user_middleware):
            stack = middleware.cls(stack, *middleware.args, **middleware.kwargs)
        return stack


class ExecutionApi:
    """The application under ``/execution``: bound to the metadata revision that is found when the process starts."""

    def __init__(self) -> None:
        self.service: Service | None = None
        self._versions: ApiVersions | None = None

    def open(self, service: Service) -> None:
        """Bind the routes to what they use, before the first request."""
        self.service = service
        self._versions = ApiVersions(service)
        self._versions.app(self._versions.newest)  # the first request shall not pay for it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._versions is not None, "requests come after the lifespan has started"
        await self._versions(scope, receive, send)


def create_app(settings: Settings | None = None) -> Starlette:
    """Return the whole ASGI application.

    :param settings: read from the environment and ``airflow.cfg`` by default.
    :raises ConfigurationError: when they cannot serve.
    """
    settings = settings or settings_module.load()
    tokens = Tokens(settings.tokens)
    database = Database(settings.database)
    secrets = Secrets(settings, database)
    api = ExecutionApi()
    lag = Lag()

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
            )
        )
        gc.collect()
        gc.freeze()  # what start-up made lives on: no full collection shall walk it again
        gc.enable()
        lag.start()
        log.info("serving", metadata_revision=revision.name, newest_api_date=revision.newest_api_date)
        yield
        lag.stop()
        await database.close()

    return Application(
        api,
        routes=[Route("/metrics", metrics), Mount(MOUNT_POINT, app=api)],
        middleware=[
            Middleware(CorrelationId),
            Middleware(LoadShedding, is_overloaded=database.is_overloaded, lag=lag),
            Middleware(Observed, access_log=settings.server.access_log),
            Middleware(RetryableErrors),
            Middleware(TokenRefresh, tokens=tokens),
            Middleware(RequestLimits, max_body_bytes=settings.server.max_body_bytes),
        ],
        lifespan=lifespan,
    )


async def metrics(_: Request) -> Response:
    """Answer with this process's metrics in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
