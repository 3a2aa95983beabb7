"""Does each timer fire for what it is meant for, only for that, and say which it was?"""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.harness import (
    CHAT,
    Hand,
    asked,
    assert_refusal,
    chat,
    eventually,
    guarded,
    start_stream,
)
from tests.support.origin import JSON_OK, LAST_CHUNK, Origin, OriginConnection, chunk
from tests.support.wire import request


@pytest.mark.parametrize(
    ("data", "timer", "reason", "status"),
    [
        (chat(), "first_event_s", "upstream_timeout", 504),
        (chat(), "total_s", "upstream_timeout", 504),
        (b"GET / HTTP/1.1\r\nHost:", "head_s", "head_timeout", 408),
        (chat(size=100)[:-10], "body_stall_s", "body_timeout", 408),
        (request("POST", "/free", b"{}")[:-1], "body_stall_s", "body_timeout", 408),
    ],
)
async def test_who_gets_no_answer_in_time_is_told_which_timer_it_was(
    data: bytes, timer: str, reason: str, status: int
) -> None:
    """The setting stands in the message, with its seconds."""
    async with Origin(Hand()) as origin, guarded(origin.url, {f"timers.{timer}": 0.15}) as side:
        refusal = await side.ask(data)
        assert_refusal(refusal, reason, status, retry=False)
        message = refusal.json()["error"]["message"]
        assert "0.15 s (" in message
        assert f"timers.{timer})" in message


async def test_what_nobody_guards_may_be_silent() -> None:
    """Event feeds and long polls outlast `timers.stall_s`; it is there for inferences."""
    hand = Hand()
    async with (
        Origin(hand) as origin,
        guarded(origin.url, {"timers.stall_s": 0.1}) as side,
        side.client() as feed,
    ):
        await feed.send(request("GET", "/events"))
        backend = await asked(origin, 1)
        start_stream(backend)
        await feed.read_head()
        await feed.read_chunk()
        await asyncio.sleep(0.3)  # silence is what this is about
        backend.send(chunk(b"at last"))
        assert await feed.read_chunk() == b"at last"
        hand.finish(backend, LAST_CHUNK)
        assert await feed.read_chunk() == b""


@pytest.mark.parametrize("path", [CHAT, "/upload"])
async def test_no_answer_is_due_before_the_upload_s_end(path: str) -> None:
    """`timers.first_event_s` begins anew with each piece of a body that is passed on."""
    settings = {"timers.first_event_s": 0.5, "queue.body_buffer_bytes": 1000}
    pieces = 25
    loop = asyncio.get_running_loop()
    hand = Hand()
    async with (
        Origin(hand) as origin,
        guarded(origin.url, settings) as side,
        side.client() as client,
    ):
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {2000 + pieces}\r\n\r\n"
        began_s = loop.time()
        await client.send(head.encode() + bytes(2000))
        for _ in range(pieces):
            await client.send(b"x")
            await asyncio.sleep(0.03)  # a slow uploader
        assert loop.time() - began_s > 0.6
        backend = await asked(origin, 1)
        await origin.wait_for(lambda o: o.requests[0].complete)
        hand.finish(backend, JSON_OK)
        assert (await client.read_response("POST")).status == 200


async def test_a_client_that_is_not_read_is_not_blamed() -> None:
    """While the backend takes nothing `timers.body_stall_s` does not end the upload."""
    size = 32 * 1024 * 1024

    async def script(connection: OriginConnection) -> None:
        await connection.read_head()
        connection.pause_reading()
        await taken_again.wait()
        connection.resume_reading()
        await connection.read_body()
        connection.send(JSON_OK)

    taken_again = asyncio.Event()
    async with (
        Origin(script) as origin,
        guarded(origin.url, {"timers.body_stall_s": 0.5}) as side,
        side.client() as client,
    ):
        head = f"POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n".encode()
        sending = asyncio.ensure_future(client.send(head + bytes(size)))
        await origin.wait_for(lambda o: o.requests)
        (at_sidecar,) = side.sidecar.proxy.handler.connections
        await eventually(lambda: at_sidecar._reading_paused)
        await asyncio.sleep(0.8)  # longer than a client may be silent
        taken_again.set()
        await sending
        assert (await client.read_response("POST")).status == 200
