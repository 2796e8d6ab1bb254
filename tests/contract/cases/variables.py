"""Variables and their keys."""

from __future__ import annotations

from typing import Any

from cryptography.fernet import Fernet

from tests.contract.cases.case import BETTER_REFUSAL, ERROR_SHAPE, NEW, Case, get, on
from tests.contract.cases.setups import setup
from tests.servers import FERNET_KEY
from tests.world import World


@setup
async def variables(world: World) -> Any:
    encrypted = Fernet(FERNET_KEY).encrypt(b"decrypted").decode()
    await world.insert("variable", key="clear", val="in clear", is_encrypted=False)
    await world.insert("variable", key="secret", val=encrypted, is_encrypted=True)
    await world.insert("variable", key="rotten", val="gAAAA-not-decryptable", is_encrypted=True)
    await world.insert("variable", key="with/slash", val="s", is_encrypted=False, description="old")
    await world.insert("variable", key="empty", val="", is_encrypted=False)
    return await world.one_running("d")


@setup
async def of_a_team(world: World) -> Any:
    """A variable and a connection of a team, and a variable of none, where nobody asks for teams."""
    await world.connection.execute("INSERT INTO team VALUES ('red')")
    for name, team in (("red", "red"), ("nobody", None)):
        await world.insert("variable", key=f"of_{name}", val="v", is_encrypted=False, description="old", team_name=team)
    plain = {"is_encrypted": False, "is_extra_encrypted": False}
    await world.insert("connection", conn_id="of_red", conn_type="http", team_name="red", **plain)
    return await world.one_running("d")


@setup
async def many_variables(world: World) -> Any:
    for key in ("b", "a_1", "a%2", "ab", "z"):
        await world.insert("variable", key=key, val="v", is_encrypted=False)
    return await world.one_running("d")


CASES: list[Case] = [
    # --- variables
    get("variable in clear", "/variables/clear", "variables"),
    get("variable encrypted", "/variables/secret", "variables"),
    get("variable with a slash", "/variables/with/slash", "variables"),
    get("variable empty", "/variables/empty", "variables"),
    get("variable not decryptable", "/variables/rotten", "variables"),
    get("variable unknown", "/variables/nope", "variables"),
    get("variable without a token", "/variables/clear", "variables", token="none"),
    Case("variable set", "PUT", "/variables/new", {"val": "v", "description": "d"}, setup="variables"),
    Case("variable set again", "PUT", "/variables/with/slash", {"val": "v2"}, setup="variables"),
    Case("variable set null", "PUT", "/variables/n", {"val": None}, setup="variables"),
    Case("variable set by field name", "PUT", "/variables/n", {"value": "x"}, setup="variables"),
    Case("variable set a number", "PUT", "/variables/n", {"val": 5}, setup="variables"),
    Case("variable set without a value", "PUT", "/variables/n", {}, setup="variables"),
    Case("variable set unknown field", "PUT", "/variables/n", {"val": "x", "y": 1}, setup="variables"),
    Case("variable set key too long", "PUT", "/variables/" + "k" * 251, {"val": "v"}, differs=BETTER_REFUSAL, ours=422),
    Case("variable set NUL in the description", "PUT", "/variables/k", {"val": "v", "description": "a\0"}, differs=BETTER_REFUSAL, ours=422),
    *(
        Case(f"variable set as {kind}", "PUT", "/variables/k", content=b'{"val": "1"}', headers={"Content-Type": kind})
        for kind in ("application/jsonp", "application/json-x", "application/x+json", "text/json")
    ),
    get("variable delete", "/variables/clear", "variables", method="DELETE"),
    get("variable delete unknown", "/variables/nope", "variables", method="DELETE"),
    get("variable without a key", "/variables/", "variables", differs=ERROR_SHAPE, ours=422),
    *(
        on("of_a_team", method, f"/variables/{key}", *body)
        for key in ("of_red", "of_nobody")
        for method, *body in (("GET",), ("PUT", {"val": "new"}), ("DELETE",))
    ),
    # --- variable keys
    on("of_a_team", "GET", "/variables/keys", **NEW),
    *(
        on("many_variables", "GET", f"/variables/keys{query}", **NEW)
        for query in ("", "?prefix=a", "?prefix=a_", "?prefix=a%25", "?limit=2&offset=1", "?limit=0", "?limit=10001", "?offset=-1", "?offset=99")
    ),
    on("many_variables", "GET", "/variables/keys", revisions=("3.2",)),
]  # fmt: skip
