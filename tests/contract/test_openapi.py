"""The documents that we serve say what the released ones say, for every API date; beyond them, our 503."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.versions import VERSIONS
from app.versions.pages import SERVERS
from tests.servers import Server

RELEASED = Path(__file__).parent / "openapi"
NEWEST = {"3.2": "2026-04-06", "3.3": "2026-06-30", "3.4": "2026-10-30"}  # the newest date of each server
# What the server of 3.3 has on every API date, and that of 3.2 on none; its documents are 3.3.2's.
SINCE_3_3 = (
    " > TIAwaitingInputStatePayload",
    " > TIRetryStatePayload > properties > retry_",
    " > TriggerDAGRunPayload > properties > run_after",
    " > TaskInstance > properties > queue",
)
PROSE = {"title", "description", "summary", "x-enum-varnames"}


def normalized(part: Any) -> Any:
    """Return a part of a document without prose, in one order, with one word for a choice."""
    if isinstance(part, list):
        return [normalized(item) for item in part]
    if not isinstance(part, dict):
        return part
    # A property may be called as prose is; it is a schema then.
    kept = {k: normalized(v) for k, v in part.items() if k != "examples" and (k not in PROSE or isinstance(v, dict))}
    if "oneOf" in kept:
        kept["anyOf"] = kept.pop("oneOf")
    if "anyOf" in kept:
        kept["anyOf"] = sorted(kept["anyOf"], key=lambda option: json.dumps(option, sort_keys=True))
    for name in ("required", "enum"):
        if isinstance(kept.get(name), list):
            kept[name] = sorted(kept[name])
    return kept


def operations(document: dict[str, Any]) -> dict[str, Any]:
    """Return every operation by its name, normalized, without our own 503."""
    found = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            shown = normalized(operation)
            shown["parameters"] = sorted(shown.get("parameters", []), key=lambda p: (p["in"], p["name"]))
            shown["responses"].pop("503", None)
            found[f"{method.upper()} {path}"] = shown
    return found


def different(ours: Any, theirs: Any, where: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the places in which two documents differ, with what each says there."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in ours.keys() | theirs.keys():
            found |= different(ours.get(key), theirs.get(key), f"{where} > {key}")
        return found
    return {} if ours == theirs else {where: (ours, theirs)}


@pytest.mark.parametrize("revision", NEWEST, indirect=True)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.date)
async def test_the_document_of_each_date(server: Server, revision: str, version: Any) -> None:
    if version.date > NEWEST[revision]:
        pytest.skip(f"{revision} does not serve this date")
    documents = RELEASED / max(revision, "3.3")
    released = json.loads((documents / f"openapi-{version.date}.json").read_text())
    async with httpx.AsyncClient(base_url=server.base_url) as client:
        answer = await client.get("/openapi.json", headers={"Airflow-API-Version": version.date})
        page = await client.get("/docs")
    assert page.status_code == 200
    served = answer.json()
    assert (served["info"]["version"], served["servers"]) == (version.date, SERVERS)
    assert all("503" in o["responses"] for methods in served["paths"].values() for o in methods.values())
    assert different(operations(served), operations(released)) == {}
    ours, theirs = (normalized(document["components"]["schemas"]) for document in (served, released))
    assert {place for place in different(ours, theirs) if not (revision == "3.2" and place.startswith(SINCE_3_3))} == set()
