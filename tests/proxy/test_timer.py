"""Does the timer that moves all the time fire once, at the last deadline it was given?"""

from __future__ import annotations

import asyncio

import pytest

from sidecar.proxy.timer import LazyTimer

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


class Bell:
    """Notes when it was rung."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.started_s = self.loop.time()
        self.rung_after_s: list[float] = []
        self.heard = asyncio.Event()

    def ring(self) -> None:
        self.rung_after_s.append(self.loop.time() - self.started_s)
        self.heard.set()

    async def next(self) -> float:
        async with asyncio.timeout(5):
            await self.heard.wait()
        self.heard.clear()
        return self.rung_after_s[-1]


async def pass_by(seconds: float) -> None:
    """Let real time go on: the timer is about nothing else."""
    await asyncio.sleep(seconds)


async def test_it_fires_once() -> None:
    """After the time it was set to, not before, and not again."""
    bell = Bell()
    timer = LazyTimer(bell.loop, bell.ring)
    timer.set(0.02)
    assert await bell.next() >= 0.018
    await pass_by(0.03)
    assert len(bell.rung_after_s) == 1


async def test_moved_later_it_fires_late() -> None:
    """Each move counts from its own moment."""
    bell = Bell()
    timer = LazyTimer(bell.loop, bell.ring)
    timer.set(0.01)
    timer.set(0.05)
    assert await bell.next() >= 0.048
    assert len(bell.rung_after_s) == 1


async def test_moved_earlier_it_fires_early() -> None:
    """A shorter time does not wait for the longer one's end."""
    bell = Bell()
    timer = LazyTimer(bell.loop, bell.ring)
    timer.set(60)
    timer.set(0.01)
    assert await bell.next() < 2
    timer.close()


async def test_moved_often_it_fires_once_at_the_end() -> None:
    """As with a stream: every piece moves it, silence lets it fire."""
    bell = Bell()
    timer = LazyTimer(bell.loop, bell.ring)
    for _ in range(5):
        timer.set(0.02)
        await pass_by(0.005)
    assert await bell.next() >= 0.038
    assert len(bell.rung_after_s) == 1


async def test_cleared_it_does_not_fire_and_may_be_set_again() -> None:
    """Forgetting a deadline leaves the timer good for another."""
    bell = Bell()
    timer = LazyTimer(bell.loop, bell.ring)
    timer.set(0.01)
    timer.clear()
    await pass_by(0.02)
    assert not bell.rung_after_s
    timer.set(0.01)
    await bell.next()
    timer.set(0.01)
    timer.clear()
    timer.set(0.01)
    await bell.next()
    assert len(bell.rung_after_s) == 2


async def test_closed_it_does_not_fire() -> None:
    """Nothing is left in the loop."""
    bell = Bell()
    timer = LazyTimer(bell.loop, bell.ring)
    timer.close()
    timer.set(0.01)
    timer.close()
    await pass_by(0.02)
    assert not bell.rung_after_s


async def test_aimed_anew_it_tells_the_new_one_only() -> None:
    """Whoever aims last is told."""
    first, second = Bell(), Bell()
    timer = LazyTimer(first.loop, first.ring)
    timer.set(0.01)
    timer.aim(second.ring, 0.01)
    await second.next()
    assert not first.rung_after_s


async def test_set_from_its_own_callback_it_goes_on() -> None:
    """A callback may ask for another round."""
    bell = Bell()
    timer = LazyTimer(bell.loop, bell.ring)

    def again() -> None:
        bell.ring()
        if len(bell.rung_after_s) < 3:
            timer.set(0.005)

    timer.aim(again, 0.005)
    while len(bell.rung_after_s) < 3:
        await bell.next()
