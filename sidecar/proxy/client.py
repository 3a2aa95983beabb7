"""What does a client's connection do? Heads in, bodies in, answers out, one request at a time."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import select
import socket
import struct
import termios
from array import array
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol, cast

from sidecar.admission.outcome import Ending
from sidecar.proxy.config import Forwarded, ProxyConfig
from sidecar.proxy.fields import Peer
from sidecar.proxy.refusals import ProxyReason, Refusal, refusal_bytes
from sidecar.proxy.request_body import KEEP_MAX, RequestBody, framing_of
from sidecar.proxy.timer import LazyTimer
from sidecar.proxy.wire.heads import BARE_LF, BadMessageError

if TYPE_CHECKING:
    from sidecar.proxy.context import Context
    from sidecar.proxy.handler import Handler

# What a pipelining client may send ahead while its request is being served.
_AHEAD_MAX = 64 * 1024

# After an answer that ends the connection: how long to take what the client still sends, so that
# the kernel does not reset the connection under the answer's last bytes (RFC 9112, 9.6).
_LINGER_S = 2.0

# SO_LINGER on, zero seconds: closing sends RST.
_LINGER_ZERO = struct.pack("ii", 1, 0)

# How often a client that is not being read is asked whether it is still there.
_HANG_UP_S = 0.04

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Relay(Protocol):
    """Who is told what the client's socket does while an answer is on its way."""

    def on_client_full(self) -> None:
        """The socket takes no more: bytes wait in user space."""

    def on_client_ready(self) -> None:
        """All bytes are in the socket."""


