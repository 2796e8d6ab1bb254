"""Connections, and their tests."""

from __future__ import annotations

from typing import Any

from cryptography.fernet import Fernet

from tests.contract.cases.case import BETTER_REFUSAL, NEW, STORED_EXTRA, TEST, WORKLOAD, Case, get, on
from tests.contract.cases.setups import SETUPS, Setup, setup
from tests.servers import FERNET_KEY
from tests.world import EPOCH, World, ti_id


@setup
async def connections(world: World) -> Any:
    hidden = Fernet(FERNET_KEY)
    await world.insert(
        "connection",
        conn_id="full",
        conn_type="postgres",
        host="h",
        schema="s",
        login="l",
        port=5432,
        password=hidden.encrypt(b"pass").decode(),
        extra=hidden.encrypt(b'{"a": 1}').decode(),
        is_encrypted=True,
        is_extra_encrypted=True,
    )
    await world.insert("connection", conn_id="bare", conn_type="http", is_encrypted=False, is_extra_encrypted=False)
    await world.insert(
        "connection", conn_id="rotten", conn_type="http", password="gAAAA-no", is_encrypted=True, is_extra_encrypted=False
    )
    return await world.one_running("d")


@setup
async def extras(world: World) -> Any:
    for name, extra in (
        ("a list", "[1]"),
        ("a text", '"x"'),
        ("a number", "5"),
        ("null", "null"),
        ("no JSON", "{"),
        ("empty", ""),
    ):
        await world.insert(
            "connection", conn_id=name, conn_type="http", extra=extra, is_encrypted=False, is_extra_encrypted=False
        )
    return await world.one_running("d")


def _connection_test(state: str, **values: Any) -> Setup:
    async def make(world: World) -> Any:
        test = ti_id("a connection test")
        defaults = {
            "id": test,
            "token": "t",
            "connection_id": "tested",
            "state": state,
            "created_at": EPOCH,
            "updated_at": EPOCH,
            "conn_type": "http",
            "host": "h",
            "login": "l",
            "schema": "s",
            "port": 80,
            "active_connection_id": "tested" if state in ("pending", "queued", "running") else None,
            "password": "p",
            "extra": '{"a": 1}',
        }
        await world.insert("connection_test_request", **{**defaults, **values})
        return test

    return make


for _state in ("pending", "queued", "running", "success", "failed"):
    SETUPS[f"connection_test_{_state}"] = _connection_test(_state)


SETUPS["connection_test_to_save"] = _connection_test("running", commit_on_success=True)


@setup
async def connection_test_to_replace(world: World) -> Any:
    await world.insert(
        "connection", conn_id="tested", conn_type="ftp", host="old", is_encrypted=False, is_extra_encrypted=False
    )
    return await _connection_test("running", commit_on_success=True)(world)


def _to_replace(**values: Any) -> Setup:
    """A test of a connection that is stored already, with a password and an extra, and may be replaced."""

    async def make(world: World) -> Any:
        hidden = Fernet(FERNET_KEY)
        stored = {"password": hidden.encrypt(b"kept").decode(), "extra": hidden.encrypt(b'{"k": 1}').decode()}
        named = {"conn_id": values.get("connection_id", "tested"), "conn_type": "ftp", "description": "d"}
        await world.insert("connection", **named, **stored, is_encrypted=True, is_extra_encrypted=True)
        allowed = {"commit_allows_update": True} if world.keeps_tries else {}
        return await _connection_test("running", commit_on_success=True, **allowed, **values)(world)

    return make


_ROTTEN = {"password": "gAAAA-no", "is_encrypted": True}
SETUPS |= {
    "connection_test_rotten": _connection_test("pending", **_ROTTEN),
    "connection_test_with_a_rotten_extra": _connection_test("queued", extra="gAAAA-no", is_extra_encrypted=True),
    "connection_test_rotten_to_save": _connection_test("running", commit_on_success=True, **_ROTTEN),
    "connection_test_to_replace_without_a_password": _to_replace(password=None, extra=None),
    "connection_test_to_replace_with_empty_ones": _to_replace(password="", extra=""),
    "connection_test_to_replace_an_odd_id": _to_replace(connection_id="odd id%"),
    "connection_test_to_replace_with_a_list": _to_replace(extra="[1]"),
    "connection_test_to_replace_with_no_json": _to_replace(extra="no JSON"),
    "connection_test_to_save_without_a_password": _connection_test("running", commit_on_success=True, password="", extra=""),
    "connection_test_to_save_an_odd_id": _connection_test("running", commit_on_success=True, connection_id="odd id%"),
    "connection_test_to_save_with_a_list": _connection_test("running", commit_on_success=True, extra="[1]"),
}  # fmt: skip


CASES: list[Case] = [
    # --- connections
    get("connection", "/connections/full", "connections"),
    get("connection bare", "/connections/bare", "connections"),
    get("connection not decryptable", "/connections/rotten", "connections", differs=BETTER_REFUSAL, ours=404),
    get("connection of a team", "/connections/of_red", "of_a_team"),
    *(
        get(f"connection with an extra that is {what}", f"/connections/{what}", "extras", differs=STORED_EXTRA, ours=200)
        for what in ("a list", "a text", "a number", "null", "no JSON")
    ),
    get("connection with an empty extra", "/connections/empty", "extras"),
    get("connection unknown", "/connections/nope", "connections"),
    get("connection without a token", "/connections/full", "connections", token="none"),
    # --- connection tests
    *(
        on(f"connection_test_{s}", "GET", f"{TEST}/connection", claims=WORKLOAD, **NEW)
        for s in ("pending", "queued", "running", "success", "failed")
    ),
    *(
        on(f"connection_test_{s}", "PATCH", TEST, {"state": result, "result_message": "m"}, claims=WORKLOAD, **NEW)
        for s in ("pending", "queued", "running", "success", "failed", "to_save", "to_replace")
        for result in ("success", "failed")
    ),
    *(
        on(f"connection_test_{s}", "GET", f"{TEST}/connection", claims=WORKLOAD, **NEW, differs=BETTER_REFUSAL, ours=409)
        for s in ("rotten", "with_a_rotten_extra")
    ),
    *(
        on(f"connection_test_{s}", "PATCH", TEST, {"state": "success", "result_message": "m"}, claims=WORKLOAD, **NEW, **options)
        for s, options in (
            ("to_replace_without_a_password", {}),
            ("to_replace_with_empty_ones", {}),
            ("to_replace_an_odd_id", {}),
            ("to_save_without_a_password", {}),
            ("rotten_to_save", {"differs": BETTER_REFUSAL, "ours": 422}),
            ("to_replace_with_a_list", {"differs": BETTER_REFUSAL, "ours": 422}),
            ("to_replace_with_no_json", {"differs": BETTER_REFUSAL, "ours": 422}),
            ("to_save_an_odd_id", {"differs": BETTER_REFUSAL, "ours": 422}),
            ("to_save_with_a_list", {"differs": BETTER_REFUSAL, "ours": 422}),
        )
    ),
    on("connection_test_running", "PATCH", TEST, {"state": "queued"}, claims=WORKLOAD, **NEW),
    on("nothing", "GET", f"{TEST}/connection", claims=WORKLOAD, **NEW),
    on("nothing", "PATCH", TEST, {"state": "failed"}, claims=WORKLOAD, **NEW),
    on("connection_test_pending", "GET", f"{TEST}/connection", **NEW, note="with an execution token"),
    on("connection_test_pending", "GET", f"{TEST}/connection", token="other", claims=WORKLOAD, **NEW),
]  # fmt: skip
