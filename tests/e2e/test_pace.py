"""Does every byte pass at once, and none faster than its reader takes it?"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import (
    CHAT,
    Guarded,
    Hand,
    asked,
    chat,
    eventually,
    guarded,
    on_both_loops,
    status_line,
)
from tests.e2e.test_upgrade import OPEN, SWITCHED
from tests.support.certificates import Certificates
from tests.support.origin import JSON_OK, SSE_HEAD, Gate, Origin, OriginConnection, chunk
from tests.support.raw import RawStream
from tests.support.wire import RawClient, request

MIB = 1024 * 1024
EVENTS = 100

plain_and_tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def client_of(side: Guarded, certificates: Certificates | None) -> RawClient:
    tls = certificates.client if certificates else None
    return RawClient("127.0.0.1", side.listen.port, tls=tls)


# -- at once -----------------------------------------------------------------------------------

# Heads of answers whose bodies the client can read as they come, and how their pieces are framed.
PIECEMEAL: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "sse": (SSE_HEAD, chunk),
    "ndjson": (SSE_HEAD.replace(b"text/event-stream", b"application/x-ndjson"), chunk),
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", bytes),
    "until_close": (b"HTTP/1.1 200 OK\r\n\r\n", bytes),
}


@plain_and_tls
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("kind", PIECEMEAL)
@on_both_loops
async def test_each_event_is_there_before_the_next_is_made(
    certificates: Certificates, kind: str, version: str, tls: bool
) -> None:
    """The backend goes on only when the client has the event before; nothing waits for more."""
    head, framed = PIECEMEAL[kind]
    has_it = asyncio.Semaphore(0)

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(head)
        for number in range(EVENTS):
            await has_it.acquire()
            connection.send(framed(b"data: %d\n\n" % number))
        await connection.wait_closed_by_peer()

    own = certificates if tls else None
    async with (
        Origin(script, tls=own.server if own else None) as origin,
        guarded(origin.url, own.settings if own else {}) as side,
        client_of(side, own) as client,
    ):
        await client.send(chat().replace(b" HTTP/1.1", f" HTTP/{version}".encode(), 1))
        await client.read_head()
        for number in range(EVENTS):
            has_it.release()
            await client.read_until(b"data: %d\n\n" % number)


@pytest.mark.parametrize("path", [CHAT, "/upload"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
async def test_each_piece_of_an_upload_is_there_before_the_next_is_sent(
    path: str, framing: str
) -> None:
    """An upload that has begun to pass is handed on piece by piece, on guarded routes too."""
    begun = b"x" * 2000
    fields = "Transfer-Encoding: chunked" if framing == "chunked" else "Content-Length: 1000000"
    framed: Callable[[bytes], bytes] = chunk if framing == "chunked" else bytes

    async def script(connection: OriginConnection) -> None:
        await connection.read_head()
        await connection.wait_closed_by_peer()

    settings = {"queue.body_buffer_bytes": 1000}
    async with (
        Origin(script) as origin,
        guarded(origin.url, settings) as side,
        side.client() as client,
    ):
        await client.send(f"POST {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n".encode())
        await client.send(framed(begun))
        backend = await asked(origin, 1)
        for number in range(EVENTS):
            await client.send(framed(b"piece %d\n" % number))
            await backend.read_until(b"piece %d\n" % number)


# -- not faster --------------------------------------------------------------------------------


KERNEL_BUFFERS = [Path(f"/proc/sys/net/ipv4/{name}") for name in ("tcp_rmem", "tcp_wmem")]

linux_only = pytest.mark.skipif(
    not KERNEL_BUFFERS[0].exists(), reason="only Linux tells its buffers' sizes"
)

PIECE = random.Random(1).randbytes(64 * 1024)

# What may wait in user space: one read of a socket (256 KiB) in the sidecar, and as much in the
# test's own reader, whose TLS reads ahead.
KEPT_MAX_BYTES = MIB // 2


def most_on_the_way() -> int:
    """What the sockets of one direction, before and behind the sidecar, and it itself may hold."""
    sockets = sum(int(file.read_text().split()[2]) for file in KERNEL_BUFFERS if file.exists())
    return 2 * sockets + KEPT_MAX_BYTES


# More than can be on the way.
FLOOD = most_on_the_way() + 16 * MIB
FLOODED = f"Content-Length: {FLOOD}\r\n\r\n".encode()


def kept_bytes(side: Guarded) -> int:
    """What waits in the sidecar's memory, to be written to either side."""
    proxy = side.sidecar.proxy
    transports = [each.transport for each in proxy.handler.connections]
    transports += [each.transport for each in proxy.upstream.busy]
    return sum(transport.get_write_buffer_size() for transport in transports)


