"""How do many clients at once behave, where wrk cannot tell? Streams, waiting crowds, a herd."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Any, cast

from tests.bench.contenders import INFERENCE_PATH, REQUEST_BODY, REQUEST_HEADERS
from tests.bench.origin import CHUNK_MARK, END_MARK, Mode
from tests.bench.process import BenchError

# So many connections are opened at a time, so that no listener's backlog overflows.
_BATCH = 250


def request_bytes(port: int, *, stream: bool) -> bytes:
    """The benchmark's request as it goes over the wire."""
    body = (REQUEST_BODY % ("true" if stream else "false")).encode()
    lines = [
        f"POST {INFERENCE_PATH} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        *(f"{name}: {value}" for name, value in REQUEST_HEADERS.items()),
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class Crowd:
    """All clients of one load together: what they have received."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.chunks = 0
        self.answers = 0
        self.refused = 0
        self.closed = 0

    def first_chunks(self) -> int:
        """How many clients have received at least one chunk."""
        return sum(client.begun for client in self.clients)


class Client(asyncio.Protocol):
    """One client: asks once for a stream, or again and again for whole answers."""

    def __init__(self, crowd: Crowd, request: bytes, *, again: bool) -> None:
        self._crowd = crowd
        self._request = request
        self._again = again
        self._tail = b""
        self._accepted = False
        self.begun = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._accepted:
            self._tail += data
            if b"\r\n" not in self._tail:
                return
            self._accepted = self._tail.startswith(b"HTTP/1.1 200 ")
            data, self._tail = self._tail, b""
        if not self._accepted:
            self._crowd.refused += 1
            self.transport.abort()
        elif self._again:
            self._await_end(data)
        else:
            chunks = data.count(CHUNK_MARK)
            self._crowd.chunks += chunks
            self.begun = self.begun or chunks > 0

    def _await_end(self, data: bytes) -> None:
        self._tail += data
        if END_MARK in self._tail:
            self._tail = b""
            self._crowd.answers += 1
            self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._crowd.closed += 1


@contextlib.asynccontextmanager
async def crowd_of(
    count: int, port: int, *, stream: bool, again: bool = False
) -> AsyncIterator[Crowd]:
    """So many clients, all connected and asking; they hang up when the block is left."""
    loop = asyncio.get_running_loop()
    crowd = Crowd()
    request = request_bytes(port, stream=stream)

    async def connect() -> None:
        _, client = await loop.create_connection(
            lambda: Client(crowd, request, again=again), "127.0.0.1", port
        )
        crowd.clients.append(client)

    try:
        for begun in range(0, count, _BATCH):
            async with asyncio.timeout(10):
                await asyncio.gather(*(connect() for _ in range(min(_BATCH, count - begun))))
        yield crowd
    finally:
        for client in crowd.clients:
            client.transport.abort()
        await until(lambda: crowd.closed == len(crowd.clients), "all clients gone")


async def until(condition: Callable[[], bool], what: str, limit_s: float = 20.0) -> None:
    """Wait until that is so; raises `BenchError` that says what did not come to be."""
    try:
        async with asyncio.timeout(limit_s):
            while not condition():  # noqa: ASYNC110 - it counts what others do, at no cost to them
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise BenchError(f"{what}: not within {limit_s:.0f} s") from None


def set_mode(origin_port: int, mode: Mode) -> None:
    """Tell the origin how to answer from now on."""
    get_json(origin_port, "/bench/mode", json.dumps(asdict(mode)))


def counts(origin_port: int) -> dict[str, Any]:
    """What the origin counted since its mode was set (`origin.Counts`)."""
    return get_json(origin_port, "/bench/counts")


def get_json(port: int, path: str, body: str | None = None) -> dict[str, Any]:
    """The JSON that 127.0.0.1 answers with; by POST when there is a body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST" if body else "GET", path, body)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()
