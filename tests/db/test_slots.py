"""Who waits for a connection, how long, and in which order."""

from __future__ import annotations

import asyncio

import pytest

from app.db import slots
from app.db.slots import Slots
from app.errors import PoolExhausted


class Users:
    """Users of slots, who write down when they have one."""

    def __init__(self, held: Slots) -> None:
        self.slots = held
        self.order: list[str] = []

    async def _use(self, name: str, *, urgent: bool) -> None:
        async with self.slots.held(urgent=urgent):
            self.order.append(name)

    async def start(self, name: str, *, urgent: bool = False) -> asyncio.Task[None]:
        """Let a user come, and wait if it must."""
        task = asyncio.create_task(self._use(name, urgent=urgent))
        for _ in range(5):
            await asyncio.sleep(0)
        return task


async def test_the_order_of_arrival_and_no_newcomer_before_it() -> None:
    users = Users(Slots(1, timeout=5))
    async with users.slots.held():
        waiting = [await users.start(name) for name in "abc"]
    newcomer = asyncio.create_task(users._use("newcomer", urgent=False))
    await asyncio.gather(newcomer, *waiting)
    assert users.order == ["a", "b", "c", "newcomer"]


async def test_heartbeats_go_first() -> None:
    users = Users(Slots(1, timeout=5))
    async with users.slots.held():
        waiting = [await users.start("a"), await users.start("b"), await users.start("heartbeat", urgent=True)]
    await asyncio.gather(*waiting)
    assert users.order == ["heartbeat", "a", "b"]


async def test_who_would_wait_too_long_is_refused_at_once_and_heartbeats_last(monkeypatch: pytest.MonkeyPatch) -> None:
    users = Users(Slots(1, timeout=60))
    monkeypatch.setattr(users.slots, "_mean_use", slots.PATIENCE / 2)  # two may wait
    async with users.slots.held():
        waiting = [await users.start("a"), await users.start("b")]
        assert users.slots.is_overloaded()
        assert not users.slots.is_overloaded(urgent=True)
        with pytest.raises(PoolExhausted, match="serve in time"):
            await (await users.start("c"))
        waiting.append(await users.start("heartbeat", urgent=True))
        assert not waiting[-1].done()
    await asyncio.gather(*waiting)
    assert users.order == ["heartbeat", "a", "b"]
    assert not users.slots.is_overloaded(), "a slot is free"


async def test_who_waited_for_the_timeout_leaves_and_takes_no_slot_along() -> None:
    users = Users(Slots(1, timeout=0.01))
    async with users.slots.held():
        with pytest.raises(PoolExhausted, match="became free"):
            await (await users.start("late"))
    await (await users.start("next"))
    assert users.order == ["next"]


async def test_who_is_cancelled_while_it_waits_is_passed_over() -> None:
    users = Users(Slots(1, timeout=5))
    async with users.slots.held():
        gone, after = await users.start("gone"), await users.start("after")
        gone.cancel()
    await after
    assert users.order == ["after"]


async def test_who_is_cancelled_as_the_slot_is_handed_over_passes_it_on() -> None:
    users = Users(Slots(1, timeout=5))
    async with users.slots.held():
        gone, after = await users.start("gone"), await users.start("after")
    gone.cancel()  # the slot was handed to it just now, and it has not run since
    with pytest.raises(asyncio.CancelledError):
        await gone
    await after
    await (await users.start("last"))
    assert users.order == ["after", "last"]
