"""What happens to one request, from its head to its settled permit?

1. Who asks for what: request id, caller, route.
2. A guarded route gathers the body, then asks admission and waits for a slot.
3. A connection to the backend is found or opened; head and body go out.
4. The answer is relayed to its last byte (see `exchange`).
5. The permit goes back with the outcome, and the observers hear of it.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic

from sidecar.admission.answers import Permit, Rejection, Ticket
from sidecar.admission.guard import Guard
from sidecar.admission.outcome import Ending
from sidecar.admission.routes import ByModel, RouteTable
from sidecar.proxy.body_model import asked_in
from sidecar.proxy.client import ClientConnection
from sidecar.proxy.config import Forwarded, ProxyConfig
from sidecar.proxy.context import Context
from sidecar.proxy.door import Door
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.fields import upstream_head
from sidecar.proxy.recurring import Heads, Recurring
from sidecar.proxy.refusals import ProxyReason, Refusal, refusal_bytes, waited_lines
from sidecar.proxy.switching import wants_upgrade
from sidecar.proxy.upstream import Upstream, UpstreamError
from sidecar.proxy.waiting_room import WaitingRoom
from sidecar.proxy.watch import Watch
from sidecar.proxy.wire.heads import BadMessageError, RequestHead
from sidecar.telemetry.facts import ConnectionEnd, RequestFact

FREE = "free"  # the route of requests that nothing guards
UPGRADE = "upgrade"  # the guard of WebSockets and other upgrades

_VALID_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
# W3C Trace Context, 3.2.2: no version ff, no id of zeros, and version 00 says no more than this.
_TRACE_PARENT = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)

# Safe to send twice (RFC 9110, 9.2.2). A POST is not: an inference would run, and cost, twice.
_REPLAYABLE = frozenset({b"GET", b"HEAD", b"OPTIONS"})

_REASON_OF = {
    Ending.CONNECT_FAILED: ProxyReason.UPSTREAM_UNREACHABLE,
    Ending.TLS_FAILED: ProxyReason.UPSTREAM_UNREACHABLE,
    Ending.CONNECT_TIMEOUT: ProxyReason.UPSTREAM_TIMEOUT,
    Ending.FIRST_EVENT_TIMEOUT: ProxyReason.UPSTREAM_TIMEOUT,
    Ending.TOTAL_TIMEOUT: ProxyReason.UPSTREAM_TIMEOUT,
    Ending.STALL_TIMEOUT: ProxyReason.UPSTREAM_TIMEOUT,
    Ending.RESET: ProxyReason.UPSTREAM_RESET,
    Ending.CUT: ProxyReason.UPSTREAM_RESET,
    Ending.BAD_RESPONSE: ProxyReason.UPSTREAM_BAD_RESPONSE,
    Ending.OUT_OF_FILES: ProxyReason.OUT_OF_FILES,
}


class _HeldBytes:
    """Accounts for the body bytes that one request keeps in memory until it asks for its slot."""

    __slots__ = ("_counts",)

    def __init__(self, *guards: Guard) -> None:
        """While a request's class is open, any of the possible ones may hold its bytes."""
        self._counts = dict.fromkeys(guards, 0)

    def add(self, count: int) -> Refusal | None:
        """Keep `count` more, or say why not."""
        rejection = None
        for guard in self._counts:
            rejection = guard.hold_bytes(count)
            if rejection is None:
                self._counts[guard] += count
                return None
        assert rejection is not None
        return Refusal.from_rejection(rejection)

    def release(self) -> None:
        """They are no longer this one's to account for."""
        for guard, count in self._counts.items():
            guard.release_bytes(count)


