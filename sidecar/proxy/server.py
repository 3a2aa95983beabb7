"""Where do clients connect, and how does it all end? The proxy's listener, its drain and stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from sidecar.admission.answers import Ticket
from sidecar.admission.guard import Guard
from sidecar.admission.routes import RouteTable
from sidecar.proxy.config import ProxyConfig, Timers
from sidecar.proxy.handler import Handler
from sidecar.proxy.socket_file import SocketFile
from sidecar.proxy.tls.connecting import Acceptor, OnFailure, untold
from sidecar.proxy.tls.reloading import ReloadingContext
from sidecar.proxy.upstream import Upstream
from sidecar.proxy.waiting_room import Waiter, WaitingRoom
from sidecar.telemetry.facts import ConnectionEnd, RequestFact

# Enough for a herd that connects at once; what exceeds it is retried by the clients' kernels.
_BACKLOG = 1024

# How often time is let do its part in the guards, and a drain reports its progress.
_TICK_S = 1.0
_PROGRESS_S = 5.0


class RouteClass(NamedTuple):
    """One class of routes: who admits its requests, how long they may wait, and its time-outs."""

    guard: Guard
    queue_timeout_s: float
    timers: Timers


class ListenError(Exception):
    """An address that cannot be listened on; says which and why."""


class ProxyServer:
    """The data path as a whole: guards with their waiting rooms, the backend, the listener."""

    def __init__(
        self,
        config: ProxyConfig,
        routes: RouteTable,
        classes: Mapping[str, RouteClass],
        *,
        probe_s: float,
        on_request: Callable[[RequestFact], None],
        on_bug: Callable[[], None],
        on_handshake_failure: OnFailure = untold,
    ) -> None:
        """Raises `TlsFilesError`."""
        self.upstream = Upstream(config)
        waiters: dict[Ticket, Waiter] = {}
        self.rooms = {name: WaitingRoom(*one, waiters) for name, one in classes.items()}
        self.handler = Handler(
            config,
            routes,
            self.rooms,
            self.upstream,
            probe_s=probe_s,
            on_request=on_request,
            on_bug=on_bug,
        )
        self.tls = ReloadingContext.of_listener("proxy", config.tls)
        self._acceptor: Acceptor | None = None
        if self.tls is not None:
            self._acceptor = Acceptor(
                self.tls, config.timers.head_s, on_handshake_failure, self.handler.door
            )
        self._server: asyncio.Server | None = None
        self._socket_file: SocketFile | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._drain_ends_s: float | None = None

    async def listen_tcp(self, host: str, port: int) -> int:
        """Listen on TCP (`host` "" is all interfaces) and return the port; raises `ListenError`."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._new_connection(), host or None, port, backlog=_BACKLOG
            )
        except OSError as error:
            raise listen_error(f"{host}:{port}", error) from error
        self._ticker = loop.create_task(self._tick())
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def listen_unix(self, path: str) -> None:
        """Listen on a unix socket, replacing one that nobody listens on any more."""
        loop = asyncio.get_running_loop()
        try:
            self._socket_file = SocketFile(Path(path))
            self._socket_file.remove_stale()
            self._server = await loop.create_unix_server(
                self._new_connection(), path, backlog=_BACKLOG
            )
        except OSError as error:
            raise listen_error(f"unix:{path}", error) from error
        self._socket_file.note_own()
        self._ticker = loop.create_task(self._tick())

    def _new_connection(self) -> Callable[[], asyncio.Protocol]:
        """What makes the protocol of each connection."""
        if self._acceptor is None:
            return self.handler.new_connection
        return self._acceptor.wrap(self.handler.new_connection)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for room in self.rooms.values():
                room.advance()

    # -- the end --------------------------------------------------------------------------

    @property
    def drain_remaining_s(self) -> float | None:
        """Seconds left to running requests; None unless draining."""
        if self._drain_ends_s is None:
            return None
        return max(0.0, self._drain_ends_s - monotonic())

    async def drain(
        self, drain_s: float, upgrades_s: float, on_progress: Callable[[int, float], None]
    ) -> bool:
        """Let running requests finish, refuse all others; returns whether all finished in time.

        WebSockets and other tunnels are closed after `upgrades_s`. `on_progress` is told how many
        run and how many seconds are left, every few seconds.
        """
        self._drain_ends_s = monotonic() + drain_s
        handler = self.handler
        handler.draining = True
        for room in self.rooms.values():
            room.drain()
        for connection in list(handler.connections):
            connection.close_if_idle()
        quiet = asyncio.Event()
        handler.on_quiet = quiet.set
        tunnels = asyncio.get_running_loop().call_later(upgrades_s, handler.end_tunnels)
        if not handler.active:
            quiet.set()
        while not quiet.is_set() and (left_s := self.drain_remaining_s):
            on_progress(len(handler.active), left_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(quiet.wait(), min(left_s, _PROGRESS_S))
        tunnels.cancel()
        return quiet.is_set()

    async def stop(self) -> None:
        """Close the listener and all connections at once."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._server is not None:
            self._server.close()
        if self._acceptor is not None:
            self._acceptor.stop()
        await self.handler.stop()
        self.upstream.close()
        if self._server is not None:
            await self._server.wait_closed()
        if self._socket_file is not None:
            self._socket_file.remove_own()

    @property
    def _handshakes(self) -> int:
        """Clients that are not done with TLS yet."""
        return self._acceptor.pending if self._acceptor is not None else 0

    def client_connections(self) -> tuple[int, dict[ConnectionEnd, int]]:
        """How many clients connected so far, and why those ended that did."""
        return self.handler.connections_made, self.handler.ended

    def connection_counts(self) -> dict[str, int]:
        """How many connections there are, by side."""
        return {
            "client": len(self.handler.connections) + self._handshakes,
            "upstream_idle": self.upstream.idle_count,
            "upstream_busy": len(self.upstream.busy),
        }


def listen_error(address: str, error: OSError) -> ListenError:
    """Say in a few words why `address` cannot be listened on."""
    why = (error.strerror or str(error)).rpartition(": ")[2]
    return ListenError(f"cannot listen on {address}: {why}")
