"""Connections, and their tests."""

from __future__ import annotations

from tests.contract.cases.case import BETTER_REFUSAL, NEW, STORED_EXTRA, TEST, WORKLOAD, Case, get, on

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
