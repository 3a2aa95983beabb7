"""Where do clients connect, and how does it all end? The proxy's listener, its drain and stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic

from sidecar.admission.guard import Guard
from sidecar.admission.routes import RouteTable
from sidecar.proxy.config import ProxyConfig
from sidecar.proxy.handler import Handler
from sidecar.proxy.upstream import Upstream
from sidecar.proxy.waiting_room import WaitingRoom
from sidecar.telemetry.facts import RequestFact

# Enough for a herd that connects at once; what exceeds it is retried by the clients' kernels.
_BACKLOG = 1024

# How often time is let do its part in the guards, and a drain reports its progress.
_TICK_S = 1.0
_PROGRESS_S = 5.0


class ListenError(Exception):
    """An address that cannot be listened on; says which and why."""


class ProxyServer:
    """The data path as a whole: guards with their waiting rooms, the backend, the listener."""

    def __init__(
        self,
        config: ProxyConfig,
        routes: RouteTable,
        guards: Mapping[str, tuple[Guard, float]],
        *,
        probe_s: float,
        on_request: Callable[[RequestFact], None],
        on_bug: Callable[[], None],
    ) -> None:
        """`guards` holds each guard by name, with its queue's time-out in seconds."""
        self.upstream = Upstream(config)
        self.rooms = {
            name: WaitingRoom(guard, timeout_s) for name, (guard, timeout_s) in guards.items()
        }
        self.handler = Handler(
            config,
            routes,
            self.rooms,
            self.upstream,
            probe_s=probe_s,
            on_request=on_request,
            on_bug=on_bug,
        )
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._drain_ends_s: float | None = None

    async def listen_tcp(self, host: str, port: int) -> int:
        """Listen on TCP (`host` "" is all interfaces) and return the port; raises `ListenError`."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self.handler.new_connection, host or None, port, backlog=_BACKLOG
            )
        except OSError as error:
            raise _listen_error(f"{host}:{port}", error) from error
        self._ticker = loop.create_task(self._tick())
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def listen_unix(self, path: str) -> None:
        """Listen on a unix socket, replacing one that nobody listens on any more."""
        loop = asyncio.get_running_loop()
        try:
            _remove_stale_socket(Path(path))
            self._server = await loop.create_unix_server(
                self.handler.new_connection, path, backlog=_BACKLOG
            )
        except OSError as error:
            raise _listen_error(f"unix:{path}", error) from error
        self._ticker = loop.create_task(self._tick())

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

    async def drain(self, drain_s: float, on_progress: Callable[[int, float], None]) -> bool:
        """Let running requests finish, refuse all others; returns whether all finished in time.

        `on_progress` is told how many run and how many seconds are left, every few seconds.
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
        if not handler.active:
            quiet.set()
        while not quiet.is_set() and (left_s := self.drain_remaining_s):
            on_progress(len(handler.active), left_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(quiet.wait(), min(left_s, _PROGRESS_S))
        return quiet.is_set()

    async def stop(self) -> None:
        """Close the listener and all connections at once."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*(connection.stop() for connection in self.handler.connections))
        self.upstream.close()
        if self._server is not None:
            await self._server.wait_closed()

    def connection_counts(self) -> dict[str, int]:
        """How many connections there are, by side."""
        return {
            "client": len(self.handler.connections),
            "upstream_idle": self.upstream.idle_count,
            "upstream_busy": len(self.upstream.busy),
        }


def _remove_stale_socket(path: Path) -> None:
    """Remove a socket that a process left behind; one that still answers is an `OSError`."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return  # whatever it is, binding will say so
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError("another process listens there")


def _listen_error(address: str, error: OSError) -> ListenError:
    why = (error.strerror or str(error)).rpartition(": ")[2]
    return ListenError(f"cannot listen on {address}: {why}")
