"""What answers behind a sidecar under attack? A small backend in a thread of its own.

Paths say what it does: `/hang` never answers, `/some` sends 64 KiB, `/big` 16 MiB, `/stream` one
event and then nothing, `/tunnel` switches protocols and reads no more. All others get `ok`.
"""

from __future__ import annotations

import asyncio
import re
import threading
from types import TracebackType
from typing import Self, cast

import uvloop

from tests.support.origin import SSE_HEAD, chunk

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SOME = bytes(64 * 1024)
BIG = bytes(16 * 1024 * 1024)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"

_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)


class _Connection(asyncio.Protocol):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._left = 0  # of the body that is being read
        self._buffer = b""
        self._chunked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._backend.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._backend.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._chunked:
            return  # how it ends is of no interest here
        if self._left:
            taken = min(self._left, len(data))
            self._left -= taken
            data = data[taken:]
            if not self._left:
                self.transport.write(OK)
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
            self._serve(head)

    def _serve(self, head: bytes) -> None:
        self._backend.requests += 1
        length = _LENGTH.search(head)
        body_bytes = int(length[1]) if length else 0
        if len(self._buffer) < body_bytes:
            self._left, self._buffer = body_bytes - len(self._buffer), b""
            return
        self._buffer = self._buffer[body_bytes:]
        if b" /tunnel" in head:
            self.transport.write(SWITCHED)
            self.transport.pause_reading()
            self._backend.connections.discard(self)  # it will not hear of its end
            self._backend.tunnels.append(self)
        elif b" /some" in head:
            self._answer(SOME)
        elif b" /big" in head:
            self._answer(BIG)
        elif b" /stream" in head:
            self.transport.write(SSE_HEAD + chunk(b"data: 1\n\n"))
        elif b"chunked" in head:
            self._chunked = True
        elif b" /hang" not in head:
            self.transport.write(OK)

    def _answer(self, body: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        self.transport.write(body)


class Backend:
    """Listens while its `with` block runs."""

    def __init__(self) -> None:
        self.connections: set[_Connection] = set()
        self.tunnels: list[_Connection] = []
        self.requests = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self._port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for connection in [*self.connections, *self.tunnels]:
            connection.transport.abort()
        await server.wait_closed()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
