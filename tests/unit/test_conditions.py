"""Who waits for a condition in vain is told for which."""

from __future__ import annotations

import pytest

from tests.conditions import until


async def _never() -> bool:
    return False


async def test_it_gives_up_and_says_what_it_waited_for() -> None:
    with pytest.raises(TimeoutError, match=r"after 0\.1 s: await until\(_never, "):
        await until(_never, within=0.1)
    with pytest.raises(TimeoutError, match=r"after 0\.1 s: await until\(lambda: 1 > 2, "):
        await until(lambda: 1 > 2, within=0.1)


async def test_it_asks_again_and_awaits_what_has_to_be() -> None:
    left = [True, False, False]

    async def is_last() -> bool:
        return left.pop()

    await until(is_last, pause=0)
    assert left == []


async def test_a_condition_s_own_error_is_its_own() -> None:
    async def fails() -> bool:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match=r"^mine$"):
        await until(fails)
