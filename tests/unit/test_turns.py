"""Turns: one after another for each key, bounded, and nothing kept of who is gone."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import LockTimeout
from app.tasks.turns import Turns

A, B = ("a", "s3://a"), ("b", "s3://b")


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_one_after_another() -> None:
    turns, inside, most = Turns(), 0, 0

    async def take(*keys: tuple[str, str]) -> None:
        nonlocal inside, most
        async with turns.taken(keys, until=soon(5)):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(take(A, B) if n % 2 else take(B, A) for n in range(20)))
    assert most == 1


async def test_of_different_keys_at_once() -> None:
    turns = Turns()
    async with turns.taken([A], until=soon(1)), turns.taken([B], until=soon(1)), turns.taken([], until=soon(1)):
        pass


async def test_it_gives_up_and_lets_go() -> None:
    turns = Turns()
    async with turns.taken([B], until=soon(1)):
        with pytest.raises(LockTimeout):
            async with turns.taken([A, B], until=soon(0.01)):
                raise AssertionError
        assert turns.waiting == 0
        waiting = asyncio.create_task(wait(turns, B))
        await asyncio.sleep(0)
        assert turns.waiting == 1
        async with turns.taken([A], until=soon(1)):
            pass
    await waiting
    assert turns.waiting == 0


async def wait(turns: Turns, key: tuple[str, str]) -> None:
    async with turns.taken([key], until=soon(5)):
        pass


async def test_what_fails_inside_is_not_its_own_time_out() -> None:
    turns = Turns()
    with pytest.raises(TimeoutError):
        async with turns.taken([A], until=soon(1)):
            raise TimeoutError
    assert not turns._locks, "nothing is kept of turns that nobody wants"