class ClientConnection(asyncio.Protocol):
    """One client's connection. Its requests are served one at a time, in order of arrival."""

    __slots__ = (
        "_body",
        "_buffer",
        "_config",
        "_handler",
        "_hang_up",
        "_head_end",
        "_let_in",
        "_reading_paused",
        "_timer",
        "_tunnel",
        "context",
        "exchange_timer",
        "gone",
        "idle",
        "loop",
        "paused",
        "peer",
        "relay",
        "requests",
        "transport",
    )

    def __init__(self, handler: Handler, config: ProxyConfig) -> None:
        self._handler = handler
        self._config = config
        self.loop = asyncio.get_running_loop()
        self._buffer = b""
        self._body: RequestBody | None = None
        self._tunnel: Callable[[bytes], None] | None = None
        self.context: Context | None = None  # the request that is being served
        self._timer = LazyTimer(self.loop, self._on_timer)
        self.exchange_timer = LazyTimer(self.loop, self._on_timer)  # aimed by each exchange
        self._reading_paused = 0
        self._hang_up: select.poll | None = None  # made when it is first needed
        self._let_in = False
        self._head_end = 0  # where the next head ends in the buffer; below 4: not known yet
        self.transport: asyncio.Transport
        self.peer = Peer("", tls=False, trusted=False)
        self.gone = False
        self.idle = True  # between requests
        self.paused = False  # bytes wait here because the socket takes no more
        self.relay: Relay | None = None
        self.requests = 0

    # -- the event loop's side ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep nothing in user space: what is written is in the socket, or `paused` is set."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by type
        self.transport.set_write_buffer_limits(high=0)
        self.peer = _peer_of(self.transport, self._config)
        _keep_alive(self.transport)
        refusal = self._handler.door.enter(self.peer.address)
        self._let_in = refusal is None
        self._handler.connections.add(self)
        self._timer.set(self._config.timers.keepalive_s)
        if refusal is not None:
            self._refuse(refusal)
            self._linger()

    def data_received(self, data: bytes) -> None:
        """Sort bytes: to the tunnel, to the body under way, or to the next head."""
        if self._tunnel is not None:
            self._tunnel(data)
            return
        body = self._body
        if body is not None and not body.complete:
            taken = body.feed(data)
            if self._body is body:  # its request may be served by now
                self._watch_body(body)
            if taken == len(data):
                return
            data = data[taken:]
        self._buffer = self._buffer + data if self._buffer else data
        if self.context is None:
            self._serve_next()
        elif len(self._buffer) > _AHEAD_MAX:
            self.pause_reading()

    def eof_received(self) -> bool:
        """A client that says its last word is gone, as OpenClaw and nginx see it too."""
        if self._tunnel is not None and self.relay is not None:
            self._tunnel(b"")
            return True
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection is gone."""
        self._leave()
        self._timer.close()
        self.exchange_timer.close()
        self._handler.connections.discard(self)
        if self._let_in:
            self._handler.door.leave(self.peer.address)

    def _leave(self) -> None:
        if self.gone:
            return
        self.gone = True
        if self.context is not None:
            self._handler.abandon(self.context, Ending.CLIENT_GONE)

    def pause_writing(self) -> None:
        """The socket is full: bytes wait in user space."""
        self.paused = True
        if self.relay is not None:
            self.relay.on_client_full()

    def resume_writing(self) -> None:
        """All bytes are in the socket."""
        self.paused = False
        if self.relay is not None:
            self.relay.on_client_ready()

    # -- writing --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write to the client, if it is still there: uvloop's closed transports raise."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def untaken(self) -> int:
        """How many bytes written to this client it has not taken yet, here and in the kernel."""
        if self.transport.is_closing():
            return 0
        waiting = self.transport.get_write_buffer_size()
        sock = self.transport.get_extra_info("socket")
        if sock is None:
            return waiting
        unsent = array("i", [0])
        with contextlib.suppress(OSError):  # closed meanwhile
            # SIOCOUTQ (tcp(7), unix(7)): not yet acknowledged, or not yet read, by the peer.
            fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, unsent)
        return waiting + unsent[0]

    # -- reading --------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Stop reading; calls nest."""
        self._reading_paused += 1
        if self._reading_paused == 1 and not self.transport.is_closing():
            self.transport.pause_reading()
            if self._tunnel is None:
                self.loop.call_later(_HANG_UP_S, self._look_for_hang_up)

    def resume_reading(self) -> None:
        """Take back one `pause_reading`."""
        self._reading_paused -= 1
        if self._reading_paused == 0 and not self.transport.is_closing():
            self.transport.resume_reading()

    def _look_for_hang_up(self) -> None:
        """Notice a client that leaves while it is not read: the kernel knows."""
        if not self._reading_paused or self.gone or self.transport.is_closing():
            return
        if self._hang_up is None:
            self._hang_up = select.poll()
            sock = self.transport.get_extra_info("socket")
            # Where POLLRDHUP is unknown (macOS), a hang-up shows when reading goes on.
            self._hang_up.register(sock.fileno(), getattr(select, "POLLRDHUP", 0))
        if self._hang_up.poll(0):
            self._leave()
            self.transport.abort()
        else:
            self.loop.call_later(_HANG_UP_S, self._look_for_hang_up)

    def _serve_next(self) -> None:
        """Serve the next request when its whole head is here, or when it can only be refused."""
        if self.context is not None or not self._has_head():
            return
        self.idle = False
        self._timer.clear()
        try:
            self._handler.serve(self, self._take_head())
        except BadMessageError as error:
            self._refuse_unread(error)
        except Exception:  # noqa: BLE001 - a bug ends one connection, not the process
            self._handler.on_bug()
            self.transport.abort()

    def _has_head(self) -> bool:
        """Whether a whole head is here, or there will never be a good one."""
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):
            self._buffer = buffer = buffer[2:]  # RFC 9112, 2.2: tolerate empty lines before
        if not buffer:
            return False
        end = buffer.find(b"\r\n\r\n")
        self._head_end = end + 4
        small = len(buffer) <= self._config.limits.head_bytes
        if end < 0 and small and BARE_LF.search(buffer) is None:
            if self.idle:
                self.idle = False
                self._timer.set(self._config.timers.head_s)
            return False
        return True

    def _take_head(self) -> bytes:
        """Cut the next head out of what is here; raises `BadMessageError` if that is no head."""
        end = self._head_end
        limit = self._config.limits.head_bytes
        if end > limit or (end < 4 and len(self._buffer) > limit):
            # RFC 9112, 3: where not even the first line fits, it is the target that is too long.
            fits = b"\r\n" in self._buffer[:limit]
            raise BadMessageError(
                f"the request head exceeds {limit} bytes (limits.head_bytes)", 431 if fits else 414
            )
        if end < 4:
            raise BadMessageError("a line in the request head without CR")
        head = self._buffer[:end]
        self._buffer = self._buffer[end:]
        return head

    def begin_body(self, length: int | None, *, chunked: bool) -> RequestBody:
        """The body of the request whose head was just read."""
        if length and length <= len(self._buffer) and length < KEEP_MAX:
            # All here already, as nearly always.
            body = self._body = RequestBody(self, None, self._buffer[:length])
            self._buffer = self._buffer[length:]
            return body
        body = self._body = RequestBody(self, framing_of(length, chunked=chunked))
        if not body.complete:
            if self._buffer:
                taken = body.feed(self._buffer)
                self._buffer = self._buffer[taken:]
            self._watch_body(body)
        return body

    def _watch_body(self, body: RequestBody) -> None:
        """The client owes us the next piece within `body_stall_s`."""
        if body.complete or body.error is not None:
            self._timer.clear()
        else:
            self._timer.set(self._config.timers.body_stall_s)

    def send_continue(self) -> None:
        """Ask for the body that the client holds back."""
        self.write(_CONTINUE)

    def served(self, *, keep: bool) -> None:
        """A request is answered, or never will be; with `keep` the connection takes another."""
        self.context = None
        if not keep or (self._handler.draining and not self._buffer):
            self._close()
            return
        self._body = None
        self.idle = True
        self._timer.set(self._config.timers.keepalive_s)
        if self._reading_paused:
            self._reading_paused = 1
            self.resume_reading()
        if self._buffer:
            # Not at once: whoever pipelines takes turns with everybody else.
            self.loop.call_soon(self._serve_ahead)

    def _serve_ahead(self) -> None:
        """Serve what was sent ahead of the last answer, if its sender is still there."""
        if not self.transport.is_closing():
            self._serve_next()

    # -- refusing -------------------------------------------------------------------------

    def _refuse_unread(self, error: BadMessageError) -> None:
        """Answer what cannot be read as a request, and close: nothing after it can be trusted."""
        reason = {
            408: ProxyReason.HEAD_TIMEOUT,
            414: ProxyReason.HEAD_TOO_LARGE,
            431: ProxyReason.HEAD_TOO_LARGE,
        }.get(error.status, ProxyReason.BAD_REQUEST)
        self._refuse(Refusal.of(reason, str(error), error.status))
        self._linger()  # it may still be sending, whatever is here already

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a connection rather than a request."""
        request_id = self._handler.new_request_id()
        self.write(refusal_bytes(refusal, request_id, close=True, head_only=False))
        self._handler.on_unreadable(self, refusal, request_id)

    # -- endings --------------------------------------------------------------------------

    def _on_timer(self) -> None:
        if self.idle:
            self.transport.close()
        elif self.context is None:
            head_s = self._config.timers.head_s
            why = f"no whole request head within {head_s:g} s (timers.head_s)"
            self._refuse_unread(BadMessageError(why, 408))
        elif self._body is not None and not self._body.complete:
            if self._reading_paused:  # we do not read, so the client is not to blame
                self._watch_body(self._body)
            else:
                self._body.fail(
                    BadMessageError(
                        "nothing of the request body for "
                        f"{self._config.timers.body_stall_s:g} s (timers.body_stall_s)",
                        408,
                    )
                )

    def close_if_idle(self) -> None:
        """Close a connection that waits for its next request: a drain begins."""
        if self.idle and not self._buffer:
            self.transport.close()

    def stop(self) -> None:
        """End the connection and its request at once: the process stops."""
        if self.context is not None:
            self._handler.abandon(self.context, Ending.ABORTED)
        self.transport.abort()

    @property
    def closing(self) -> bool:
        """Whether the current answer must be the connection's last."""
        return self._handler.draining

    def cut(self, *, reset: bool) -> None:
        """Break off: what is written still goes out, unless `reset`, which TCP passes on."""
        if not reset:
            self.transport.close()
            self.loop.call_later(_LINGER_S, self.transport.abort)
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()

    def _close(self) -> None:
        """Close after the last answer; what the client still sends is read and dropped."""
        if self.transport.is_closing():
            return
        body_done = self._body is None or self._body.complete
        if body_done and not self._buffer:
            self.transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """Take and drop what the client still sends, for a moment, then close."""
        self._tunnel = _ignore
        self._reading_paused = 1
        self.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(_LINGER_S, self.transport.abort)
        else:
            self.transport.close()

    def tunnel_to(self, take: Callable[[bytes], None]) -> None:
        """From now on hand on every byte as it comes; b"" stands for the end."""
        self._tunnel = take
        early, self._buffer = self._buffer, b""
        if early:
            take(early)


def _keep_alive(transport: asyncio.Transport) -> None:
    """Have the kernel notice peers that vanished without a word (tcp(7)): after 90 s here."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _ignore(_: bytes) -> None:
    """Take and forget."""


def _peer_of(transport: asyncio.Transport, config: ProxyConfig) -> Peer:
    address = transport.get_extra_info("peername")
    host = address[0] if isinstance(address, tuple) else ""  # a unix socket's peer has no name
    trusted = False
    if config.forwarded is Forwarded.APPEND and host:
        ip = ip_address(host.partition("%")[0])  # without the zone of a link-local address
        ip = getattr(ip, "ipv4_mapped", None) or ip
        trusted = any(ip in network for network in config.trusted_proxies)
    return Peer(host, tls=transport.get_extra_info("ssl_object") is not None, trusted=trusted)
