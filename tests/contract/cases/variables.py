"""Variables and their keys."""

from __future__ import annotations

from tests.contract.cases.case import BETTER_REFUSAL, ERROR_SHAPE, NEW, Case, get, on

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
