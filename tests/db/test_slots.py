"""Who waits for a connection, how long, and in which order."""

from __future__ import annotations

import asyncio

import pytest

from app.db.slots import Slots
from app.errors import PoolExhausted
from app.server import patience


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
    users = Users(Slots(1))
    async with users.slots.held():
        waiting = [await users.start(name) for name in "abc"]
    newcomer = asyncio.create_task(users._use("newcomer", urgent=False))
    await asyncio.gather(newcomer, *waiting)
    assert users.order == ["a", "b", "c", "newcomer"]


async def test_heartbeats_go_first() -> None:
    users = Users(Slots(1))
    async with users.slots.held():
        waiting = [await users.start("a"), await users.start("b"), await users.start("heartbeat", urgent=True)]
    await asyncio.gather(*waiting)
    assert users.order == ["heartbeat", "a", "b"]


async def test_who_waited_too_long_leaves_and_takes_no_slot_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "CONNECTION", 0.01)
    users = Users(Slots(1))
    async with users.slots.held():
        with pytest.raises(PoolExhausted, match="became free"):
            await (await users.start("late"))
        assert users.slots.waiting(urgent=False) == 0
    await (await users.start("next"))
    assert users.order == ["next"]


async def test_the_wait_counts_from_when_the_request_came() -> None:
    users = Users(Slots(1))
    patience.arrival.set(asyncio.get_running_loop().time() - patience.CONNECTION)
    async with users.slots.held():
        with pytest.raises(PoolExhausted):
            await (await users.start("waited at the door"))


async def test_nobody_is_refused_for_how_long_others_waited() -> None:
    """Ten times as many as there are slots, after any history: each has its turn."""
    users = Users(Slots(4))
    await asyncio.gather(*[await users.start(str(n)) for n in range(40)])
    assert users.order == [str(n) for n in range(40)]


async def test_room_is_for_a_user_of_each_slot_and_one_that_waits_for_it() -> None:
    users = Users(Slots(2))
    told = []
    users.slots.when_there_is_room = lambda: told.append(users.slots.room)
    assert users.slots.room == 4
    async with users.slots.held(), users.slots.held():
        assert users.slots.room == 2
        waiting = [await users.start(name) for name in "ab"]
        urgent = await users.start("heartbeat", urgent=True)
        assert users.slots.room == 0, "heartbeats take no room"
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        assert told == [1]
    await asyncio.gather(waiting[1], urgent)
    assert told == [1, 1, 2, 3, 4], "who leaves, who is handed a slot (first the heartbeat), and slots that stay free"


async def test_who_is_cancelled_while_it_waits_is_passed_over() -> None:
    users = Users(Slots(1))
    async with users.slots.held():
        gone, after = await users.start("gone"), await users.start("after")
        gone.cancel()
    await after
    assert users.order == ["after"]


async def test_who_is_cancelled_as_the_slot_is_handed_over_passes_it_on() -> None:
    users = Users(Slots(1))
    async with users.slots.held():
        gone, after = await users.start("gone"), await users.start("after")
    gone.cancel()  # the slot was handed to it just now, and it has not run since
    with pytest.raises(asyncio.CancelledError):
        await gone
    await after
    await (await users.start("last"))
    assert users.order == ["after", "last"]
