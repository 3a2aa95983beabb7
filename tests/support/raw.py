"""How do tests read and write bytes that no HTTP library would send, and see who hung up when?

`RawStream` is one connection, either end; the scripted origin and the raw client are built on it.
`read_chunked` and `split_head` read HTTP/1.1 leniently and keep what they read as it came.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from typing import Any, cast

# SO_LINGER with time 0: close() sends RST instead of FIN (socket(7), tcp(7)).
LINGER_RESET = struct.pack("ii", 1, 0)

Field = tuple[str, str]


class ClosedByPeerError(EOFError):
    """The peer closed or reset before what was asked for had come; `partial` is what had."""

    def __init__(self, partial: bytes) -> None:
        super().__init__(f"the peer closed after {len(partial)} bytes: {partial[:200]!r}")
        self.partial = partial


class RawStream(asyncio.Protocol):
    """One connection. Bytes are taken in as they come; who reads them waits without polling."""

    def __init__(self) -> None:
        self.received = bytearray()
        """Every byte that came, also those already read."""
        self.arrivals: list[tuple[float, bytes]] = []
        """Every piece as the loop handed it over, with the loop's time."""
        self.peer_reset = False
        """Whether the peer ended with a reset rather than with a clean close."""
        self._read_to = 0  # how much of `received` has been read
        self._loop = asyncio.get_running_loop()
        self._peer_gone: asyncio.Future[float] = self._loop.create_future()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._is_tls = False
        self.transport: asyncio.Transport

    # What the loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is up."""
        self.transport = cast("asyncio.Transport", transport)
        self._is_tls = transport.get_extra_info("ssl_object") is not None

    def data_received(self, data: bytes) -> None:
        """More bytes."""
        self.received += data
        self.arrivals.append((self._loop.time(), data))
        self._news.set()

    def eof_received(self) -> bool:
        """The peer sends no more. Our own direction stays open, except with TLS."""
        self._note_peer_gone()
        return not self._is_tls

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is down; with an error, the peer reset it."""
        if exc is not None and not self._peer_gone.done():
            self.peer_reset = True
            self._note_peer_gone()
        self._lost.set_result(None)
        self._news.set()
        self._writable.set()

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._writable.set()

    def _note_peer_gone(self) -> None:
        if not self._peer_gone.done():
            self._peer_gone.set_result(self._loop.time())
        self._news.set()

    # Reading.

    @property
    def unread(self) -> bytes:
        """What came and was not read yet."""
        return bytes(self.received[self._read_to :])

    @property
    def peer_closed(self) -> bool:
        """Whether the peer closed or reset."""
        return self._peer_gone.done()

    @property
    def closed(self) -> bool:
        """Whether the connection is down in both directions."""
        return self._lost.done()

    @property
    def endings(self) -> set[asyncio.Future[Any]]:
        """Futures of which one is done as soon as the peer has left or the connection is down."""
        return {self._peer_gone, self._lost}

    async def read_exactly(self, count: int) -> bytes:
        """The next `count` bytes. ClosedByPeerError when they do not come."""
        while len(self.received) - self._read_to < count:
            await self._more()
        return self._take(count)

    async def read_until(self, mark: bytes) -> bytes:
        """All up to and with `mark`. ClosedByPeerError when it does not come."""
        while (at := self.received.find(mark, self._read_to)) < 0:
            await self._more()
        return self._take(at + len(mark) - self._read_to)

    async def read_head(self) -> bytes:
        """One message head, raw, with the empty line that ends it."""
        return await self.read_until(b"\r\n\r\n")

    async def read_until_closed(self) -> bytes:
        """All that comes until the peer closes or resets (`peer_reset` tells which)."""
        try:
            while True:
                await self._more()
        except ClosedByPeerError as end:
            return end.partial

    async def wait_closed_by_peer(self) -> float:
        """The loop's time at which the peer closed or reset; waits for it.

        RuntimeError when this side closed first: then nobody can know.
        """
        await asyncio.wait(self.endings, return_when=asyncio.FIRST_COMPLETED)
        if not self._peer_gone.done():
            raise RuntimeError("this side closed the connection first")
        return self._peer_gone.result()

    def pause_reading(self) -> None:
        """Take nothing more from the socket. A close is not noticed meanwhile, a reset may be."""
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take again what comes."""
        self.transport.resume_reading()

    def _take(self, count: int) -> bytes:
        taken = bytes(self.received[self._read_to : self._read_to + count])
        self._read_to += count
        return taken

    async def _more(self) -> None:
        """Wait for something new."""
        if self.peer_closed or self.closed:
            raise ClosedByPeerError(self._take(len(self.received) - self._read_to))
        self._news.clear()
        await self._news.wait()

    # Writing and ending.

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket, whatever they are."""
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the write buffer is low again (as asyncio's streams do)."""
        await self._writable.wait()

    def half_close(self) -> None:
        """Send FIN after what was written; go on reading."""
        self.transport.write_eof()

    def close(self) -> None:
        """Send what was written, then FIN."""
        self.transport.close()

    def reset(self) -> None:
        """Drop what was not sent yet and send RST (on a unix socket: close at once)."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self.transport.abort()

    async def ended(self) -> None:
        """Wait until the connection is down."""
        await asyncio.wait({self._lost})


@dataclass(slots=True)
class ChunkedBody:
    """A chunked body as it was read (RFC 9112, 7.1)."""

    raw: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    trailers: bytes = b""
    complete: bool = False

    @property
    def content(self) -> bytes:
        """The chunks put together."""
        return b"".join(self.chunks)


async def read_chunk(stream: RawStream, body: ChunkedBody) -> bytes:
    """The next chunk's data, b"" for the last one (its trailers are read too); noted in `body`."""
    line = await stream.read_until(b"\r\n")
    body.raw += line
    size = int(line.split(b";")[0], 16)
    if size:
        data = await stream.read_exactly(size + 2)
        body.raw += data
        body.chunks.append(data[:-2])
        return data[:-2]
    while (trailer := await stream.read_until(b"\r\n")) != b"\r\n":
        body.trailers += trailer
    body.raw += body.trailers + b"\r\n"
    body.complete = True
    return b""


async def read_chunked(stream: RawStream) -> ChunkedBody:
    """A whole chunked body; what came of it, with `complete` False, when the peer cuts it."""
    body = ChunkedBody()
    try:
        while await read_chunk(stream, body):
            pass
    except ClosedByPeerError as cut:
        body.raw += cut.partial
    return body


def split_head(head: bytes) -> tuple[str, list[Field]]:
    """First line and fields, in order, with case and repeats; bytes as Latin-1."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    fields = []
    for line in lines:
        name, _, value = line.partition(":")
        fields.append((name, value.strip(" \t")))
    return first, fields


def value_of(fields: list[Field], name: str) -> str | None:
    """The first field of that name, in any case; None without one."""
    return next((value for key, value in fields if key.lower() == name.lower()), None)


def values_of(fields: list[Field], name: str) -> list[str]:
    """All fields of that name, in any case, in order."""
    return [value for key, value in fields if key.lower() == name.lower()]


def is_chunked(fields: list[Field]) -> bool:
    """Whether the body comes in chunks."""
    return (value_of(fields, "transfer-encoding") or "").lower().endswith("chunked")
