"""What does a client's connection do? Heads in, bodies in, answers out, one request at a time."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import re
import select
import socket
import termios
from array import array
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol, cast

from sidecar.admission.outcome import Ending
from sidecar.proxy import sockets
from sidecar.proxy.config import Forwarded, ProxyConfig
from sidecar.proxy.fields import Peer
from sidecar.proxy.refusals import ProxyReason, Refusal, refusal_bytes
from sidecar.proxy.request_body import KEEP_MAX, RequestBody, framing_of
from sidecar.proxy.timer import LazyTimer
from sidecar.proxy.wire.heads import BARE_LF, BadMessageError
from sidecar.telemetry.facts import ConnectionEnd

if TYPE_CHECKING:
    from sidecar.proxy.context import Context
    from sidecar.proxy.handler import Handler

# What a pipelining client may send ahead while its request is being served; then it is not read.
_AHEAD_MAX = 64 * 1024

# RFC 9112, 2.2: empty lines before a request are passed over. Old clients send one, nobody eight.
_EMPTY_LINES_MAX = 8
_EMPTY_LINES = re.compile(rb"(?:\r\n){0,%d}+" % _EMPTY_LINES_MAX)

# The event loop reads up to 8 MB from a socket in one go, 256 KB at a time (libuv). After a piece
# of this size it is stopped and sent on to the other connections.
_LARGE_PIECE = 128 * 1024

# After an answer that ends the connection: how long to take what the client still sends, so that
# the kernel does not reset the connection under the answer's last bytes (RFC 9112, 9.6).
_LINGER_S = 2.0

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
        "_body_due",
        "_body_step",
        "_buffer",
        "_config",
        "_end",
        "_handler",
        "_hang_up_timer",
        "_head_end",
        "_let_in",
        "_passed_over",
        "_reading_paused",
        "_searched",
        "_taken",
        "_timer",
        "_told",
        "_tunnel",
        "_yielding",
        "context",
        "exchange_timer",
        "gone",
        "group",
        "idle",
        "loop",
        "paused",
        "peer",
        "proven",
        "relay",
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
        self._hang_up_timer: asyncio.TimerHandle | None = None
        self._let_in = False
        self._head_end = 0  # where the next head ends in the buffer; below 4: not known yet
        self._searched = 0  # so much of the buffer holds no end of a head
        self._passed_over = 0  # bytes of empty lines before it
        self._body_step = 1  # bytes of the body that must come within `body_stall_s`
        self._body_due = 0  # the body's size at which the next such time begins
        self._taken: int | None = None  # while waited for: bytes the client had taken by then
        self._yielding = False  # not read until the loop's next turn
        self._told = False  # turned away, and told why
        self._end: ConnectionEnd | None = None  # why the connection ends, once that is known
        self.transport: asyncio.Transport
        self.peer = Peer("", tls=False, trusted=False)
        self.group = ""  # whom it counts for at the door
        self.gone = False
        self.idle = True  # between requests
        self.paused = False  # bytes wait here because the socket takes no more
        self.relay: Relay | None = None
        self.proven = False  # a request was served

    # -- the event loop's side ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep nothing in user space: what is written is in the socket, or `paused` is set."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by type
        self.transport.set_write_buffer_limits(high=0)
        self.peer = _peer_of(self.transport, self._config)
        _keep_alive(self.transport)
        self.group = self._handler.door.group_of(self.peer.address)
        refusal = self._handler.door.enter(self.group)
        self._let_in = refusal is None
        self._handler.connections.add(self)
        if refusal is None:
            self._timer.set(self._config.timers.keepalive_s)
        else:
            self._turn_away(refusal)

    def data_received(self, data: bytes) -> None:
        """Sort bytes: to the tunnel, to the body under way, or to the next head."""
        if len(data) >= _LARGE_PIECE and not self._yielding:
            self._yielding = True
            self.transport.pause_reading()
            self.loop.call_soon(self._end_yield)
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
        # Sent ahead: a request is being served, its answer is not taken, or the next has its turn.
        ahead = self.context is not None or self._taken is not None or (self.idle and self._buffer)
        self._buffer = self._buffer + data if self._buffer else data
        if not ahead:
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
        self._leave_door()
        if self._told:
            self._handler.door.end_telling()
        self._handler.ended[self._end or ConnectionEnd.CUT] += 1

    def _leave_door(self) -> None:
        if self._let_in:
            self._let_in = False
            self._handler.door.leave(self.group)

    def _leave(self) -> None:
        if self.gone:
            return
        self.gone = True
        if self.idle:
            self.note_end(ConnectionEnd.LEFT_IDLE)
        elif self.context is None and self._taken is None:
            self.note_end(ConnectionEnd.LEFT_IN_HEAD)
        else:
            self.note_end(ConnectionEnd.LEFT_IN_REQUEST)
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
        elif self._taken is not None:
            self._taken = None
            self._await_request()

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
            if self._hang_up_timer is None:
                self._hang_up_timer = self.loop.call_later(_HANG_UP_S, self._look_for_hang_up)

    def resume_reading(self) -> None:
        """Take back one `pause_reading`."""
        self._reading_paused -= 1
        if self._reading_paused == 0 and not self.transport.is_closing():
            self.transport.resume_reading()
            if self._body is not None:
                self._body_due = 0  # while it was not read it could not be late
                self._watch_body(self._body)

    def _end_yield(self) -> None:
        """The other connections have had their turn."""
        self._yielding = False
        if not self._reading_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _read_on(self) -> None:
        """Read again: what was sent ahead has been used up."""
        if self._reading_paused:
            self._reading_paused = 1
            self.resume_reading()

    def _look_for_hang_up(self) -> None:
        """Notice a client that leaves while it is not read: the kernel knows."""
        self._hang_up_timer = None
        if not self._reading_paused or self.gone or self.transport.is_closing():
            return
        sock = self.transport.get_extra_info("socket")
        # Where POLLRDHUP is unknown (macOS), a hang-up shows when reading goes on. In a tunnel the
        # end of what the client says is not its end; only a reset is.
        signs = select.POLLERR
        if self._tunnel is None:
            signs |= getattr(select, "POLLRDHUP", 0)
        kernel = select.poll()
        kernel.register(sock.fileno(), signs)
        if any(event & signs for _, event in kernel.poll(0)):
            self._leave()
            self.transport.abort()
        else:
            self._hang_up_timer = self.loop.call_later(_HANG_UP_S, self._look_for_hang_up)

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
            self.abort()

    def _has_head(self) -> bool:
        """Whether a whole head is here, or there will never be a good one."""
        buffer = self._buffer
        if buffer.startswith(b"\r\n"):
            empty = _EMPTY_LINES.match(buffer)
            assert empty is not None, "it begins with one"
            end = min(empty.end(), 2 * _EMPTY_LINES_MAX - self._passed_over)
            self._passed_over += end
            self._buffer = buffer = buffer[end:]
            self._searched = 0
        if not buffer:
            return False
        # Only what is new is searched: a head may come byte by byte.
        searched = self._searched
        end = buffer.find(b"\r\n\r\n", max(0, searched - 3))
        self._head_end = end + 4
        small = len(buffer) <= self._config.limits.head_bytes
        if end < 0 and small and BARE_LF.search(buffer, searched) is None:
            self._searched = len(buffer)
            if self.idle:
                self.idle = False
                self._timer.set(self._config.timers.head_s)
            return False
        return True

    def _take_head(self) -> bytes:
        """Cut the next head out of what is here; raises `BadMessageError` if that is no head."""
        self._searched = self._passed_over = 0
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
            self._read_on()
            if self._buffer:
                taken = body.feed(self._buffer)
                self._buffer = self._buffer[taken:]
            self._body_due, self._body_step = 0, 1
            self._watch_body(body)
        return body

    def demand_pace(self) -> None:
        """The body under way must come at `body_min_bytes_per_s`; single bytes will not do."""
        step = self._config.limits.body_min_bytes_per_s * self._config.timers.body_stall_s
        self._body_step = max(1, int(step))

    def _watch_body(self, body: RequestBody) -> None:
        """The client owes us the next `_body_step` bytes, or the rest, within `body_stall_s`."""
        if body.complete or body.error is not None:
            self._timer.clear()
        elif body.size >= self._body_due:
            self._body_due = body.size + self._body_step
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
        self.proven = True
        if self.paused:
            # A refusal; of other answers the exchange takes care. Whoever does not take it gets
            # no more of them.
            self._taken = -self.untaken()
            self._timer.set(self._config.timers.write_stall_s)
        else:
            self._await_request()

    def _await_request(self) -> None:
        """The next request may come, and may be here already."""
        self.idle = True
        self._timer.set(self._config.timers.keepalive_s)
        if self._buffer:
            # Not at once: whoever pipelines takes turns with everybody else.
            self.loop.call_soon(self._serve_ahead)
        else:
            self._read_on()

    def _serve_ahead(self) -> None:
        """Serve what was sent ahead of the last answer, if its sender is still there."""
        if self.transport.is_closing():
            return
        if self._has_head():
            self._serve_next()
        else:
            self._read_on()

    # -- refusing -------------------------------------------------------------------------

    def _refuse_unread(self, error: BadMessageError) -> None:
        """Answer what cannot be read as a request, and close: nothing after it can be trusted."""
        reason = {
            408: ProxyReason.HEAD_TIMEOUT,
            414: ProxyReason.HEAD_TOO_LARGE,
            431: ProxyReason.HEAD_TOO_LARGE,
            503: ProxyReason.TOO_MANY_CONNECTIONS,
        }.get(error.status, ProxyReason.BAD_REQUEST)
        self.note_end(ConnectionEnd.UNREADABLE)
        self._refuse(Refusal.of(reason, str(error), error.status))
        self._linger()  # it may still be sending, whatever is here already

    def _turn_away(self, refusal: Refusal) -> None:
        """There is no place: say so, unless too many are being told already."""
        self.note_end(ConnectionEnd.TURNED_AWAY)
        self._told = self._handler.door.begin_telling()
        if self._told:
            self._refuse(refusal)
            self._linger()
        else:
            self.transport.abort()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a connection rather than a request."""
        request_id = self._handler.new_request_id()
        self.write(refusal_bytes(refusal, request_id, close=True, head_only=False))
        self._handler.on_unreadable(self, refusal, request_id)

    # -- endings --------------------------------------------------------------------------

    def note_end(self, end: ConnectionEnd) -> None:
        """The connection ends, for that reason unless another was first."""
        if self._end is None:
            self._end = end

    def _on_timer(self) -> None:
        if self._taken is not None:
            self._on_write_stall(self._taken)
        elif self.idle:
            self.note_end(ConnectionEnd.IDLE_TIMEOUT)
            self.transport.close()
        elif self.context is None:
            head_s = self._config.timers.head_s
            why = f"no whole request head within {head_s:g} s (timers.head_s)"
            self._refuse_unread(BadMessageError(why, 408))
        elif self._body is not None and not self._body.complete:
            if self._reading_paused:  # we do not read, so the client is not to blame
                self._body_due = 0
                self._watch_body(self._body)
            else:
                self._body.fail(BadMessageError(self._why_body_failed(), 408))

    def _why_body_failed(self) -> str:
        stall_s = self._config.timers.body_stall_s
        if self._body_step == 1:
            return f"nothing of the request body for {stall_s:g} s (timers.body_stall_s)"
        return (
            f"less than {self._config.limits.body_min_bytes_per_s} bytes/s of the request body "
            f"for {stall_s:g} s (limits.body_min_bytes_per_s, timers.body_stall_s)"
        )

    def _on_write_stall(self, taken_before: int) -> None:
        self._taken = -self.untaken()
        if self._taken > taken_before:
            self._timer.set(self._config.timers.write_stall_s)
        else:
            self.note_end(ConnectionEnd.WRITE_STALL)
            self.transport.abort()

    @property
    def waits(self) -> bool:
        """Whether no request has arrived, so that its place may be given to somebody else."""
        return (
            self.context is None
            and self._let_in
            and self._tunnel is None
            and not (self.idle and self._buffer)
        )

    @property
    def deadline_s(self) -> float:
        """When it would be closed anyhow."""
        return self._timer.deadline_s

    def give_way(self, limit: str) -> None:
        """Close, because the place is needed: idle connections as ever, the others are told."""
        self.note_end(ConnectionEnd.MADE_ROOM)
        self._leave_door()
        if self.idle:
            self.transport.close()
        elif self._taken is not None:
            self.transport.abort()
        else:
            why = f"the place was needed before a whole request had come ({limit})"
            self._refuse_unread(BadMessageError(why, 503))

    def close_if_idle(self) -> None:
        """Close a connection that waits for its next request: a drain begins."""
        if self.idle and not self._buffer:
            self.note_end(ConnectionEnd.SHUTDOWN)
            self.transport.close()

    def stop(self) -> None:
        """End the connection and its request at once: the process stops."""
        self.note_end(ConnectionEnd.SHUTDOWN)
        if self.context is not None:
            self._handler.abandon(self.context, Ending.ABORTED)
        self.transport.abort()

    def abort(self) -> None:
        """Break off at once, because of a bug of ours."""
        self.note_end(ConnectionEnd.CUT)
        self.transport.abort()

    @property
    def closing(self) -> bool:
        """Whether the current answer must be the connection's last."""
        return self._handler.draining

    def cut(self, *, reset: bool) -> None:
        """Break off: what is written still goes out, unless `reset`, which TCP passes on."""
        self.note_end(ConnectionEnd.CUT)
        if reset:
            sockets.reset(self.transport)
        else:
            self.transport.close()
            self.loop.call_later(_LINGER_S, self.transport.abort)

    def _close(self) -> None:
        """Close after the last answer; what the client still sends is read and dropped."""
        if self.transport.is_closing():
            return
        self.note_end(ConnectionEnd.ANSWERED)
        body_done = self._body is None or self._body.complete
        if body_done and not self._buffer:
            self.transport.close()
            if self.paused:  # the last bytes of a tunnel, which a client may never take
                self.loop.call_later(self._config.timers.write_stall_s, self.transport.abort)
        else:
            self._linger()

    def _linger(self) -> None:
        """Take and drop what the client still sends, for a moment, then close."""
        self._timer.clear()
        self._tunnel = _ignore
        self._reading_paused = 1
        self.resume_reading()
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError):  # reset meanwhile; uvloop does not say so here
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