class Flood:
    """One side that writes as fast as it is let."""

    def __init__(self, writer: RawStream) -> None:
        self.written_bytes = 0
        self._writer = writer
        self._task = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        while self.written_bytes < FLOOD and not self._writer.closed:
            self._writer.write(PIECE)
            self.written_bytes += len(PIECE)
            await self._writer.drain()

    async def until_stuck(self) -> None:
        """Wait until it can write no more, for a tenth of a second."""
        same, before = 0, -1
        while same < 50:
            await asyncio.sleep(0.002)
            same = same + 1 if self.written_bytes == before else 0
            before = self.written_bytes
            assert before < FLOOD, "everything could be written, though nobody reads"

    def stop(self) -> None:
        """Write no more."""
        self._task.cancel()


async def assert_held_back(side: Guarded, writer: RawStream, reader: RawStream) -> None:
    """What is written stops when its reader stops, and all of it comes when the reader goes on."""
    reader.pause_reading()
    read = len(reader.received)
    flood = Flood(writer)
    await flood.until_stuck()
    flood.stop()
    taken = flood.written_bytes
    print(f"taken: {taken} bytes; in the sidecar's own memory: {kept_bytes(side)}")
    assert taken <= most_on_the_way()
    assert kept_bytes(side) <= KEPT_MAX_BYTES
    reader.resume_reading()
    await eventually(lambda: len(reader.received) - read >= taken, timeout_s=20)
    assert reader.received[read:] == PIECE * (taken // len(PIECE))


@linux_only
@plain_and_tls
@pytest.mark.parametrize("way", ["down", "up", "tunnel_down", "tunnel_up"])
@on_both_loops
async def test_who_stops_reading_stops_the_other_side(
    certificates: Certificates, way: str, tls: bool
) -> None:
    """Only what the sockets hold is sent ahead of a reader; the sidecar piles up nothing."""
    own = certificates if tls else None
    async with (
        Origin(Hand(), tls=own.server if own else None) as origin,
        guarded(origin.url, own.settings if own else {}) as side,
        client_of(side, own) as client,
    ):
        if way == "down":
            await client.send(chat())
            backend = await asked(origin, 1)
            backend.send(b"HTTP/1.1 200 OK\r\n" + FLOODED)
            await client.read_head()
        elif way == "up":
            await client.send(b"POST /up HTTP/1.1\r\nHost: test\r\n" + FLOODED)
            backend = await asked(origin, 1)
        else:
            await client.send(OPEN)
            backend = await asked(origin, 1)
            backend.send(SWITCHED)
            await client.read_head()
        if way.endswith("down"):
            await assert_held_back(side, backend, client.stream)
        else:
            await assert_held_back(side, client.stream, backend)


@plain_and_tls
@pytest.mark.parametrize("tunnel", [False, True], ids=["answer", "tunnel"])
async def test_who_never_reads_again_is_disconnected(
    certificates: Certificates, tunnel: bool, tls: bool
) -> None:
    """After `timers.write_stall_s` without a byte taken, even by one that goes on talking."""
    own = certificates if tls else None
    settings = {"timers.write_stall_s": 0.3, **(own.settings if own else {})}
    async with (
        Origin(Hand(), tls=own.server if own else None) as origin,
        guarded(origin.url, settings) as side,
        client_of(side, own) as client,
    ):
        await client.send(OPEN if tunnel else chat())
        backend = await asked(origin, 1)
        backend.send(SWITCHED if tunnel else b"HTTP/1.1 200 OK\r\n" + FLOODED)
        await client.read_head()
        client.pause_reading()
        Flood(backend)
        (at_sidecar,) = side.sidecar.proxy.handler.connections
        await eventually(lambda: at_sidecar.paused)
        while tunnel and not at_sidecar.gone and not backend.peer_closed:
            client.stream.write(b"still talking")
            await asyncio.sleep(0.02)
        await backend.wait_closed_by_peer()
        await eventually(lambda: not side.sidecar.proxy.handler.connections)
        label = {"route": "upgrade" if tunnel else "inference", "outcome": "client_stalled"}
        assert (await side.metrics()).value("requests_total", **label) == 1


@on_both_loops
async def test_what_is_sent_ahead_is_not_taken_ahead() -> None:
    """Of a body that waits for a slot no more is taken than is set, however fast it comes."""
    upload = chat(size=8 * MIB)
    settings = {"queue.body_buffer_bytes": 1000, "max_concurrent": 1}
    async with (
        Origin(Gate()) as origin,
        guarded(origin.url, settings) as side,
        side.client() as first,
        side.client() as fast,
    ):
        origin.release()
        await fast.send(upload)  # the sockets learn to take much at once
        assert (await fast.read_response("POST")).status == 200
        await first.send(chat())
        await origin.wait_for(lambda o: o.in_flight == 1)
        # Before the sidecar has its turn: in one turn uvloop reads a socket up to 32 times.
        fast.stream.write(upload)
        await side.until_waiting(1)
        assert 1000 <= side.guard().held_bytes <= MIB
        origin.release(2)
        assert (await first.read_response("POST")).status == 200
        assert (await fast.read_response("POST")).status == 200
        assert origin.requests[-1].body == upload.partition(b"\r\n\r\n")[2]


async def last_piece_waits(side: Guarded, origin: Origin, client: RawClient) -> bool:
    """Ask, and read nothing: whether just the last piece of the answer is more than fits."""
    proxy = side.sidecar.proxy
    await eventually(lambda: proxy.handler.connections)
    (at_sidecar,) = proxy.handler.connections
    sock = at_sidecar.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client.pause_reading()
    count = len(origin.requests) + 1
    await client.send(chat())
    await asked(origin, count)
    await eventually(lambda: at_sidecar.paused or at_sidecar.idle)
    return at_sidecar.paused and proxy.upstream.idle_count == 1


@on_both_loops
async def test_a_kept_connection_is_read_again_whoever_read_slowly_before() -> None:
    """Also where its reading was stopped by the very last piece of an answer."""
    sizes = iter(range(16 * 1024, MIB, 16 * 1024))  # one of them is a little more than fits

    async def script(connection: OriginConnection) -> None:
        while True:
            got = await connection.read_request()
            connection.send(status_line(200, body=bytes(2 if got.method == "GET" else next(sizes))))
            connection.answered()

    async with Origin(script) as origin, guarded(origin.url) as side:
        waits = False
        while not waits:
            async with side.client() as slow:
                waits = await last_piece_waits(side, origin, slow)
                if waits:
                    assert (await side.ask(request("GET", "/next"), "GET")).body == bytes(2)
                slow.resume_reading()
                assert (await slow.read_response("POST")).complete
            await eventually(lambda: not side.sidecar.proxy.handler.connections)
        assert origin.accepted_count == 1


@on_both_loops
async def test_a_backend_that_answers_what_it_has_not_read_is_not_asked_again_there() -> None:
    """Bytes of one request that still wait to be sent never stand before the next one's."""
    too_large = asyncio.Event()

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.pause_reading()
        connection.send(JSON_OK)
        connection.answered()
        await too_large.wait()
        connection.send(status_line(413))
        await connection.ended()

    async with Origin(script) as origin, guarded(origin.url) as side:
        assert (await side.ask(chat())).status == 200
        (kept,) = side.sidecar.proxy.upstream._idle
        sock = kept.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        async with side.client() as client:
            await client.send(chat(size=MIB // 2))  # comes whole, and is in part in the kernel
            await eventually(kept.transport.get_write_buffer_size)
            too_large.set()
            assert (await client.read_response("POST")).status == 413
            assert side.sidecar.proxy.upstream.idle_count == 0
            await client.send(request("GET", "/"))
            assert (await client.read_response()).json() == {"ok": True}
        assert origin.accepted_count == 2
