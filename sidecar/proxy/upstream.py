"""How is the backend reached? Its address, kept connections, and one exchange at a time on each."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urlsplit

import aiohappyeyeballs

from sidecar.admission.outcome import Ending
from sidecar.proxy.config import ProxyConfig
from sidecar.proxy.sockets import reset
from sidecar.proxy.timer import LazyTimer
from sidecar.proxy.tls.connecting import HandshakeError, connect_tls
from sidecar.proxy.tls.layer import why_failed
from sidecar.proxy.tls.reloading import ReloadingContext
from sidecar.proxy.wire.bodies import Body, ChunkedBody, LengthBody, UntilCloseBody
from sidecar.proxy.wire.heads import BARE_LF, BadMessageError, ResponseHead, parse_response_head

# How long a tunnel's last bytes may take to reach the backend.
_LINGER_S = 2.0

# RFC 8305, 5: "Connection Attempt Delay", recommended value.
_HAPPY_EYEBALLS_DELAY_S = 0.25


# When there is no file left, one is free again as soon as somebody leaves: how long to wait for
# that, and how often to look (guesses).
_FILES_WAIT_S = 1.0
_FILES_LOOK_S = 0.02


class UpstreamError(Exception):
    """The backend could not be asked, or broke off. `ending` says how."""

    def __init__(self, ending: Ending, message: str) -> None:
        super().__init__(message)
        self.ending = ending


class Receiver(Protocol):
    """Who is told of what comes back."""

    upload_complete: bool

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx head other than 101 arrived."""

    def on_head(self, head: ResponseHead, body: Body, *, more: bool) -> None:
        """The response head arrived. With `more`, `on_data` or `on_end` follows at once."""

    def on_data(self, data: bytes, payload: list[bytes] | None, *, last: bool) -> None:
        """Body bytes arrived, as they were framed; with `last`, `on_end` follows at once."""

    def on_end(self) -> None:
        """The response is complete. Its connection is already somebody else's."""

    def on_broken(self, ending: Ending, why: str) -> None:
        """The connection failed before the response was complete."""

    def on_switch(self, head: ResponseHead, rest: bytes) -> bool:
        """A 101 arrived, and `rest` of the other protocol; False when nobody asked for it."""

    def pause_upload(self) -> None:
        """The backend takes no more for the moment."""

    def resume_upload(self) -> None:
        """The backend takes more."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to the backend. It serves one exchange at a time."""

    __slots__ = (
        "_body",
        "_buffer",
        "_head",
        "_head_request",
        "_owner",
        "_readable",
        "_receiver",
        "_searched",
        "_tunnel",
        "closed",
        "idle_since_s",
        "opened_s",
        "response_started",
        "reused",
        "transport",
        "want_payload",
    )

    def __init__(self, sock: socket.socket, owner: Upstream) -> None:
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._owner = owner
        self._receiver: Receiver | None = None
        self._body: Body | None = None
        self._head: ResponseHead | None = None
        self._buffer = b""
        self._searched = 0  # so much of the buffer holds no end of a head
        self._head_request = False
        self._tunnel: Callable[[bytes], None] | None = None
        self.transport: asyncio.Transport
        self.closed = False
        self.reused = False
        self.response_started = False
        self.want_payload = False
        self.opened_s = 0.0
        self.idle_since_s = 0.0

    # -- the exchange's side --------------------------------------------------------------

    def begin(self, receiver: Receiver, *, head_request: bool) -> None:
        """Serve this exchange from now on."""
        self._receiver = receiver
        self._head_request = head_request
        self.response_started = False
        self.want_payload = False

    def send(self, data: bytes) -> None:
        """Send request bytes, if the backend is still there: uvloop's closed transports raise."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def pause_reading(self) -> None:
        """Read no more for the moment."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def abort(self) -> None:
        """End the connection at once, so that the backend stops working for nobody."""
        self._receiver = None
        self._tunnel = None
        if self.transport.get_write_buffer_size():
            # A mere end would come behind all that the backend does not take.
            reset(self.transport)
        else:
            self.transport.abort()

    def close(self) -> None:
        """End the connection after what was written, or when nobody takes that."""
        self._receiver = None
        self._tunnel = _ignore
        self.transport.close()
        asyncio.get_running_loop().call_later(_LINGER_S, self.transport.abort)

    def tunnel_to(self, take: Callable[[bytes], None]) -> None:
        """From now on hand on every byte as it comes."""
        self._tunnel = take

    def looks_alive(self) -> bool:
        """Whether an idle connection is open and silent, as far as the kernel knows by now.

        The event loop may not have seen the backend's FIN yet, or bytes that nobody asked for
        (Node says 408 to an idle connection); they must not become the next one's answer.
        """
        return not self.closed and not self.transport.is_closing() and not self._readable.poll(0)

    # -- the event loop's side ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep nothing in user space: what is written is in the socket, or writing is paused."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by type
        self.transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the backend."""
        if self._body is not None:
            self._feed(data)
        elif self._tunnel is not None:
            self._tunnel(data)
        elif self._receiver is not None:
            self.response_started = True
            self._take_heads(self._buffer + data if self._buffer else data)
        else:
            # Nobody asked: whatever it is, it must not become the next one's answer.
            self.transport.abort()

    def _take_heads(self, data: bytes) -> None:
        head_max = self._owner.response_head_bytes
        while self._receiver is not None:
            searched, self._searched = self._searched, 0
            end = data.find(b"\r\n\r\n", max(0, searched - 3)) + 4
            if (end if end >= 4 else len(data)) > head_max:
                why = f"the response head exceeds {head_max} bytes (limits.response_head_bytes)"
                self._break(Ending.BAD_RESPONSE, why)
                return
            if end < 4:
                if BARE_LF.search(data, searched) is not None:
                    self._break(Ending.BAD_RESPONSE, "a line in the response head without CR")
                self._buffer = data
                self._searched = len(data)
                return
            self._buffer = b""
            try:
                head = parse_response_head(data[:end])
            except BadMessageError as error:
                self._break(Ending.BAD_RESPONSE, str(error))
                return
            rest = data[end:]
            if head.status == 101:
                if not self._receiver.on_switch(head, rest):
                    why = "the backend switched to a protocol that was not asked for"
                    self._break(Ending.BAD_RESPONSE, why)
                return
            if head.status >= 200:
                self._begin_body(head, rest)
                return
            self._receiver.on_interim(head)
            if not rest:
                return
            data = rest

    def _begin_body(self, head: ResponseHead, rest: bytes) -> None:
        assert self._receiver is not None
        self._head = head
        body = _body_of(head, head_request=self._head_request)
        self._body = body
        more = bool(rest) or body.complete
        self._receiver.on_head(head, body, more=more)
        if isinstance(body, ChunkedBody) and self.want_payload:
            body.payload = []
        if more and self._receiver is not None:
            self._feed(rest)

    def _feed(self, data: bytes) -> None:
        body, receiver = self._body, self._receiver
        assert body is not None
        assert receiver is not None
        try:
            taken = body.feed(data)
        except BadMessageError as error:
            self._break(Ending.CUT, str(error))
            return
        if taken:
            payload = None
            if self.want_payload and isinstance(body, ChunkedBody):
                payload, body.payload = body.payload, []
            own = data if taken == len(data) else data[:taken]
            receiver.on_data(own, payload, last=body.complete)
        if body.complete:
            self._finish(clean=taken == len(data))

    def _finish(self, *, clean: bool) -> None:
        """The response is complete: free the connection first, then say so."""
        receiver, head, body = self._receiver, self._head, self._body
        if receiver is None or head is None:
            return  # ended from within on_data
        self._receiver = self._body = self._head = None
        reusable = (
            clean
            and head.keep_alive
            and not isinstance(body, UntilCloseBody)
            and receiver.upload_complete
            and not self.transport.is_closing()
            and not self.transport.get_write_buffer_size()  # answered without having been read
        )
        if reusable:
            self.reused = True
            # The client may have taken no more of just this last piece: the next one's answer
            # must be read all the same.
            self.resume_reading()
            self._owner.freed(self)
        else:
            self.transport.abort()
        receiver.on_end()

    def eof_received(self) -> bool:
        """The backend said its last word."""
        if isinstance(self._body, UntilCloseBody):
            self._body.complete = True
            self._finish(clean=True)
        elif self._tunnel is not None:
            self._tunnel(b"")
            return self._receiver is not None
        elif self._receiver is not None:
            self._lost("closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.closed = True
        self._owner.lost(self)
        if self._receiver is None:
            return
        if isinstance(exc, ssl.SSLError) and not self.response_started:
            # With TLS 1.3 the backend's verdict on our certificate comes after the handshake.
            why = f"TLS with {self._owner.address} failed: {why_failed(exc)}"
            self._break(Ending.TLS_FAILED, why)
        elif exc is not None and not isinstance(exc, OSError):
            # The event loop ends a connection whose callback fails, and has logged why.
            self._break(Ending.INTERNAL_ERROR, "the answer could not be dealt with")
        else:
            self._lost(f"lost its connection ({exc})" if exc else "closed the connection")

    def _lost(self, why: str) -> None:
        if self._head is not None or self._tunnel is not None:
            self._break(Ending.CUT, f"the backend {why} in the middle of its answer")
        else:
            self._break(Ending.RESET, f"the backend {why} before it answered")

    def _break(self, ending: Ending, why: str) -> None:
        receiver, self._receiver = self._receiver, None
        self._body = self._head = self._tunnel = None
        self.transport.abort()
        if receiver is not None:
            receiver.on_broken(ending, why)

    def pause_writing(self) -> None:
        """The socket is full."""
        if self._receiver is not None:
            self._receiver.pause_upload()

    def resume_writing(self) -> None:
        """The socket takes more."""
        if self._receiver is not None:
            self._receiver.resume_upload()


def _ignore(_: bytes) -> None:
    """Take and forget."""


def _is_out_of_files(error: OSError) -> bool:
    """Whether this process, or the system, has all the files open that it may."""
    numbers = (errno.EMFILE, errno.ENFILE)
    # Where several addresses were tried in vain, their errors are told in one text.
    return error.errno in numbers or any(f"[Errno {number}]" in str(error) for number in numbers)


def _body_of(head: ResponseHead, *, head_request: bool) -> Body:
    """How the response body is delimited (RFC 9112, 6.3)."""
    if head_request or head.status in (204, 304):
        return LengthBody(0)
    if head.chunked:
        return ChunkedBody()
    if head.content_length is not None:
        return LengthBody(head.content_length)
    return UntilCloseBody()


@dataclass(frozen=True, slots=True)
class Address:
    """Where the backend is. `path` is set for a unix socket, `host` and `port` otherwise."""

    host: str
    port: int
    tls: bool
    path: str
    authority: bytes  # for the Host field of requests that come without

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read `http://host[:port]`, `https://host[:port]` or `unix:/path`."""
        if url.startswith("unix:"):
            return cls("", 0, tls=False, path=url.removeprefix("unix:"), authority=b"localhost")
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        host = parts.hostname or ""
        port = parts.port or (443 if tls else 80)
        return cls(host, port, tls, "", parts.netloc.rpartition("@")[2].encode())

    def __str__(self) -> str:
        """Name it as a message to people would."""
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"


