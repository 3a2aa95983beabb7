"""What does a backend look like that sends exactly the bytes a test wants, when it wants?

`Origin(script)` listens on 127.0.0.1 (or a unix path, or with TLS) and runs the script for every
connection it accepts. It keeps what came, and tells what happened through `wait_for`.

    async with Origin(respond(JSON_OK)) as origin: ...
    async with Origin(Gate()) as origin:  # holds every request until origin.release(n)
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.raw import (
    ClosedByPeerError,
    Field,
    RawStream,
    is_chunked,
    read_chunked,
    split_head,
    value_of,
)

JSON_OK = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'
)
SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
# No stream of events: of such a one an end without its terminal marker would count as broken.
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked coding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


@dataclass(slots=True)
class RawRequest:
    """One request as it came. It is listed from its head on; the body follows when it was read."""

    head: bytes
    connection: OriginConnection
    head_at_s: float
    """The loop's time when the script had the whole head."""
    body: bytes = b""
    """The content, without chunk framing."""
    raw_body: bytes = b""
    """The body as it came, with chunk framing."""
    trailers: bytes = b""
    complete: bool = False
    """Whether the body was read to its end."""
    complete_at_s: float | None = None
    request_line: str = field(init=False)
    fields: list[Field] = field(init=False)

    def __post_init__(self) -> None:
        """Split the head."""
        self.request_line, self.fields = split_head(self.head)

    @property
    def method(self) -> str:
        """The method."""
        return self.request_line.split(" ")[0]

    @property
    def target(self) -> str:
        """The target, raw."""
        return self.request_line.split(" ")[1]

    def value(self, name: str) -> str | None:
        """The first field of that name, in any case."""
        return value_of(self.fields, name)

    def json(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)


