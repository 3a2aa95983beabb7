"""How do one request and its answer cross? Bytes go from socket to socket in callbacks.

Nothing is kept and nothing is delayed: what the backend sends is written to the client in the
same turn of the event loop. When a socket takes no more, the other side is not read until it does.
Whoever started the exchange is told of its one ending.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from sidecar.admission.outcome import Ending, Said
from sidecar.proxy.client import ClientConnection
from sidecar.proxy.config import Timers
from sidecar.proxy.fields import client_head, interim_head, switching_head
from sidecar.proxy.request_body import RequestBody
from sidecar.proxy.switching import is_agreed
from sidecar.proxy.upstream import UpstreamConnection
from sidecar.proxy.watch import Watch
from sidecar.proxy.wire.bodies import Body, ChunkedBody, LengthBody, UntilCloseBody
from sidecar.proxy.wire.heads import RequestHead, ResponseHead
from sidecar.telemetry.facts import ConnectionEnd

# There is nobody left who would take what is still to be written.
_NO_FLUSH = frozenset({Ending.CLIENT_STALLED, Ending.ABORTED})


class Exchange:
    """One request on its way to the backend, and the answer on its way back."""

    # What may be set before `start_timers`: `stall_s` is the time between data (infinite: no
    # bound), `extra_lines` are field lines for the response, `upgrade` allows a tunnel,
    # `error_events` keeps half a stream from looking whole, and `promised` says that the head of a
    # stream in chunks has been sent already, by whoever had the client wait.
    first_event_s: float
    stall_s: float
    extra_lines: list[bytes] | None = None
    upgrade = False
    error_events = False
    promised = False
    # What most exchanges never change stands here once, and is not set for each of them.
    status: int | None = None
    ending = Ending.INTERNAL_ERROR
    why = ""
    bytes_out = 0
    bytes_in_tunnel = 0
    head_sent = False
    tunnel = False
    _connection: UpstreamConnection | None = None  # while the backend is at work
    _used: UpstreamConnection | None = None
    _total: asyncio.TimerHandle | None = None
    _head_bytes = b""
    _rechunk = False
    _dechunk = False
    _until_close = False  # for the client, the end of the connection ends the answer
    _flushing = False
    _half_closed = 0
    _taken = 0
    _upload_paused = False
    _close_client = False
    _ended = False
    _response_body: Body | None = None
    _unfinished = False  # it ended well, but not as its dialect ends
    _withheld = False  # an answer that is no stream, where one was promised

    def __init__(
        self,
        client: ClientConnection,
        request: RequestHead,
        request_id: bytes,
        body: RequestBody,
        timers: Timers,
        watch: Watch,
        on_ended: Callable[[], None],
    ) -> None:
        """`on_ended` is called once, unless the exchange is released before it ends."""
        self.watch = watch
        self._client = client
        self._request = request
        self._request_id = request_id
        self._body = body
        self._timers = timers
        self._timer = client.exchange_timer
        self.first_event_s = timers.first_event_s
        self.stall_s = timers.stall_s
        self.upload_complete = body.complete
        self._on_ended = on_ended

    def start_timers(self) -> None:
        """The time for the first event, and for the whole, begins now."""
        self._silence_s = self.first_event_s
        self._timer.aim(self._on_timer, self.first_event_s)
        if self._timers.total_s is not None:
            self._total = self._client.loop.call_later(self._timers.total_s, self._on_total)

    @property
    def on_stale_connection(self) -> bool:
        """Whether it went out on a kept connection and nothing at all came back."""
        used = self._used
        return used is not None and used.reused and not used.response_started

    @property
    def may_keep_client(self) -> bool:
        """Whether the client's connection can serve another request after this one."""
        return not self._close_client and self.upload_complete

    # -- towards the backend --------------------------------------------------------------

    def begin(self, connection: UpstreamConnection, head: bytes) -> None:
        """Send the request head and what is there of the body; the rest follows as it comes."""
        self._connection = self._used = connection
        connection.begin(self, head_request=self._request.method == b"HEAD")
        self._client.relay = self
        body = self._body
        if body.error is not None:
            self._on_body(b"")  # nothing of a malformed request is for the backend
            return
        self.upload_complete = body.complete  # it may have ended while we connected
        kept = body.take_kept()
        connection.send(head + kept if kept else head)
        if not body.complete:
            body.attach(self._on_body)

    def _on_body(self, piece: bytes) -> None:
        body, connection = self._body, self._connection
        if self._ended or connection is None:
            return
        if body.error is not None:
            self.why = str(body.error)
            self._end(Ending.CLIENT_BODY)
            return
        if piece:
            connection.send(piece)
        self.upload_complete = body.complete
        if self.watch.first_event_at_s is None:
            self._timer.set(self.first_event_s)  # no answer is due before the upload's end

    def pause_upload(self) -> None:
        """The backend takes no more: stop reading the client."""
        if not self._upload_paused and (self.tunnel or not self.upload_complete):
            self._upload_paused = True
            self._client.pause_reading()

    def resume_upload(self) -> None:
        """The backend takes more."""
        if self._upload_paused:
            self._upload_paused = False
            self._client.resume_reading()

    # -- towards the client ---------------------------------------------------------------

    def on_interim(self, head: ResponseHead) -> None:
        """Pass on a 1xx; HTTP/1.0 knows none (RFC 9110, 15.2)."""
        if self._request.minor == 1:
            data = interim_head(head)
            self.bytes_out += len(data)
            self._client.write(data)  # not an answer yet: `head_sent` stays as it is

    def on_head(self, head: ResponseHead, body: Body, *, more: bool) -> None:
        """Send the head, together with the first bytes of the body where they are here (`more`)."""
        request = self._request
        self.status = head.status
        self._response_body = body
        self.watch.on_head(head)
        self._close_client = not request.keep_alive or self._client.closing
        if request.minor == 0 and isinstance(body, (ChunkedBody, UntilCloseBody)):
            self._close_client = True  # the end of the connection is the only end it knows
            self._dechunk = isinstance(body, ChunkedBody)
            self._until_close = True
        elif isinstance(body, UntilCloseBody) or (
            self.promised and not isinstance(body, ChunkedBody)
        ):
            self._rechunk = True
        if not self._body.complete:
            self._close_client = True  # an answer before the upload's end
        connection = self._connection
        if connection is not None and (self._dechunk or self.watch.judge is not None):
            connection.want_payload = True
        if self.promised:
            self._begin_promised()
            return
        data = client_head(
            head,
            request,
            self._request_id,
            self.extra_lines,
            close=self._close_client,
            rechunk=self._rechunk,
        )
        if more:
            self._head_bytes = data
        else:
            self._write(data)

    def _begin_promised(self) -> None:
        """A stream goes on behind the head that was sent; anything else is told as an error event.

        That head said nothing about closing, so the connection is not kept.
        """
        self._close_client = True
        if not self.watch.streams:
            self._withheld = self._rechunk = True

    def on_data(self, data: bytes, payload: list[bytes] | None, *, last: bool) -> None:
        """Hand body bytes on, as they were framed wherever the client can read that framing."""
        watch = self.watch
        alive = watch.saw([data] if payload is None else payload)
        if last and self.error_events and watch.on_end() is Said.UNFINISHED:
            data = self._without_end(data)
        if self._rechunk:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._dechunk:
            data = b"".join(payload or ())
        if self._head_bytes:
            data, self._head_bytes = self._head_bytes + data, b""
        if alive and not last:
            if watch.first_event_at_s is not None:
                self._silence_s = self.stall_s
            self._timer.set(self._silence_s)
        if not self._withheld:
            self._write(data)

    def _without_end(self, data: bytes) -> bytes:
        """Keep back what would make half an answer look whole."""
        body = self._response_body
        if isinstance(body, ChunkedBody) and body.last_chunk_at >= 0 and not self._dechunk:
            self._unfinished = True
            return data[: body.last_chunk_at]
        return data

    def _write(self, data: bytes) -> None:
        self.head_sent = True
        self.bytes_out += len(data)
        self._client.write(data)

    def on_client_full(self) -> None:
        """The client's socket takes no more: stop reading the backend."""
        self._taken = self._client_took()
        self._timer.set(self._timers.write_stall_s)
        if self._connection is not None:
            self._connection.pause_reading()

    def on_client_ready(self) -> None:
        """The client's socket has everything."""
        if self._flushing:
            self._end(Ending.COMPLETED)
        elif self._connection is not None:
            self._timer.set(self._silence_s)
            self._connection.resume_reading()

    def _client_took(self) -> int:
        return self.bytes_out - self._client.untaken()

    # -- the other protocol, after a 101 ------------------------------------------------------

    def on_switch(self, head: ResponseHead, rest: bytes) -> bool:
        """Become a tunnel, if the client asked for that; returns whether it did."""
        connection = self._connection
        if not self.upgrade or connection is None or not is_agreed(self._request, head):
            return False
        self.status = head.status
        self.tunnel = True
        self._close_client = True
        self._silence_s = self._timers.tunnel_idle_s or math.inf
        self._timer.set(self._silence_s)
        self._write(switching_head(head))
        connection.tunnel_to(self._from_backend)
        if rest:
            self._from_backend(rest)
        self._client.tunnel_to(self._from_client)
        return True

    def _from_client(self, data: bytes) -> None:
        """Hand on what the client says; nothing means that it has said its last word."""
        if self._connection is None:
            return
        if data:
            self.bytes_in_tunnel += len(data)
            if not self._client.paused:  # else the timer waits for the client to take something
                self._timer.set(self._silence_s)
            self._connection.send(data)
        else:
            self._half_close(self._connection.transport)

    def _from_backend(self, data: bytes) -> None:
        if data:
            self._timer.set(self._silence_s)
            self._write(data)
        else:
            self._half_close(self._client.transport)

    def _half_close(self, transport: asyncio.Transport) -> None:
        """Pass on the end of one direction; the second end is the end of the tunnel."""
        self._half_closed += 1
        if self._half_closed == 2 or not transport.can_write_eof():
            self.end_tunnel()
        elif not transport.is_closing():
            transport.write_eof()

    def end_tunnel(self) -> None:
        """Close both sides; what was written still goes out."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._end(Ending.COMPLETED)

    # -- endings --------------------------------------------------------------------------

    def on_end(self) -> None:
        """The backend's answer is complete; the exchange is, once the client's socket has it."""
        self._connection = None  # first: it is not ours to pause any more
        said = self.watch.on_end()
        if self._withheld:
            self.why = f"the backend answered {self.status}"
            self.say_broken("upstream_error")
            self._end(Ending.COMPLETED)
            return
        if said is Said.UNFINISHED and self._rechunk and self.error_events:
            self._unfinished = True
        if self._unfinished:
            self.why = "the backend ended the stream without its terminal marker"
            self._end(Ending.CUT)
            return
        last = self._head_bytes
        if self._rechunk:
            last += b"0\r\n\r\n"
        if last:
            self._head_bytes = b""
            self._write(last)
        if self._client.paused:
            self._flushing = True
            self._timer.set(self._timers.write_stall_s)
            return
        self._end(Ending.COMPLETED)

    def on_broken(self, ending: Ending, why: str) -> None:
        """The backend failed."""
        self.why = why
        self._connection = None
        if ending is Ending.CUT and not self.head_sent:
            ending = Ending.BAD_RESPONSE  # broken framing right behind the head: no harm done yet
        # Closing is how a tunnel normally ends, whoever does it and however abruptly.
        self._end(Ending.COMPLETED if self.tunnel else ending)

    def _on_timer(self) -> None:
        if self._client.paused:
            self._on_write_stall()
            return
        if self.tunnel:
            self._client.note_end(ConnectionEnd.TUNNEL_IDLE)
            self.end_tunnel()
        elif self.watch.first_event_at_s is None:
            self.why = f"no data within {self.first_event_s:g} s (timers.first_event_s)"
            self._end(Ending.FIRST_EVENT_TIMEOUT)
        else:
            self.why = f"no data for {self.stall_s:g} s (timers.stall_s)"
            self._end(Ending.STALL_TIMEOUT)

    def _on_total(self) -> None:
        self.why = f"the answer took longer than {self._timers.total_s:g} s (timers.total_s)"
        self._end(Ending.TOTAL_TIMEOUT)

    def _on_write_stall(self) -> None:
        taken = self._client_took()
        if taken > self._taken:
            self._taken = taken
            self._timer.set(self._timers.write_stall_s)
            return
        self.why = (
            f"the client took nothing for {self._timers.write_stall_s:g} s (timers.write_stall_s)"
        )
        self._end(Ending.CLIENT_STALLED)

    def fail(self, ending: Ending, why: str) -> None:
        """There was no backend to ask."""
        self.why = why
        self._end(ending)

    def say_broken(self, code: str) -> None:
        """End a broken stream in the words of its dialect, where there is room for them."""
        event = self.watch.last_words(f"openclaw-sidecar: {self.why}", code)
        framed = self._framed(event) if event is not None else None
        if framed is not None:
            self._write(framed)

    def _framed(self, event: bytes) -> bytes | None:
        """Bytes that put `event` behind what was sent; None where the framing has no room for it.

        Where only the end of the connection ends the answer it will be reset, and that throws
        away what the client has not read.
        """
        body, chunk = self._response_body, b"%x\r\n%b\r\n" % (len(event), event)
        if self._until_close:
            return None
        if self._rechunk or body is None:
            return chunk
        if isinstance(body, ChunkedBody):
            finishing = b"" if body.complete else body.finishing(self.watch.filler)
            return finishing + chunk if finishing is not None else None
        if isinstance(body, LengthBody) and len(event) < body.left:
            return event  # and still short of its length
        return None

    def cut_client(self) -> None:
        """Break the client's connection off, so that an answer that is cut looks cut."""
        # Where only the end of the connection ends the answer, a plain close would look whole.
        self._client.cut(reset=self._until_close or self.ending in _NO_FLUSH)

    def _end(self, ending: Ending) -> None:
        """Set the one ending, and stop the backend if it is still at work."""
        if self._ended:
            return
        self.ending = ending
        self.release()
        self._on_ended()

    def release(self) -> None:
        """Let go of timers, the client's callbacks and the backend. Safe to call again."""
        self._ended = True
        self._timer.clear()
        if self._total is not None:
            self._total.cancel()
        self._client.relay = None
        if self._upload_paused:
            self.resume_upload()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