class Upstream:
    """The backend: hands out connections, kept ones first."""

    def __init__(self, config: ProxyConfig) -> None:
        self._config = config
        self.address = Address.parse(config.upstream)
        self.response_head_bytes = config.limits.response_head_bytes
        self.tls = ReloadingContext.of_upstream(config.upstream_tls) if self.address.tls else None
        self._idle: deque[UpstreamConnection] = deque()  # longest idle first
        self._loop = asyncio.get_running_loop()
        self._timer = LazyTimer(self._loop, self._expire)
        self._closing = False
        self._opening = 0
        self.busy: set[UpstreamConnection] = set()

    @property
    def idle_count(self) -> int:
        """How many kept connections wait for use."""
        return len(self._idle)

    @property
    def full(self) -> bool:
        """Whether as many connections are in use as are set (`pool.max_connections`)."""
        return len(self.busy) + self._opening >= self._config.pool.max_connections

    def kept(self) -> UpstreamConnection | None:
        """A kept connection that is still open, youngest first; None when there is none."""
        now_s = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            fresh = now_s - connection.idle_since_s < self._config.pool.idle_s
            if fresh and connection.looks_alive():
                self.busy.add(connection)
                return connection
            connection.abort()
        return None

    async def connect(self) -> UpstreamConnection:
        """Open a new connection; raises `UpstreamError`."""
        self._opening += 1
        try:
            async with asyncio.timeout(self._config.timers.connect_s):
                connection = await self._open_when_files_allow()
        except TimeoutError as error:
            raise UpstreamError(
                Ending.CONNECT_TIMEOUT,
                f"no connection to {self.address} within {self._config.timers.connect_s:g} s "
                "(timers.connect_s)",
            ) from error
        except HandshakeError as error:
            message = f"TLS with {self.address} failed: {error}"
            raise UpstreamError(Ending.TLS_FAILED, message) from error
        except OSError as error:
            if _is_out_of_files(error):  # no word about the backend
                message = "the sidecar may open no more files (ulimit -n)"
                raise UpstreamError(Ending.OUT_OF_FILES, message) from error
            message = f"cannot connect to {self.address}: {error.strerror or error}"
            raise UpstreamError(Ending.CONNECT_FAILED, message) from error
        finally:
            self._opening -= 1
        connection.opened_s = self._loop.time()
        self.busy.add(connection)
        return connection

    async def _open_when_files_allow(self) -> UpstreamConnection:
        wait_s = min(_FILES_WAIT_S, self._config.timers.connect_s / 2)  # lest that is blamed
        until_s = self._loop.time() + wait_s
        while True:
            try:
                return await self._open()
            except OSError as error:
                if not _is_out_of_files(error) or self._loop.time() > until_s:
                    raise
            await asyncio.sleep(_FILES_LOOK_S)

    async def _open(self) -> UpstreamConnection:
        address = self.address
        if address.path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                await self._loop.sock_connect(sock, address.path)
            except BaseException:
                sock.close()
                raise
            return await self._adopt(sock)
        infos = await self._loop.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        sock = await aiohappyeyeballs.start_connection(
            infos, happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY_S, interleave=1, loop=self._loop
        )
        return await self._adopt(sock)

    async def _adopt(self, sock: socket.socket) -> UpstreamConnection:
        """Make a connection of a connected socket; the socket is closed if that fails."""

        def protocol() -> UpstreamConnection:
            return UpstreamConnection(sock, self)

        if self.tls is not None:
            name = self._config.upstream_tls.server_name or self.address.host
            return await connect_tls(sock, self.tls.context, name, protocol)
        try:
            if self.address.path:
                _, connection = await self._loop.create_unix_connection(protocol, sock=sock)
            else:
                _, connection = await self._loop.create_connection(protocol, sock=sock)
        except BaseException:
            sock.close()
            raise
        return connection

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection is gone."""
        self.busy.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def freed(self, connection: UpstreamConnection) -> None:
        """An exchange is complete and its connection good for another."""
        self.busy.discard(connection)
        now_s, pool = self._loop.time(), self._config.pool
        if self._closing or now_s - connection.opened_s >= pool.max_age_s:
            connection.abort()
            return
        connection.idle_since_s = now_s
        self._idle.append(connection)
        if len(self._idle) > pool.max_idle:
            self._idle.popleft().abort()
        if len(self._idle) == 1:
            self._timer.set(pool.idle_s)

    def _expire(self) -> None:
        """Close what has been idle too long; the backend is about to do the same."""
        now_s = self._loop.time()
        while self._idle and (
            self._idle[0].closed
            or now_s - self._idle[0].idle_since_s >= self._config.pool.idle_s - 0.001
        ):
            self._idle.popleft().abort()
        if self._idle:
            next_s = self._idle[0].idle_since_s + self._config.pool.idle_s
            self._timer.set(max(0.001, next_s - now_s))

    def close(self) -> None:
        """Close all connections at once."""
        self._closing = True
        self._timer.close()
        for connection in [*self._idle, *self.busy]:
            connection.abort()
        self._idle.clear()
        self.busy.clear()