class OriginConnection(RawStream):
    """One accepted connection, as a script sees it.

    A request is in flight from its head until the script says `answered()`, reads the next head or
    ends, or until the connection closes.
    """

    def __init__(self, origin: Origin) -> None:
        super().__init__()
        self._origin = origin
        self.accepted_at_s = self._loop.time()
        self.current: RawRequest | None = None
        self._script: asyncio.Task[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted: the script starts."""
        super().connection_made(transport)
        self._script = self._loop.create_task(self._run())
        self._origin.accepted(self, self._script)

    def data_received(self, data: bytes) -> None:
        """More bytes."""
        super().data_received(data)
        self._origin.changed()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is down."""
        super().connection_lost(exc)
        self.answered()

    def _note_peer_gone(self) -> None:
        super()._note_peer_gone()
        self.answered()

    async def read_head(self) -> bytes:
        """The next request's head, raw, with the empty line that ends it."""
        self.answered()
        head = await super().read_head()
        self.current = RawRequest(head, self, self._loop.time())
        self._origin.began(self.current)
        return head

    async def read_body(self) -> RawRequest:
        """The body of the request whose head was read, by its Content-Length or in chunks.

        ClosedByPeerError when it is cut.
        """
        request = self.current
        assert request is not None, "read_head() comes first"
        if is_chunked(request.fields):
            body = await read_chunked(self)
            request.raw_body, request.trailers = body.raw, body.trailers
            request.body, request.complete = body.content, body.complete
            if not body.complete:
                raise ClosedByPeerError(body.raw)
        else:
            request.body = await self.read_exactly(int(request.value("content-length") or 0))
            request.raw_body, request.complete = request.body, True
        request.complete_at_s = self._loop.time()
        self._origin.changed()
        return request

    async def read_request(self) -> RawRequest:
        """The next request, head and body."""
        await self.read_head()
        return await self.read_body()

    def send(self, data: bytes) -> None:
        """Hand bytes to the socket, whatever they are."""
        self.write(data)

    def answered(self) -> None:
        """The current request is done. Say it in the same step as sending the last byte."""
        if self.current is not None:
            self.current = None
            self._origin.in_flight -= 1
        self._origin.changed()

    async def _run(self) -> None:
        """Run the script; a peer that leaves ends it quietly, a mistake in it is kept."""
        try:
            await self._origin.script(self)
        except ClosedByPeerError:
            pass
        except Exception as error:  # noqa: BLE001 - raised again when the origin is left
            self._origin.errors.append(error)
        finally:
            self.answered()
            self.close()


Script = Callable[[OriginConnection], Awaitable[None]]


class Origin:
    """A scripted backend; listens while its `async with` block runs."""

    def __init__(
        self,
        script: Script,
        *,
        port: int = 0,
        unix_path: str | Path | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script = script
        self.host = "127.0.0.1"
        self.port = port
        self.unix_path = None if unix_path is None else str(unix_path)
        self.connections: list[OriginConnection] = []
        """Every connection accepted, also those that ended."""
        self.requests: list[RawRequest] = []
        """Every request whose head came, in the order of their heads."""
        self.in_flight = 0
        self.peak_in_flight = 0
        self.errors: list[Exception] = []
        """What scripts raised; the first is raised again when the block is left."""
        self._tls = tls
        self._scripts: list[asyncio.Task[None]] = []
        self._watchers: list[tuple[Callable[[Origin], object], asyncio.Future[None]]] = []
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        """Where it listens: `http://...`, `https://...` or `unix:PATH`."""
        if self.unix_path is not None:
            return f"unix:{self.unix_path}"
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def accepted_count(self) -> int:
        """Connections accepted so far."""
        return len(self.connections)

    @property
    def open_count(self) -> int:
        """Connections that the peer keeps open now."""
        return sum(not (c.peer_closed or c.closed) for c in self.connections)

    async def __aenter__(self) -> Self:
        """Listen."""
        loop = asyncio.get_running_loop()
        if self.unix_path is not None:
            self._server = await loop.create_unix_server(
                lambda: OriginConnection(self), self.unix_path, ssl=self._tls
            )
        else:
            self._server = await loop.create_server(
                lambda: OriginConnection(self), self.host, self.port, ssl=self._tls
            )
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening and drop all connections. Raises what a script raised."""
        await self.stop()
        if self.errors and error is None:
            raise self.errors[0]

    async def stop(self) -> None:
        """Stop listening and drop all connections, as a backend that dies."""
        self._server.close()
        for script in self._scripts:
            script.cancel()
        await asyncio.gather(*self._scripts, return_exceptions=True)
        for connection in self.connections:
            connection.transport.abort()
        await asyncio.gather(*(connection.ended() for connection in self.connections))
        await self._server.wait_closed()

    async def wait_for(self, condition: Callable[[Origin], object], timeout_s: float = 5.0) -> None:
        """Wait until `condition(origin)` holds.

        It is looked at after each change in the same step, so that even a state of one moment
        counts. TimeoutError, with what is the case, after `timeout_s`.
        """
        if condition(self):
            return
        seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append((condition, seen))
        try:
            await asyncio.wait_for(seen, timeout_s)
        except TimeoutError:
            raise TimeoutError(f"not so within {timeout_s} s; {self}") from None
        finally:
            self._watchers = [watcher for watcher in self._watchers if watcher[1] is not seen]

    def release(self, count: int = 1) -> None:
        """With a `Gate` as the script: let the next `count` requests be answered."""
        assert isinstance(self.script, Gate), "only a Gate holds requests"
        self.script.release(count)

    def __str__(self) -> str:
        """What is the case, in one line."""
        return (
            f"origin {self.url}: {len(self.requests)} requests, {self.in_flight} in flight, "
            f"{self.accepted_count} connections accepted, {self.open_count} open"
        )

    # What connections tell.

    def accepted(self, connection: OriginConnection, script: asyncio.Task[None]) -> None:
        """A connection came."""
        self.connections.append(connection)
        self._scripts.append(script)
        self.changed()

    def began(self, request: RawRequest) -> None:
        """A request's head came."""
        self.requests.append(request)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        self.changed()

    def changed(self) -> None:
        """Something is different: look at what others wait for."""
        for condition, seen in self._watchers:
            if not seen.done() and condition(self):
                seen.set_result(None)


# Ready-made scripts.


def respond(response: bytes) -> Script:
    """Answer each request of a connection with the same bytes, and keep the connection."""

    async def script(connection: OriginConnection) -> None:
        while True:
            await connection.read_request()
            connection.send(response)
            connection.answered()
            await connection.drain()

    return script


json_ok = respond(JSON_OK)


def sse(events: Iterable[bytes], gap_s: float = 0.0) -> Script:
    """Answer each request with an event stream: each of `events` in a chunk, `gap_s` before it."""
    pieces = list(events)

    async def script(connection: OriginConnection) -> None:
        while True:
            await connection.read_request()
            connection.send(SSE_HEAD)
            for piece in pieces:
                await asyncio.sleep(gap_s)
                connection.send(chunk(piece))
                await connection.drain()
            connection.send(LAST_CHUNK)
            connection.answered()

    return script


class Gate:
    """A script that holds each request until `release`, first come, first served.

    One released while nobody waits lets the next request through at once. A request whose client
    leaves gives its place up.
    """

    def __init__(self, response: bytes = JSON_OK) -> None:
        self._response = response
        self._held: deque[asyncio.Future[None]] = deque()
        self._let_through = 0

    @property
    def held_count(self) -> int:
        """Requests held now."""
        return len(self._held)

    def release(self, count: int = 1) -> None:
        """Let the next `count` requests be answered."""
        self._let_through += count
        while self._let_through and self._held:
            self._let_through -= 1
            self._held.popleft().set_result(None)

    async def __call__(self, connection: OriginConnection) -> None:
        """Serve one connection."""
        while True:
            await connection.read_request()
            await self._turn(connection)
            connection.send(self._response)
            connection.answered()

    async def _turn(self, connection: OriginConnection) -> None:
        """Wait to be released. ClosedByPeerError when the client leaves first."""
        if self._let_through:
            self._let_through -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held.append(turn)
        try:
            await asyncio.wait({turn, *connection.endings}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not turn.done():
                self._held.remove(turn)
        if not turn.done():
            raise ClosedByPeerError(b"")
