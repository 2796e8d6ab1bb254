"""Every difference that a case keeps on purpose is in the documentation, with its reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.contract.cases import CASES

COMPATIBILITY = Path(__file__).parent.parent.parent / "docs" / "compatibility.md"


def test_differences_are_documented() -> None:
    documented = COMPATIBILITY.read_text()
    assert [case.differs for case in CASES if case.differs and f"| {case.differs} |" not in documented] == []


def test_names_are_unique_and_the_corpus_is_large() -> None:
    names = Counter(case.name for case in CASES)
    assert [name for name, times in names.items() if times > 1] == []
    assert len(names) >= 900
