"""Does a real process start, drain and stop as it should?"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket

from tests.e2e.harness import chat
from tests.e2e.process import sidecar, start
from tests.support.origin import LAST_CHUNK, SSE_HEAD, Origin, OriginConnection, chunk
from tests.support.wire import request

STREAMS = WAITING = 10


class Streams:
    """A backend that starts a stream for each request and ends them all when told."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, connection: OriginConnection) -> None:
        while True:
            await connection.read_request()
            connection.send(SSE_HEAD + chunk(b"data: one\n\n"))
            await self.go.wait()
            connection.send(chunk(b"data: [DONE]\n\n") + LAST_CHUNK)
            connection.answered()


async def test_sigterm_lets_streams_finish_and_turns_the_waiting_away() -> None:
    """10 streams run, 10 requests wait: the streams end whole, the others are told `draining`."""
    streams = Streams()
    async with (
        Origin(streams) as origin,
        sidecar("run", "--upstream", origin.url, "--max-concurrent", str(STREAMS)) as side,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(side.client()) for _ in range(STREAMS + WAITING)]
        for client in clients[:STREAMS]:
            await client.send(chat())
            await client.read_until(b"data: one\n\n\r\n")
        for client in clients[STREAMS:]:
            await client.send(chat())
        await side.until(in_flight=STREAMS, waiting=WAITING)
        assert (await side.admin_get("/readyz"))[0] == 200

        side.process.send_signal(signal.SIGTERM)
        for client in clients[STREAMS:]:
            refused = await client.read_response("POST")
            assert (refused.status, refused.value("x-sidecar-reason")) == (503, "draining")
            assert (refused.value("retry-after"), refused.value("connection")) == ("1", "close")
        assert (await side.admin_get("/readyz"))[0] == 503
        assert (await side.admin_get("/livez"))[0] == 200
        async with side.client() as newcomer:
            await newcomer.send(chat())
            refused = await newcomer.read_response("POST")
            assert refused.value("x-sidecar-reason") == "draining"

        streams.go.set()
        for client in clients[:STREAMS]:
            rest = await client.read_until_closed()
            assert rest.endswith(chunk(b"data: [DONE]\n\n") + LAST_CHUNK)
            assert not client.peer_reset
        assert await side.ended() == 0
        assert len(origin.requests) == STREAMS
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", side.proxy)) != 0


async def test_a_second_signal_ends_at_once() -> None:
    """Who cannot wait says it twice; the exit code tells that requests were cut off."""
    async with (
        Origin(Streams()) as origin,
        sidecar("run", "--upstream", origin.url) as side,
        side.client() as client,
    ):
        await client.send(chat())
        await client.read_until(b"data: one\n\n\r\n")
        side.process.send_signal(signal.SIGTERM)
        while (await side.admin_get("/readyz"))[0] != 503:
            pass
        side.process.send_signal(signal.SIGTERM)
        assert await side.ended() == 1
        await client.wait_closed_by_peer()


async def test_the_drain_ends_when_its_time_is_over() -> None:
    """A stream that never ends does not keep the process beyond `drain_s`."""
    async with (
        Origin(Streams()) as origin,
        sidecar("run", "--upstream", origin.url, "--drain-s", "0.3") as side,
        side.client() as client,
    ):
        await client.send(chat())
        await client.read_until(b"data: one\n\n\r\n")
        side.process.send_signal(signal.SIGTERM)
        assert await side.ended() == 1


async def test_a_taken_port_is_said_in_one_line() -> None:
    """No traceback: which address, and why."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = await start(
            "run", "--upstream", "http://127.0.0.1:9", "--listen", address, "--admin", "127.0.0.1:0"
        )
        _, error = await process.communicate()
    said = [line for line in error.decode().splitlines() if not line.startswith("{")]
    assert process.returncode == 1
    assert said == [f"openclaw-sidecar: cannot listen on {address}: address already in use"]


async def test_ctrl_c_ends_the_demo_cleanly() -> None:
    """`make run`, a look around, Ctrl-C: exit code 0 and no traceback."""
    async with sidecar("demo") as side:
        async with side.client() as client:
            await client.send(request("POST", "/v1/chat/completions", b'{"messages":[]}'))
            await client.read_response("POST")
        side.process.send_signal(signal.SIGINT)
        assert await side.ended() == 0
        assert side.process.stderr is not None
        assert b"Traceback" not in await side.process.stderr.read()
