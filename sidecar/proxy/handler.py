"""What happens to one request, from its head to its settled permit?

1. Who asks for what: request id, caller, route.
2. A guarded route gathers the body, then asks admission and waits for a slot.
3. A connection to the backend is found or opened; head and body go out.
4. The answer is relayed to its last byte (see `exchange`).
5. The permit goes back with the outcome, and the observers hear of it.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Self

from sidecar.admission.answers import Rejection, Subject, Ticket
from sidecar.admission.guard import Guard
from sidecar.admission.outcome import Ending
from sidecar.admission.routes import RouteTable
from sidecar.proxy.client import ClientConnection
from sidecar.proxy.config import ProxyConfig
from sidecar.proxy.context import Context
from sidecar.proxy.door import Door
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.fields import upstream_head
from sidecar.proxy.refusals import ProxyReason, Refusal, refusal_bytes, waited_lines
from sidecar.proxy.upstream import Upstream, UpstreamError
from sidecar.proxy.waiting_room import Lease, WaitingRoom
from sidecar.proxy.wire.heads import BadMessageError, RequestHead, tokens_of
from sidecar.telemetry.facts import RequestFact

FREE = "free"  # the route of requests that nothing guards
UPGRADE = "upgrade"  # the guard of WebSockets and other upgrades

_VALID_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

# Safe to send twice (RFC 9110, 9.2.2). A POST is not: an inference would run, and cost, twice.
_REPLAYABLE = frozenset({b"GET", b"HEAD", b"OPTIONS"})

_REASON_OF = {
    Ending.CONNECT_FAILED: ProxyReason.UPSTREAM_UNREACHABLE,
    Ending.TLS_FAILED: ProxyReason.UPSTREAM_UNREACHABLE,
    Ending.CONNECT_TIMEOUT: ProxyReason.UPSTREAM_TIMEOUT,
    Ending.FIRST_EVENT_TIMEOUT: ProxyReason.UPSTREAM_TIMEOUT,
    Ending.TOTAL_TIMEOUT: ProxyReason.UPSTREAM_TIMEOUT,
    Ending.RESET: ProxyReason.UPSTREAM_RESET,
    Ending.BAD_RESPONSE: ProxyReason.UPSTREAM_BAD_RESPONSE,
}


class _HeldBytes:
    """Accounts for the body bytes that one request keeps in memory until it has its slot."""

    __slots__ = ("_guard", "count")

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.count = 0

    def add(self, count: int) -> Refusal | None:
        """Keep `count` more, or say why not."""
        rejection = self._guard.hold_bytes(count)
        if rejection is not None:
            return Refusal.from_rejection(rejection)
        self.count += count
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.release_bytes(self.count)


class Handler:
    """Serves requests. One for the process; it knows the guards, the backend and the observers."""

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
        self.door = Door(config.limits)
        self.on_bug = on_bug
        self.draining = False
        self.active: set[Context] = set()
        self.on_quiet: Callable[[], None] | None = None  # called when no request is left
        self._routes = routes
        self._rooms = rooms
        self._upstream = upstream
        self._on_request = on_request
        self._probe_s = probe_s
        self._id_prefix = os.urandom(5).hex().encode() + b"-"
        self._id_number = 0

    def new_connection(self) -> ClientConnection:
        """A protocol for one more client."""
        return ClientConnection(self, self.config)

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

    async def serve(self, client: ClientConnection, head: RequestHead) -> bool:
        """Serve one request; returns whether its connection may serve another."""
        context = self._context(client, head)
        self.active.add(context)
        try:
            room = self._rooms.get(context.route)
            if room is None:
                return await self._carry(context, None)
            return await self._guarded(context, room)
        except BaseException as error:
            if context.exchange is None:
                context.note_unwinding(error)
            raise
        finally:
            self.active.discard(context)
            self._on_request(context.fact())
            if self.on_quiet is not None and not self.active:
                self.on_quiet()

    def _context(self, client: ClientConnection, head: RequestHead) -> Context:
        given = head.value(b"x-request-id") if b"x-request-id" in head.special else b""
        if not _VALID_REQUEST_ID.fullmatch(given):
            given = self.new_request_id()
        context = Context(client, head, client.begin_body(head), given)
        context.route = self._route_of(head)
        context.subject = Subject(
            request_id=given.decode(),
            method=head.method.decode(),
            path=head.target.partition(b"?")[0].decode("latin-1"),
            caller=_caller_of(client, head),
        )
        if b"traceparent" in head.special:
            match = _TRACE_PARENT.fullmatch(head.value(b"traceparent"))
            context.trace_id = match[1].decode() if match else ""
        return context

    def _route_of(self, head: RequestHead) -> str:
        guard = self._routes.guard_of(head.method, head.target)
        if guard is not None:
            return guard
        return UPGRADE if _wants_upgrade(head) else FREE

    # -- 2. the slot ----------------------------------------------------------------------

    async def _guarded(self, context: Context, room: WaitingRoom) -> bool:
        body = context.body
        if not body.complete:
            refusal = await self._gather(context, room.guard)
            if refusal is not None:
                return self._refuse(context, refusal)
        answer = room.ask(context.subject, body.held)
        if isinstance(answer, Ticket):
            since_s = answer.since_s
            try:
                answer = await room.wait(answer)
            finally:
                context.wait_s = monotonic() - since_s
        if isinstance(answer, Rejection):
            return self._refuse(context, Refusal.from_rejection(answer))
        with Lease(room, answer) as lease:
            context.granted_s = answer.granted_s
            context.wait_s = answer.waited_s
            return await self._carry(context, lease)

    async def _gather(self, context: Context, guard: Guard) -> Refusal | None:
        """Have the body arrive before a slot is asked for: a slow uploader holds none."""
        rejection = guard.refuses(monotonic())
        if rejection is not None:
            return Refusal.from_rejection(rejection)  # why upload it?
        head, body = context.head, context.body
        if head.expect_continue:
            if not body.size:
                context.client.send_continue()
            head.expect_continue = False  # answered: nothing is left for the backend to answer
        with _HeldBytes(guard) as held:
            await body.gather(self.config.limits.body_buffer_bytes, held.add)
        return _refusal_of_body(body.error) if body.error is not None else body.refusal

    # -- 3. and 4. the exchange -----------------------------------------------------------

    async def _carry(self, context: Context, lease: Lease | None) -> bool:
        """Have the backend answer; returns whether the connection may serve another request."""
        try:
            return await self._exchange(context, lease)
        except BaseException as error:
            context.note_unwinding(error)
            if context.exchange is not None:
                context.exchange.release()
            raise
        finally:
            if lease is not None:
                lease.outcome = context.outcome

    async def _exchange(self, context: Context, lease: Lease | None) -> bool:
        exchange = self._new_exchange(context, lease)
        connection = self._upstream.kept()
        if connection is not None:
            exchange.begin(connection, self._head_for_backend(context))
            await exchange.ended
            if not (
                exchange.ending is Ending.RESET
                and not connection.response_started
                and context.head.method in _REPLAYABLE
                and not context.head.has_body
            ):
                return self._conclude(context, exchange)
            # The backend closed the kept connection just before our request reached it.
            context.retried = True
            exchange = self._new_exchange(context, lease)
        try:
            connection = await self._upstream.connect()
        except UpstreamError as error:
            exchange.fail(error.ending, str(error))
        else:
            exchange.begin(connection, self._head_for_backend(context))
            await exchange.ended
        return self._conclude(context, exchange)

    def _new_exchange(self, context: Context, lease: Lease | None) -> Exchange:
        timers = self.config.timers
        exchange = context.exchange = Exchange(
            context.client, context.head, context.request_id, context.body, timers
        )
        if lease is None:
            # What nobody guards may be silent as long as it likes: event feeds, long polls.
            exchange.stall_s = math.inf
        elif lease.permit.passed.probe:
            exchange.first_event_s = min(timers.first_event_s, self._probe_s)
            exchange.on_first_event = lease.first_event
        if context.wait_s:
            exchange.extra_lines = waited_lines(context.wait_s * 1000)
        exchange.upgrade = context.route == UPGRADE
        exchange.start_timers()
        return exchange

    def _head_for_backend(self, context: Context) -> bytes:
        context.asked_s = monotonic()
        return upstream_head(
            context.head,
            context.request_id,
            self.config.forwarded,
            context.client.peer,
            authority=self._upstream.address.authority,
            upgrade=context.route == UPGRADE,
        )

    # -- 5. the end -----------------------------------------------------------------------

    def _conclude(self, context: Context, exchange: Exchange) -> bool:
        ending = exchange.ending
        context.note_ending(ending)
        if ending is Ending.COMPLETED:
            return exchange.may_keep_client
        if exchange.head_sent:
            # A status has been sent: all that is left to say is that the answer is not whole.
            exchange.cut_client()
            return False
        if ending is Ending.CLIENT_BODY and context.body.error is not None:
            return self._refuse(context, _refusal_of_body(context.body.error))
        reason = _REASON_OF.get(ending, ProxyReason.INTERNAL_ERROR)
        return self._refuse(context, Refusal.of(reason, exchange.why + self._no_replay(context)))

    @staticmethod
    def _no_replay(context: Context) -> str:
        exchange = context.exchange
        if exchange is None or exchange.ending is not Ending.RESET:
            return ""
        if context.head.method in _REPLAYABLE:
            return ""
        method = context.head.method.decode()
        return f"; the {method} was not repeated, because it may have been executed"

    def _refuse(self, context: Context, refusal: Refusal) -> bool:
        """Answer in our own words; returns whether the connection may serve another request."""
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
        return not close

    def on_unreadable(self, client: ClientConnection, refusal: Refusal, request_id: bytes) -> None:
        """A connection was refused because no request could be read from it."""
        head = _UNREADABLE
        context = Context(client, head, client.begin_body(head), request_id)
        context.route = FREE
        context.subject = Subject(request_id.decode(), "", "", client.peer.address or "local")
        context.note_refusal(refusal, 0)
        self._on_request(context.fact())


_UNREADABLE = RequestHead(
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
)


def _refusal_of_body(error: BadMessageError) -> Refusal:
    reason = ProxyReason.BODY_TIMEOUT if error.status == 408 else ProxyReason.BAD_REQUEST
    return Refusal.of(reason, str(error))


def _caller_of(client: ClientConnection, head: RequestHead) -> str:
    """Who calls: a hash of the API key, or the address. Nothing else ever sees the key."""
    if b"authorization" in head.special:
        key = head.value(b"authorization")
    elif b"x-api-key" in head.special:
        key = head.value(b"x-api-key")
    else:
        return client.peer.address or "local"
    if key != client.last_key:  # the same connection mostly brings the same key
        client.last_key = key
        client.last_caller = "key-" + hashlib.blake2b(key, digest_size=6).hexdigest()
    return client.last_caller


def _wants_upgrade(head: RequestHead) -> bool:
    """Whether to tunnel: an upgrade by GET without a body, and never to another HTTP.

    An h2c tunnel would carry requests past every limit.
    """
    if b"upgrade" not in head.special or b"upgrade" not in head.connection:
        return False
    protocols = tokens_of(head.values(b"upgrade"))
    return (
        head.method == b"GET"
        and head.minor == 1
        and not head.has_body
        and not any(name.startswith(b"h2") or b"http" in name for name in protocols)
    )
