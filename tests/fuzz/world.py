"""How does a fuzzer run the real data path without sockets? Clients and a backend on lines.

Everything between the two lines is the product: `ClientConnection`, `Handler`, `Exchange`,
`UpstreamConnection`, guards and pool. Only the connecting is ours. Without kernel, sockets and
waiting one run takes about a third of a millisecond, and is the same each time.
"""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, cast

from sidecar.proxy.config import ProxyConfig
from sidecar.proxy.handler import Handler
from sidecar.proxy.upstream import Upstream, UpstreamConnection
from sidecar.proxy.waiting_room import WaitingRoom
from sidecar.proxy.wire import heads
from sidecar.telemetry.facts import RequestFact
from tests.fuzz.lines import End as LineEnd
from tests.fuzz.lines import connect
from tests.fuzz.virtual_time import VirtualLoop
from tests.proxy.client_reading import End
from tests.proxy.readings import Read, split_gullibly
from tests.proxy.running import ROUTES, new_guard
from tests.support.raw import RawStream

# After so long nothing waits any more but for a client: longer than the pool keeps connections
# (4 s) and than a last answer is waited for (2 s).
_AFTERMATH_S = 5.0

# What the parser has learnt from strangers' field names; each run begins as a new process does.
_SPECIAL, _FORWARDING = frozenset(heads.SPECIAL), frozenset(heads.FORWARDING)


class Peer(RawStream):
    """The far end of a line: records, and never answers by itself."""

    def send(self, data: bytes) -> None:
        """Write, if there is still somebody."""
        if not self.transport.is_closing():
            self.transport.write(data)

    @property
    def deserted(self) -> bool:
        """Whether the sidecar has let go of its end."""
        return cast("LineEnd", self.transport).peer.lost

    @property
    def end(self) -> End:
        """How the other side ended, if it did."""
        if self.peer_reset:
            return End.RESET
        return End.CLOSED if self.peer_closed else End.OPEN


class BackendConnection(Peer):
    """A connection that the sidecar opened."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.numbers: list[int] = []
        """Of the requests that came here, in the order of all requests."""

    def data_received(self, data: bytes) -> None:
        """Record, and answer as this world's backend does."""
        super().data_received(data)
        self._world.serve(self)

    def eof_received(self) -> bool:
        """Close, as servers do whose client says no more."""
        super().eof_received()
        return False

    def answer_requests(self) -> bool:
        """Answer each whole request with its number; returns whether there was one."""
        whole, _ = split_gullibly(bytes(self.received), by_length=False)
        new = whole[len(self.numbers) :]
        for read in new:
            self._note(read)
            self.send(numbered(self.numbers[-1], read.method))
        return bool(new)

    def note_request(self) -> None:
        """Count the one new request that came, and leave its answer to others."""
        whole, _ = split_gullibly(bytes(self.received), by_length=False)
        self._note(whole[-1])

    def _note(self, read: Read) -> None:
        self._world.arrived.append(read)
        self.numbers.append(len(self._world.arrived))


def numbered(number: int, method: bytes) -> bytes:
    """The answer to the request with that number."""
    body = b"%d" % number
    head = b"HTTP/1.1 200 OK\r\nX-Number: %b\r\nContent-Length: %d\r\n\r\n" % (body, len(body))
    return head if method == b"HEAD" else head + body


class _LineUpstream(Upstream):
    """Connects to the recording backend, at once and always."""

    def __init__(self, config: ProxyConfig, world: World) -> None:
        super().__init__(config)
        self._world = world

    async def _open(self) -> UpstreamConnection:
        backend = BackendConnection(self._world)
        self._world.connections.append(backend)
        return connect(
            self._world.loop,
            lambda sock: UpstreamConnection(cast("socket.socket", sock), self),
            backend,
            near_slow=self._world.slow_backend,
        )


@dataclass
class World:
    """One data path with everything around it."""

    loop: VirtualLoop
    config: ProxyConfig = field(default_factory=ProxyConfig)
    serve: Callable[[BackendConnection], object] = BackendConnection.answer_requests
    slow_client: bool = False
    slow_backend: bool = False
    arrived: list[Read] = field(default_factory=list)
    """The requests that the backend answered, in the order of their arrival."""
    connections: list[BackendConnection] = field(default_factory=list)
    facts: list[RequestFact] = field(default_factory=list)
    mishaps: list[str] = field(default_factory=list)
    """Exceptions that nobody expected."""

    def __post_init__(self) -> None:
        """Build the data path. Needs the running loop."""
        forget_names()
        self.loop.set_exception_handler(self._on_mishap)
        self.upstream = _LineUpstream(self.config, self)
        self.rooms = {
            name: WaitingRoom(new_guard(name), 30.0, self.config.timers)
            for name in ("inference", "upgrade")
        }
        self.handler = Handler(
            self.config,
            ROUTES,
            self.rooms,
            self.upstream,
            probe_s=60.0,
            on_request=self.facts.append,
            on_bug=lambda: self.mishaps.append(traceback.format_exc()),
        )

    def _on_mishap(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        told = "".join(traceback.format_exception(error)) if error is not None else ""
        self.mishaps.append(f"{context['message']}\n{told}")

    def client(self) -> Peer:
        """A new client's connection."""
        peer = Peer()
        connect(
            self.loop, lambda _: self.handler.new_connection(), peer, near_slow=self.slow_client
        )
        return peer

    async def ask_for_sentinel(self, client: Peer) -> None:
        """A request after everything else gets the backend's answer to it, and nothing more."""
        seen, number = len(client.received), len(self.arrived) + 1
        client.send(SENTINEL)
        await self.loop.quiet()
        assert self.arrived[number - 1 :] == [Read(b"GET", b"/sentinel")]
        answer = bytes(client.received[seen:])
        assert answer.startswith(b"HTTP/1.1 200 OK\r\nX-Number: %d\r\n" % number), answer
        assert answer.partition(b"\r\n\r\n")[2] == b"%d" % number, answer

    async def end(self, *clients: Peer) -> None:
        """Let the clients leave; nothing of them may be left."""
        for client in clients:
            client.close()
        await asyncio.sleep(_AFTERMATH_S)
        self._assert_nothing_left()

    def _assert_nothing_left(self) -> None:
        assert not self.mishaps, "\n".join(self.mishaps)
        handler, upstream = self.handler, self.upstream
        assert not handler.active
        assert not handler.connections
        assert (handler.door._count, handler.door._by_group) == (0, {})
        assert (len(upstream.busy), upstream.idle_count) == (0, 0)
        assert all(connection.deserted for connection in self.connections)
        for room in self.rooms.values():
            guard = room.guard.snapshot(monotonic())
            assert (guard.in_flight, guard.waiting, guard.held_bytes) == (0, 0, 0), guard
            assert not guard.permits
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left


SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: a\r\n\r\n"


def forget_names() -> None:
    """Have the parser know no more names than in a new process."""
    heads._LOWERED.clear()
    heads.SPECIAL.intersection_update(_SPECIAL)
    heads.FORWARDING.intersection_update(_FORWARDING)
