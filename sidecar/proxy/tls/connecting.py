"""How does a connection get its TLS? Handshakes as client and as server, in time and counted."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sidecar.proxy.door import Door
from sidecar.proxy.tls.layer import TlsLayer, why_failed
from sidecar.proxy.tls.reloading import ReloadingContext
from sidecar.telemetry.facts import HandshakeFailure

_P = TypeVar("_P", bound=asyncio.Protocol)


class HandshakeError(Exception):
    """There is no TLS with this server; the text says why."""


async def connect_tls(
    sock: socket.socket, context: ssl.SSLContext, server_name: str, above: Callable[[], _P]
) -> _P:
    """Do TLS on a connected socket; returns the protocol above.

    Raises `HandshakeError`. The socket is closed if that fails or is cancelled.
    """
    loop = asyncio.get_running_loop()
    shaken: asyncio.Future[None] = loop.create_future()
    made: list[_P] = []

    def make() -> _P:
        made.append(above())
        return made[0]

    def on_handshake(_: TlsLayer, error: Exception | None) -> None:
        if shaken.done():
            return  # cancelled
        if error is None:
            shaken.set_result(None)
        else:
            shaken.set_exception(error)

    layer = TlsLayer(context, make, on_handshake, server_side=False, server_name=server_name)
    try:
        await loop.create_connection(lambda: layer, sock=sock)
    except BaseException:
        sock.close()
        raise
    try:
        await shaken
    except (ssl.SSLError, OSError) as error:
        raise HandshakeError(why_failed(error)) from error
    except asyncio.CancelledError:
        layer.abort()
        raise
    return made[0]


@dataclass(frozen=True, slots=True)
class _Handshake:
    """One that is under way."""

    layer: TlsLayer
    address: str
    group: str  # whom it counts for at the door
    deadline: asyncio.TimerHandle
    counted: bool  # at the door

    @property
    def deadline_s(self) -> float:
        """When it would be given up anyhow."""
        return self.deadline.when()

    @property
    def proven(self) -> bool:
        """Nothing is known of it yet."""
        return False

    def give_way(self, limit: str) -> None:
        """Its place at the door is needed."""
        self.layer.give_up(_TooManyError(f"the place was needed ({limit})"))


# Told the listener's name, the kind, the client's address and, in words, why.
OnFailure = Callable[[str, HandshakeFailure, str, str], None]


def untold(*_: object) -> None:
    """Nobody wants to know."""


class _TooManyError(ConnectionAbortedError):
    """There is no room for one more connection."""


class Acceptor:
    """TLS for all clients of one listener."""

    def __init__(
        self,
        tls: ReloadingContext,
        handshake_s: float,
        on_failure: OnFailure,
        door: Door | None = None,
    ) -> None:
        """A client has `handshake_s` seconds; `on_failure` hears of those that fail.

        At `door` each counts as a connection until its handshake is done; from then on the
        protocol above counts it.
        """
        self._tls = tls
        self._handshake_s = handshake_s
        self._on_failure = on_failure
        self._door = door
        self._pending: dict[TlsLayer, _Handshake] = {}
        if door is not None:
            door.waiting.append(self._waiting_handshakes)

    @property
    def pending(self) -> int:
        """Connections that are not done with their handshake."""
        return len(self._pending)

    def wrap(self, above: Callable[[], asyncio.Protocol]) -> Callable[[], TlsLayer]:
        """What the listener makes for each connection, so that `above` is made behind TLS."""

        def accept() -> TlsLayer:
            return TlsLayer(
                self._tls.context, above, self._ended, server_side=True, admit=self._admit
            )

        return accept

    def stop(self) -> None:
        """Break off all handshakes."""
        for layer in list(self._pending):
            layer.give_up(ConnectionAbortedError("stopped"))

    def _admit(self, layer: TlsLayer) -> Exception | None:
        peer = layer.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else ""  # unix sockets' have none
        door = self._door
        group = door.group_of(address) if door is not None else ""
        refusal = door.enter(group) if door is not None else None
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(self._handshake_s, self._too_late, layer)
        counted = refusal is None
        self._pending[layer] = _Handshake(layer, address, group, deadline, counted=counted)
        return _TooManyError(refusal.message) if refusal is not None else None

    def _waiting_handshakes(self) -> list[_Handshake]:
        return [handshake for handshake in self._pending.values() if handshake.counted]

    def _too_late(self, layer: TlsLayer) -> None:
        layer.give_up(TimeoutError(f"no handshake within {self._handshake_s:g} s"))

    def _ended(self, layer: TlsLayer, error: Exception | None) -> None:
        handshake = self._pending.pop(layer)
        handshake.deadline.cancel()
        if self._door is not None and handshake.counted:
            self._door.leave(handshake.group)
        if error is not None:
            client = handshake.address or "local"
            self._on_failure(self._tls.name, _kind_of(error), client, why_failed(error))


def _kind_of(error: Exception) -> HandshakeFailure:
    if isinstance(error, _TooManyError):
        return HandshakeFailure.REFUSED
    if isinstance(error, TimeoutError):
        return HandshakeFailure.TIMEOUT
    if not isinstance(error, ssl.SSLError):
        return HandshakeFailure.CLOSED
    reason = error.reason or ""
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        return HandshakeFailure.CERTIFICATE
    return HandshakeFailure.PROTOCOL