class Handler:
    """Serves requests. One for the process; it knows the guards, the backend and the observers.

    Each step either leads to the next one at once, or leaves in the context what is waited for;
    whoever brings that calls the next step. So a request that need not wait is sent on in the
    same turn of the event loop in which it came. `_finish` is where all ways end, exactly once.
    """

    def __init__(
        self,
        config: ProxyConfig,
        routes: RouteTable,
        rooms: Mapping[str, WaitingRoom],
        upstream: Upstream,
        *,
        probe_s: float,
        on_request: Callable[[RequestFact], None],
        on_bug: Callable[[], None],
    ) -> None:
        """`probe_s` bounds a probe's first event. `on_bug` is called in an `except` block."""
        self.config = config
        self.connections: set[ClientConnection] = set()
        self.connections_made = 0
        self.ended = dict.fromkeys(ConnectionEnd, 0)  # connections, by why they did
        self.door = Door(config.limits)
        self.door.waiting.append(self._waiting_connections)
        self.on_bug = on_bug
        self.draining = False
        self.active: set[Context] = set()
        self.on_quiet: Callable[[], None] | None = None  # called when no request is left
        self._heads = Heads(config.limits.head_fields, self._route_of)
        self._connecting: set[asyncio.Task[None]] = set()
        self._routes = routes
        self._rooms = rooms
        self._upstream = upstream
        self._on_request = on_request
        self._probe_s = probe_s
        self._id_prefix = os.urandom(5).hex().encode() + b"-"
        self._id_number = 0

    def new_connection(self) -> ClientConnection:
        """A protocol for one more client."""
        self.connections_made += 1
        return ClientConnection(self, self.config)

    def _waiting_connections(self) -> list[ClientConnection]:
        return [connection for connection in self.connections if connection.waits]

    def end_tunnels(self) -> None:
        """Close WebSockets and other upgraded connections."""
        for context in list(self.active):
            if context.exchange is not None and context.exchange.tunnel:
                context.exchange.end_tunnel()

    def new_request_id(self) -> bytes:
        """Unique among all sidecars, and short."""
        self._id_number += 1
        return self._id_prefix + b"%x" % self._id_number

    # -- 1. who asks for what -------------------------------------------------------------

    def serve(self, client: ClientConnection, data: bytes) -> None:
        """Serve the request with this head; `client.served` is called when it is done with.

        Raises `BadMessageError` if that is no head of a request.
        """
        recurring, content_length = self._heads.read(data)
        head = recurring.head
        body = client.begin_body(content_length, chunked=head.chunked)
        context = Context(client, recurring, content_length, body, self._request_id_of(head))
        if b"traceparent" in head.special:
            match = _TRACE_PARENT.fullmatch(head.value(b"traceparent"))
            context.trace_id = match[1].decode() if match else ""
        client.context = context
        self.active.add(context)
        try:
            self._begin(context)
        except Exception:  # noqa: BLE001 - a bug ends one request, not the process
            self._end_by_bug(context)

    def _begin(self, context: Context) -> None:
        by_model = context.recurring.by_model
        if by_model is None:
            self._enter(context, context.route)
        elif context.body.complete:
            self._enter_by_model(context, by_model)
        else:
            self._await_model(context, by_model)

    def _enter(self, context: Context, route: str) -> None:
        """The request's class is known."""
        context.route = route
        room = context.room = self._rooms.get(route)
        if room is None:
            self._carry(context)
        elif context.body.complete:
            self._ask(context, room)
        else:
            self._gather(context, room)

    def _await_model(self, context: Context, by_model: ByModel) -> None:
        """Have as much of the body arrive as may tell the model."""
        guards = [self._rooms[name].guard for name in by_model.classes if name is not None]
        if by_model.otherwise is not None:
            now_s = monotonic()
            rejections = [no for guard in guards if (no := guard.refuses(now_s)) is not None]
            if len(rejections) == len(guards):  # whatever the model: why upload it?
                self._refuse(context, Refusal.from_rejection(rejections[-1]))
                return
        self._gather_up_to(
            self.config.limits.model_prefix_bytes,
            context,
            _HeldBytes(*guards),
            partial(self._enter_by_model, context, by_model),
        )

    def _enter_by_model(self, context: Context, by_model: ByModel) -> None:
        body = context.body
        model, _ = asked_in(
            body.content(),
            whole=body.complete,
            prefix_bytes=self.config.limits.model_prefix_bytes,
        )
        self._enter(context, by_model.guard_of(model) or context.recurring.route)

    def _request_id_of(self, head: RequestHead) -> bytes:
        if b"x-request-id" in head.special:
            given = head.value(b"x-request-id")
            if _VALID_REQUEST_ID.fullmatch(given):
                return given
        return self.new_request_id()

    def _route_of(self, head: RequestHead) -> tuple[str, ByModel | None]:
        """The class of a request, and what decides on it where that is its model."""
        guard = self._routes.guard_of(head.method, head.target)
        by_model = guard if isinstance(guard, ByModel) else None
        route = guard.otherwise if isinstance(guard, ByModel) else guard
        if route is None:
            route = UPGRADE if wants_upgrade(head) else FREE
        return route, by_model

    # -- 2. the slot ----------------------------------------------------------------------

    def _gather(self, context: Context, room: WaitingRoom) -> None:
        """Have the body arrive before a slot is asked for: a slow uploader holds none."""
        rejection = room.guard.refuses(monotonic())
        if rejection is not None:
            self._refuse(context, Refusal.from_rejection(rejection))  # why upload it?
            return
        self._gather_up_to(
            self.config.limits.body_buffer_bytes,
            context,
            _HeldBytes(room.guard),
            partial(self._ask, context, room),
        )

    def _gather_up_to(
        self, size: int, context: Context, held: _HeldBytes, go_on: Callable[[], None]
    ) -> None:
        body = context.body
        if context.head.expect_continue:
            if not body.size:
                context.client.send_continue()
            context.expectation_met = True  # nothing is left for the backend to answer
        context.client.demand_pace()
        context.release_held = held.release
        body.gather(size, held.add, partial(self._gathered, context, go_on))

    def _gathered(self, context: Context, go_on: Callable[[], None]) -> None:
        if context.release_held is not None:
            context.release_held()
            context.release_held = None
        body = context.body
        try:
            if body.error is not None:
                self._refuse(context, _refusal_of_body(body.error))
            elif body.refusal is not None:
                self._refuse(context, body.refusal)
            else:
                go_on()
        except Exception:  # noqa: BLE001 - as in `serve`
            self._end_by_bug(context)

    def _ask(self, context: Context, room: WaitingRoom) -> None:
        answer = room.ask(context.subject, context.body.held)
        if isinstance(answer, Ticket):
            context.ticket = answer
            room.wait(answer, partial(self._answered, context, answer))
        elif isinstance(answer, Rejection):
            self._refuse(context, Refusal.from_rejection(answer))
        else:
            self._let_in(context, answer)

    def _answered(self, context: Context, ticket: Ticket, answer: Permit | Rejection) -> None:
        context.ticket = None
        try:
            if isinstance(answer, Rejection):
                context.wait_s = monotonic() - ticket.since_s
                self._refuse(context, Refusal.from_rejection(answer))
            else:
                self._let_in(context, answer)
        except Exception:  # noqa: BLE001 - as in `serve`; whose answer it is must not suffer
            self._end_by_bug(context)

    def _let_in(self, context: Context, permit: Permit) -> None:
        context.permit = permit
        context.granted_s = permit.granted_s
        context.wait_s = permit.waited_s
        self._carry(context)

    # -- 3. and 4. the exchange -----------------------------------------------------------

    def _carry(self, context: Context) -> None:
        """Have the backend answer, on a kept connection if there is one."""
        connection = self._upstream.kept()
        if connection is None and context.permit is None and self._upstream.full:
            limit = self.config.pool.max_connections
            why = f"{limit} connections to the backend are in use (pool.max_connections)"
            self._refuse(context, Refusal.of(ProxyReason.UPSTREAM_BUSY, why))
            return
        exchange = self._new_exchange(context)
        if connection is not None:
            exchange.begin(connection, self._head_for_backend(context))
        else:
            self._connect(context, exchange)

    def _connect(self, context: Context, exchange: Exchange) -> None:
        task = context.connecting = asyncio.create_task(self._open(context, exchange))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _open(self, context: Context, exchange: Exchange) -> None:
        try:
            try:
                connection = await self._upstream.connect()
            finally:
                context.connecting = None
        except UpstreamError as error:
            exchange.fail(error.ending, str(error))
        except Exception:  # noqa: BLE001 - as in `serve`
            self._end_by_bug(context)
        else:
            exchange.begin(connection, self._head_for_backend(context))

    def _new_exchange(self, context: Context) -> Exchange:
        permit, room = context.permit, context.room
        timers = self.config.timers if room is None else room.timers
        watch = Watch(context.head.target, judged=permit is not None)
        exchange = context.exchange = Exchange(
            context.client, context.head, context.request_id, context.body, timers, watch,
            partial(self._on_ended, context),
        )  # fmt: skip
        if timers.first_event_per_kib_s:
            size = context.content_length or context.body.size
            exchange.first_event_s = timers.first_event_within_s(size)
        if permit is None or room is None:
            # What nobody guards may be silent as long as it likes: event feeds, long polls.
            exchange.stall_s = math.inf
        else:
            exchange.error_events = self.config.stream_error_events
            if permit.passed.probe:
                exchange.first_event_s = min(exchange.first_event_s, self._probe_s)
                watch.on_first_event = partial(room.first_event, permit)
        if context.wait_s:
            exchange.extra_lines = waited_lines(context.wait_s * 1000)
        exchange.upgrade = context.route == UPGRADE
        exchange.start_timers()
        return exchange

    def _head_for_backend(self, context: Context) -> bytes:
        context.asked_s = monotonic()
        recurring = context.recurring
        known = recurring.upstream_head
        if known is None:
            known = upstream_head(
                recurring.head,
                self.config.forwarded,
                context.client.peer,
                authority=self._upstream.address.authority,
                upgrade=context.route == UPGRADE,
                expectation_met=context.expectation_met,
            )
            if self.config.forwarded is Forwarded.OFF and not recurring.head.expect_continue:
                recurring.upstream_head = known
        return known.of(context.content_length, context.request_id)

    # -- 5. the end -----------------------------------------------------------------------

    def _on_ended(self, context: Context) -> None:
        """The exchange is over, in whatever way."""
        exchange = context.exchange
        assert exchange is not None
        try:
            if exchange.ending is Ending.COMPLETED:
                context.note_ending(Ending.COMPLETED)
                self._finish(context, keep=exchange.may_keep_client)
            elif self._may_replay(context, exchange):
                # The backend closed the kept connection just before our request reached it.
                context.retried = True
                self._connect(context, self._new_exchange(context))
            else:
                self._conclude(context, exchange)
        except Exception:  # noqa: BLE001 - as in `serve`
            self._end_by_bug(context)

    @staticmethod
    def _may_replay(context: Context, exchange: Exchange) -> bool:
        return (
            exchange.ending is Ending.RESET
            and exchange.on_stale_connection
            and context.head.method in _REPLAYABLE
            and not context.head.has_body
        )

    def _conclude(self, context: Context, exchange: Exchange) -> None:
        """Say that there is no answer, or that what was sent of it is not whole."""
        ending = exchange.ending
        context.note_ending(ending)
        if exchange.head_sent:
            if exchange.error_events:
                exchange.say_broken(_REASON_OF.get(ending, ProxyReason.INTERNAL_ERROR).value)
            exchange.cut_client()
            self._finish(context, keep=False)
        elif ending is Ending.CLIENT_BODY and context.body.error is not None:
            self._refuse(context, _refusal_of_body(context.body.error))
        else:
            reason = _REASON_OF.get(ending, ProxyReason.INTERNAL_ERROR)
            self._refuse(context, Refusal.of(reason, exchange.why + self._no_replay(context)))

    def _finish(self, context: Context, *, keep: bool) -> None:
        self._settle(context)
        context.client.served(keep=keep)

    def _settle(self, context: Context) -> None:
        """Give back what the request holds, and tell what became of it."""
        context.over = True
        self.active.discard(context)
        if context.permit is not None and context.room is not None:
            context.room.settle(context.permit, context.outcome, context.report())
        self._on_request(context.fact())
        if self.on_quiet is not None and not self.active:
            self.on_quiet()

    def abandon(self, context: Context, ending: Ending) -> None:
        """End a request before its time: the client left, the process stops, or we have a bug."""
        if context.over:
            return
        context.client.context = None
        if context.release_held is not None:
            context.release_held()
        if context.ticket is not None and context.room is not None:
            context.room.leave(context.ticket)
        if context.connecting is not None:
            context.connecting.cancel()
        context.note_abandoned(ending)
        if context.exchange is not None:
            context.exchange.release()
        self._settle(context)

    def _end_by_bug(self, context: Context) -> None:
        """Called in an `except` block: log it, and end this request and its connection only."""
        self.on_bug()
        self.abandon(context, Ending.INTERNAL_ERROR)
        context.client.abort()

    async def stop(self) -> None:
        """End all requests and connections at once."""
        for connection in list(self.connections):
            connection.stop()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    @staticmethod
    def _no_replay(context: Context) -> str:
        exchange = context.exchange
        if exchange is None or exchange.ending is not Ending.RESET:
            return ""
        if context.head.method in _REPLAYABLE:
            return ""
        method = context.subject.method
        return f"; the {method} was not repeated, because it may have been executed"

    def _refuse(self, context: Context, refusal: Refusal) -> None:
        """Answer in our own words."""
        client, head = context.client, context.head
        close = refusal.closes or client.closing or not head.keep_alive or not context.body.complete
        if close:
            context.body.discard()
        data = refusal_bytes(
            refusal,
            context.request_id,
            close=close,
            head_only=head.method == b"HEAD",
            waited_ms=context.wait_s * 1000,
        )
        client.write(data)
        context.note_refusal(refusal, len(data))
        self._finish(context, keep=not close)

    def on_unreadable(self, client: ClientConnection, refusal: Refusal, request_id: bytes) -> None:
        """A connection was refused because no request could be read from it."""
        body = client.begin_body(None, chunked=False)
        context = Context(client, _UNREADABLE, None, body, request_id)
        context.note_refusal(refusal, 0)
        self._on_request(context.fact())


_UNREADABLE = Recurring(
    RequestHead(
        minor=1,
        lines=[],
        names=[],
        special=set(),
        content_length=None,
        chunked=False,
        connection=frozenset(),
        method=b"",
        target=b"",
        host=b"",
        expect_continue=False,
    ),
    FREE,
)


def _refusal_of_body(error: BadMessageError) -> Refusal:
    reason = ProxyReason.BODY_TIMEOUT if error.status == 408 else ProxyReason.BAD_REQUEST
    return Refusal.of(reason, str(error))
