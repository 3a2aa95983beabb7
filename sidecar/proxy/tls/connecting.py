"""How does a connection get its TLS? Handshakes as client and as server, in time and counted."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

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


# Told the listener's name, the kind, the client's address and, in words, why.
OnFailure = Callable[[str, HandshakeFailure, str, str], None]


def untold(*_: object) -> None:
    """Nobody wants to know."""


class Acceptor:
    """TLS for all clients of one listener."""

    def __init__(self, tls: ReloadingContext, handshake_s: float, on_failure: OnFailure) -> None:
        """A client has `handshake_s` seconds; `on_failure` hears of those that fail."""
        self._tls = tls
        self._handshake_s = handshake_s
        self._on_failure = on_failure
        self._deadlines: dict[TlsLayer, asyncio.TimerHandle] = {}

    @property
    def pending(self) -> int:
        """Connections that are not done with their handshake."""
        return len(self._deadlines)

    def wrap(self, above: Callable[[], asyncio.Protocol]) -> Callable[[], TlsLayer]:
        """What the listener makes for each connection, so that `above` is made behind TLS."""

        def accept() -> TlsLayer:
            layer = TlsLayer(self._tls.context, above, self._ended, server_side=True)
            loop = asyncio.get_running_loop()
            self._deadlines[layer] = loop.call_later(self._handshake_s, self._give_up, layer)
            return layer

        return accept

    def stop(self) -> None:
        """Break off all handshakes."""
        for layer in list(self._deadlines):
            layer.give_up(ConnectionAbortedError("stopped"))

    def _give_up(self, layer: TlsLayer) -> None:
        layer.give_up(TimeoutError(f"no handshake within {self._handshake_s:g} s"))

    def _ended(self, layer: TlsLayer, error: Exception | None) -> None:
        self._deadlines.pop(layer).cancel()
        if error is not None:
            peer = layer.get_extra_info("peername")
            address = str(peer[0]) if isinstance(peer, tuple) else "local"
            self._on_failure(self._tls.name, _kind_of(error), address, why_failed(error))


def _kind_of(error: Exception) -> HandshakeFailure:
    if isinstance(error, TimeoutError):
        return HandshakeFailure.TIMEOUT
    if not isinstance(error, ssl.SSLError):
        return HandshakeFailure.CLOSED
    reason = error.reason or ""
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        return HandshakeFailure.CERTIFICATE
    return HandshakeFailure.PROTOCOL
