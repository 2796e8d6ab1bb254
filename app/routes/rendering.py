"""Bodies that several routes share, and the one way in which an answer becomes JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import Response
from starlette.types import Receive, Scope, Send

from app.db.tables import AnyRow
from app.server.bodies import LARGE
from app.tasks.transitions import Refuse

OPTIONS = orjson.OPT_UTC_Z
PLACE = b"\0"  # of a large text: no JSON has it, and PostgreSQL no text that has it


class RawJson:
    """JSON text inside a body, which is sent as it is (no dataclass: ``orjson`` writes those itself)."""

    __slots__ = ("text",)

    def __init__(self, text: str | bytes) -> None:
        self.text = text


def raw_json(text: str | bytes | None) -> RawJson | None:
    """Put JSON text into a body as it is.

    :param text: as bytes in UTF-8.
    """
    return None if text is None else RawJson(text)


def any_json(value: Any) -> RawJson:
    """Put a task's own value into a body: it may hold whole numbers of any size, which ``orjson`` does not write."""
    return RawJson(json.dumps(value))


class _InPieces(Response):
    """Sends large texts as they are: to put them into one with what is around them would stop the event loop for as long.

    :param around: the rest of the body, with :data:`PLACE` where each of them belongs.
    """

    def __init__(self, around: bytes, texts: Sequence[bytes], status: int, headers: Mapping[str, str] | None) -> None:
        super().__init__(status_code=status, headers=headers, media_type="application/json")
        first, *others = around.split(PLACE)
        self._pieces = [first, *(piece for pair in zip(texts, others, strict=True) for piece in pair)]
        self.headers["content-length"] = str(sum(map(len, self._pieces)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})


def row_body(row: AnyRow) -> dict[str, Any]:
    """Return a row whose columns are named as the contract's fields."""
    return {str(name): value for name, value in zip(row._fields, row, strict=True)}


def asset_body(row: AnyRow, *, prefix: str = "") -> dict[str, Any]:
    """Return an asset as the contract has it.

    :param prefix: of the columns' names in ``row``.
    """
    name, uri, group, extra = (getattr(row, f"{prefix}{column}") for column in ("name", "uri", "group", "extra"))
    return {"name": name, "uri": uri, "group": group, "extra": raw_json(extra)}


def dag_run_body(row: AnyRow, *, events: Sequence[AnyRow] = (), team_name: str | None = None) -> dict[str, Any]:
    """Return a Dag run as the contract has it.

    :param row: its columns; see ``app.db.dag_runs``.
    :param events: the asset events that it consumed.
    """
    return {
        "dag_id": row.dag_id,
        "run_id": row.run_id,
        "logical_date": row.logical_date,
        "data_interval_start": row.data_interval_start,
        "data_interval_end": row.data_interval_end,
        "run_after": row.run_after,
        "start_date": row.start_date,
        "end_date": getattr(row, "end_date", None),
        "clear_number": row.clear_number,
        "run_type": row.run_type,
        "state": row.state,
        "conf": raw_json(row.conf),
        "triggering_user_name": row.triggering_user_name,
        "consumed_asset_events": [_event_body(event) for event in events],
        "partition_key": row.partition_key,
        "partition_date": row.partition_date,
        "note": None,
        "team_name": team_name,
    }


def _event_body(event: AnyRow) -> dict[str, Any]:
    return {
        "asset": {"name": event.name, "uri": event.uri, "extra": raw_json(event.asset_extra)},
        "extra": raw_json(event.extra),
        "source_task_id": event.source_task_id,
        "source_dag_id": event.source_dag_id,
        "source_run_id": event.source_run_id,
        "source_map_index": event.source_map_index,
        "source_aliases": [{"name": name} for name in event.aliases or ()],
        "timestamp": event.timestamp,
        "partition_key": event.partition_key,
    }


def render(result: Any, *, status: int, headers: dict[str, str] | None = None) -> Response:
    """Return the answer for what a handler returned.

    :param status: the status of success; 204 has no body.
    """
    if isinstance(result, Response):
        return result
    if isinstance(result, Refuse):
        return json_response({"detail": result.detail}, result.status)
    if status == 204:
        return Response(status_code=204, headers=headers)
    return json_response(result, status, headers)


def json_response(body: Any, status: int, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer; its content type carries no parameter, or the Task SDK does not read a refusal's detail."""
    large: list[bytes] = []

    def fragment(value: object) -> orjson.Fragment:
        if not isinstance(value, RawJson):
            raise TypeError(f"{type(value).__name__} is not JSON")
        if len(value.text) <= LARGE:
            return orjson.Fragment(value.text)
        large.append(value.text if isinstance(value.text, bytes) else value.text.encode())
        return orjson.Fragment(PLACE)

    content = orjson.dumps(body, default=fragment, option=OPTIONS)
    if large:
        return _InPieces(content, large, status, headers)
    return Response(content, status_code=status, headers=headers, media_type="application/json")
