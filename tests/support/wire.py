"""What exactly did a client get, byte for byte? A raw HTTP/1.1 client for tests.

`async with RawClient(host, port) as client:`, then `await client.send(request("GET", "/"))` and
`await client.read_response()`.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.raw import (
    ChunkedBody,
    ClosedByPeerError,
    Field,
    RawStream,
    is_chunked,
    read_chunk,
    read_chunked,
    split_head,
    value_of,
    values_of,
)


@dataclass(slots=True)
class RawResponse:
    """One response as it came."""

    status: int
    reason: str
    head: bytes
    fields: list[Field]
    """In order, with case and repeats."""
    body: bytes = b""
    """The content, without chunk framing."""
    trailers: bytes = b""
    complete: bool = False
    """Whether the framing says that all of it came."""
    chunks: list[bytes] = field(default_factory=list)
    """The data of each chunk, when it came in chunks."""
    interim: list[bytes] = field(default_factory=list)
    """Heads of the 1xx responses before it."""

    def value(self, name: str) -> str | None:
        """The first field of that name, in any case."""
        return value_of(self.fields, name)

    def values(self, name: str) -> list[str]:
        """All fields of that name, in any case."""
        return values_of(self.fields, name)

    def json(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)


def request(
    method: str, target: str, body: bytes | None = None, fields: Iterable[Field] = ()
) -> bytes:
    """A request's bytes, with Host and, with a body, its Content-Length."""
    lines = [f"{method} {target} HTTP/1.1", "Host: test"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


class RawClient:
    """One connection to a server; opened by its `async with` block, closed at its end."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        unix_path: str | Path | None = None,
        tls: ssl.SSLContext | None = None,
        local: str | None = None,
    ) -> None:
        """`local` is the address to come from."""
        self._host, self._port, self._tls = host, port, tls
        self._local = None if local is None else (local, 0)
        self._unix_path = None if unix_path is None else str(unix_path)
        self._chunked: ChunkedBody | None = None
        self.stream: RawStream

    async def __aenter__(self) -> Self:
        """Connect."""
        loop = asyncio.get_running_loop()
        if self._unix_path is not None:
            _, self.stream = await loop.create_unix_connection(
                RawStream,
                self._unix_path,
                ssl=self._tls,
                server_hostname="localhost" if self._tls else None,
            )
        else:
            _, self.stream = await loop.create_connection(
                RawStream, self._host, self._port, ssl=self._tls, local_addr=self._local
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop the connection and wait until it is down."""
        self.stream.transport.abort()
        await self.stream.ended()

    async def send(self, data: bytes) -> None:
        """Send bytes, whatever they are; wait while the server takes none."""
        self.stream.write(data)
        await self.stream.drain()

    def half_close(self) -> None:
        """Send FIN; go on reading."""
        self.stream.half_close()

    def close(self) -> None:
        """Send what was written, then close."""
        self.stream.close()

    def abort(self) -> None:
        """Reset the connection (RST)."""
        self.stream.reset()

    def pause_reading(self) -> None:
        """Take nothing more from the socket."""
        self.stream.pause_reading()

    def resume_reading(self) -> None:
        """Take again what comes."""
        self.stream.resume_reading()

    @property
    def peer_closed(self) -> bool:
        """Whether the server closed or reset."""
        return self.stream.peer_closed

    @property
    def peer_reset(self) -> bool:
        """Whether the server ended with a reset rather than with a clean close."""
        return self.stream.peer_reset

    @property
    def received(self) -> bytes:
        """Every byte that came on this connection."""
        return bytes(self.stream.received)

    @property
    def arrivals(self) -> list[tuple[float, bytes]]:
        """Every piece as the loop handed it over, with the loop's time."""
        return self.stream.arrivals

    async def wait_closed_by_peer(self) -> float:
        """The loop's time at which the server closed or reset; waits for it."""
        return await self.stream.wait_closed_by_peer()

    async def read_exactly(self, count: int) -> bytes:
        """The next `count` bytes."""
        return await self.stream.read_exactly(count)

    async def read_until(self, mark: bytes) -> bytes:
        """All up to and with `mark`."""
        return await self.stream.read_until(mark)

    async def read_head(self) -> bytes:
        """One response head, raw, with the empty line that ends it."""
        return await self.stream.read_head()

    async def read_until_closed(self) -> bytes:
        """All that comes until the server closes or resets (`peer_reset` tells which)."""
        return await self.stream.read_until_closed()

    async def read_chunk(self) -> bytes:
        """After `read_head`: the data of the next chunk; b"" for the last one."""
        if self._chunked is None:
            self._chunked = ChunkedBody()
        data = await read_chunk(self.stream, self._chunked)
        if not data:
            self._chunked = None
        return data

    async def read_response(self, method: str = "GET") -> RawResponse:
        """The next final response to a request with that method.

        A body that is cut comes back with `complete` False. ClosedByPeerError when not even the
        head comes.
        """
        interim: list[bytes] = []
        response = _without_body(await self.read_head())
        while 100 <= response.status < 200 and response.status != 101:
            interim.append(response.head)
            response = _without_body(await self.read_head())
        response.interim = interim
        await self._read_body(response, method)
        return response

    async def _read_body(self, response: RawResponse, method: str) -> None:
        """Fill in the body (RFC 9112, 6.3)."""
        length = response.value("content-length")
        if method == "HEAD" or response.status in {101, 204, 304}:
            response.complete = True
        elif is_chunked(response.fields):
            chunked = await read_chunked(self.stream)
            response.body, response.chunks = chunked.content, chunked.chunks
            response.trailers, response.complete = chunked.trailers, chunked.complete
        elif length is None:
            response.body = await self.read_until_closed()
            response.complete = not self.peer_reset
        else:
            try:
                response.body = await self.read_exactly(int(length))
                response.complete = True
            except ClosedByPeerError as cut:
                response.body = cut.partial


def _without_body(head: bytes) -> RawResponse:
    line, fields = split_head(head)
    _, status, *reason = line.split(" ", 2)
    return RawResponse(int(status), reason[0] if reason else "", head, fields)
