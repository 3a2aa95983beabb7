"""Are lines and their clock a fair stand-in for sockets? The same scenes on both, seen alike."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import uvloop

from tests.fuzz.lines import End, connect
from tests.fuzz.virtual_time import DeadlockError, VirtualLoop, virtual_loop
from tests.support.raw import RawStream


class Side(RawStream):
    """Notes what happens to it, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=0)

    def eof_received(self) -> bool:
        self.notes.append("end")
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.notes.append("reset" if exc else "lost")
        super().connection_lost(exc)


Scene = Callable[[Side, Side], Awaitable[None]]


async def turns() -> None:
    """Let what is on its way arrive, on any loop."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        await loop.quiet()
    else:
        await asyncio.sleep(0.02)


async def say_and_close(near: Side, far: Side) -> None:
    near.write(b"hello")
    near.close()
    await far.wait_closed_by_peer()


async def say_and_abort(near: Side, far: Side) -> None:
    near.write(b"hello")
    near.transport.abort()
    await far.wait_closed_by_peer()


async def say_and_reset(near: Side, far: Side) -> None:
    near.write(b"hello")
    near.reset()
    await far.wait_closed_by_peer()


async def half_close(near: Side, far: Side) -> None:
    near.write(b"hello")
    near.half_close()
    await far.wait_closed_by_peer()
    far.write(b"still here")
    await near.read_exactly(10)
    far.close()
    await near.wait_closed_by_peer()


async def close_with_something_unread(near: Side, far: Side) -> None:
    near.pause_reading()
    far.write(b"hello")
    await turns()
    near.close()
    await far.wait_closed_by_peer()


async def say_to_one_that_is_gone(near: Side, far: Side) -> None:
    near.close()
    await far.wait_closed_by_peer()
    far.write(b"hello")
    await turns()
    far.write(b"hello?")
    await turns()


async def read_late(near: Side, far: Side) -> None:
    far.pause_reading()
    near.write(b"hello")
    near.close()
    await turns()
    far.notes.append("nothing yet")
    far.resume_reading()
    await far.wait_closed_by_peer()


SCENES = [
    say_and_close,
    say_and_abort,
    say_and_reset,
    half_close,
    close_with_something_unread,
    say_to_one_that_is_gone,
    read_late,
]


@asynccontextmanager
async def over_tcp() -> AsyncIterator[tuple[Side, Side]]:
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[Side] = loop.create_future()

    def accept() -> Side:
        side = Side()
        accepted.set_result(side)
        return side

    server = await loop.create_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, near = await loop.create_connection(Side, "127.0.0.1", port)
    far = await accepted
    try:
        yield near, far
    finally:
        server.close()
        for side in (near, far):
            side.transport.abort()
            await side.ended()


@asynccontextmanager
async def over_a_line() -> AsyncIterator[tuple[Side, Side]]:
    far = Side()
    near = connect(asyncio.get_running_loop(), lambda _: Side(), far)
    yield near, far
    for side in (near, far):
        side.transport.abort()


async def play(
    scene: Scene, between: Callable[[], AbstractAsyncContextManager[tuple[Side, Side]]]
) -> dict[str, object]:
    async with between() as (near, far):
        await scene(near, far)
        await turns()
        return {
            "near": (near.notes[:], bytes(near.received)),
            "far": (far.notes[:], bytes(far.received)),
        }


@pytest.mark.parametrize("scene", SCENES)
def test_a_line_ends_as_a_connection_does(scene: Scene) -> None:
    """FIN and RST come when TCP under uvloop would send them, and what is read is the same."""
    on_tcp = uvloop.run(play(scene, over_tcp))
    with virtual_loop() as loop:
        assert loop.run_until_complete(play(scene, over_a_line)) == on_tcp


def test_a_slow_end_pauses_writing() -> None:
    """What is written to a slow end arrives later, and whoever writes is told of it."""
    with virtual_loop() as loop:

        async def main() -> None:
            far = Side()
            near = connect(loop, lambda _: Side(), far, near_slow=True)
            near.write(b"hello")
            assert near.transport.get_write_buffer_size() == 5
            assert not near._writable.is_set()
            await loop.quiet()
            assert near.transport.get_write_buffer_size() == 0
            assert near._writable.is_set()
            assert far.received == b"hello"

        loop.run_until_complete(main())


def test_writing_after_the_end_is_noticed() -> None:
    """A line raises at once where uvloop drops what is written, and would raise a moment later."""
    with virtual_loop() as loop:

        async def main() -> None:
            near = connect(loop, lambda _: Side(), Side())
            near.close()
            with pytest.raises(AssertionError):
                near.write(b"hello")

        loop.run_until_complete(main())


def test_the_kernel_s_view_shows_what_waits() -> None:
    """poll(2) sees bytes that nobody has read yet, and a peer that has gone."""
    with virtual_loop() as loop:

        async def main() -> None:
            far = Side()
            near = connect(loop, lambda _: Side(), far)
            end = near.transport
            assert isinstance(end, End)
            poll = select.poll()
            poll.register(end.sock.fileno())
            assert not poll.poll(0)
            near.pause_reading()
            far.write(b"hello")
            assert poll.poll(0)[0][1] & select.POLLIN
            near.resume_reading()
            await loop.quiet()
            assert not poll.poll(0)
            near.pause_reading()
            far.close()
            await loop.quiet()
            assert poll.poll(0)[0][1] & select.POLLHUP

        loop.run_until_complete(main())


def test_time_passes_at_once() -> None:
    """Hours of waiting take no time, in the right order; waiting for nothing is an error."""
    with virtual_loop() as loop:
        seen: list[str] = []

        async def main() -> None:
            loop.call_later(3600, seen.append, "an hour")
            loop.call_later(60, seen.append, "a minute")
            await loop.quiet()
            assert seen == []
            await asyncio.sleep(4000)
            assert seen == ["a minute", "an hour"]
            assert loop.time() == pytest.approx(4000)

        loop.run_until_complete(main())
        with pytest.raises(DeadlockError):
            loop.run_until_complete(loop.create_future())
