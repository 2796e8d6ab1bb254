"""Ids of new rows are UUIDs of version 7, of their moment, and no two alike."""

from __future__ import annotations

import time
import uuid

from app.db.uuids import uuids7


def test_ids_of_new_rows() -> None:
    before = time.time_ns() // 1_000_000
    found = [uuid.UUID(str(each)) for each in uuids7(2000)]  # so many that any bit that is not random would show
    after = time.time_ns() // 1_000_000
    assert len(set(found)) == len(found)
    assert {(each.version, each.variant) for each in found} == {(7, uuid.RFC_4122)}
    assert all(before <= each.int >> 80 <= after for each in found)
    seen = [0, 0]
    for each in found:
        seen = [seen[0] | each.int, seen[1] | ~each.int]
    random = (1 << 76) - 1 & ~(0b11 << 62)  # all but the moment, the version and the variant
    assert [bits & random for bits in seen] == [random, random]
