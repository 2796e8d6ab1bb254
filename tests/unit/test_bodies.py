"""What is seen of a JSON text without decoding it, against what decoding it tells."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.schemas.values import DEEPEST
from app.server.bodies import Json, too_deep_field

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('a\\"[]{},:é1e+5'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('k\\"[{,', max_size=3), inner),
    max_leaves=40,
)


def values(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(values, inner))


def containers(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, dict | list) + sum(map(containers, inner))


def has_large_exponents(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (isinstance(value, float) and "e" in repr(value) and len(repr(value).split("e")[1].lstrip("+-")) >= 3) or any(
        map(has_large_exponents, inner)
    )


@given(VALUES, st.lists(st.integers(1, 7), min_size=1), st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_is_seen_is_what_is_there_however_it_is_cut(value: Any, cuts: list[int], is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode()
    seen, at, turn = Json(), 0, 0
    while at < len(text):
        seen.feed(text[at : at + cuts[turn % len(cuts)]])
        at, turn = at + cuts[turn % len(cuts)], turn + 1
    assert values(value) <= seen.values <= values(value) + containers(value)
    assert not seen.is_too_deep
    assert seen.has_large_exponents == has_large_exponents(value)


@given(
    st.lists(st.sampled_from([b"[", b"]", b"[]", b"[" * 100, b"[1,", b"]" * 90, b'"[["', b"{", b"}"]), max_size=60),
    st.lists(st.integers(1, 70), min_size=1),
)
@settings(max_examples=300, deadline=None)
def test_what_is_too_deep_is_found_however_it_is_cut(marks: list[bytes], cuts: list[int]) -> None:
    text, seen, at, turn = b"".join(marks), Json(), 0, 0
    while at < len(text):
        seen.feed(text[at : at + cuts[turn % len(cuts)]])
        at, turn = at + cuts[turn % len(cuts)], turn + 1
    outside = re.sub(rb'"[^"]*"', b"", text)
    highest = max(accumulate(((mark in b"[{") - (mark in b"]}") for mark in outside), initial=0))
    assert seen.is_too_deep == (highest > DEEPEST)


@given(st.binary(), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_nonsense_is_looked_at_too(content: bytes, size: int) -> None:
    seen = Json()
    for at in range(0, len(content), size):
        seen.feed(content[at : at + size])
    assert seen.values >= 1


SIBLINGS = st.dictionaries(st.text('k\\"[{,:', max_size=3), VALUES, max_size=4)


def nested(value: Any, levels: int) -> Any:
    for level in range(levels):
        value = [value] if level % 2 else {"deep": value}
    return value


@given(SIBLINGS, SIBLINGS, st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_field_that_is_too_deep_is_told(before: dict[str, Any], after: dict[str, Any], is_ascii: bool) -> None:
    before, after = ({name: value for name, value in each.items() if name != "where"} for each in (before, after))
    body = {**before, "where": nested(1, DEEPEST), **after}
    assert too_deep_field(json.dumps(body, ensure_ascii=is_ascii).encode()) == "where"
    assert too_deep_field(json.dumps([body]).encode()) is None
    assert too_deep_field(json.dumps({**body, "where": nested(1, DEEPEST - 1)}).encode()) is None
