"""How do encrypted bytes become plain ones, and how is it told that the rest is missing?

One object a connection: towards the socket a protocol, towards the protocol above a transport that
behaves like a plain one, on each event loop. asyncio's and uvloop's own TLS do not: see
`docs/decisions/0005-own-tls-layer.md`. The cryptography is the standard library's (OpenSSL).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any, cast

# The most that one TLS record holds (RFC 8446, 5.1; RFC 5246, 6.2.1).
_RECORD_BYTES = 16 * 1024

# How long a peer may take our last words before its connection is ended at once.
_LINGER_S = 2.0

_OWN_INFO: dict[str, Callable[[ssl.SSLObject], object]] = {
    "ssl_object": lambda tls: tls,
    "sslcontext": lambda tls: tls.context,
    "peercert": lambda tls: tls.getpeercert(),
    "cipher": lambda tls: tls.cipher(),
    "compression": lambda tls: tls.compression(),
}


class TruncatedError(ConnectionError):
    """The peer's TCP connection ended without TLS's own end: what came may not be all."""

    def __init__(self) -> None:
        super().__init__("ended without TLS close_notify")


def why_failed(error: BaseException) -> str:
    """What went wrong with TLS, in a few words for a message."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error) or type(error).__name__


class TlsLayer(asyncio.Protocol, asyncio.Transport):
    """TLS on one connection, between its socket and the protocol above.

    What is written goes on to the socket in the same call, and what the socket has not taken is
    counted and paused for as on a plain connection. The end of the peer's data (`eof_received`)
    is its close_notify alone; an end without it is `connection_lost(TruncatedError)`.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        above: Callable[[], asyncio.Protocol],
        on_handshake: Callable[[TlsLayer, Exception | None], None],
        *,
        server_side: bool,
        server_name: str | None = None,
        admit: Callable[[TlsLayer], Exception | None] | None = None,
    ) -> None:
        """`above` makes the protocol above, once the handshake is done.

        `on_handshake` is told once how the handshake ended; None: well. `server_name` is asked for
        (SNI) and, where the context verifies, expected in the server's certificate. `admit` is
        asked before the handshake and may return why there shall be none.
        """
        super().__init__()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name
        )
        self._make_above = above
        self._admit = admit
        self._above: asyncio.Protocol | None = None
        self._on_handshake: Callable[[TlsLayer, Exception | None], None] | None = on_handshake
        self._error: Exception | None = None
        self._closing = False
        self._peer_finished = False  # its close_notify came
        self._finished = False  # ours went out
        self._paused = False
        self._below: asyncio.Transport

    # -- the socket's side ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._below = cast("asyncio.Transport", transport)  # uvloop's are none by type
        refused = self._admit(self) if self._admit is not None else None
        if refused is None:
            self._shake_hands()
        else:
            self.give_up(refused)

    def data_received(self, data: bytes) -> None:
        """Take encrypted bytes."""
        if self._peer_finished:
            return  # nothing after close_notify counts (RFC 8446, 6.1)
        self._incoming.write(data)
        if self._above is not None:
            self._decrypt()
        elif self._on_handshake is not None:
            self._shake_hands()

    def eof_received(self) -> bool:
        """The end of the TCP stream: an end of the data only after close_notify."""
        if self._peer_finished:
            return True  # what we still write may be wanted; the protocol above closes
        if self._above is not None and not self._closing:
            self._error = TruncatedError()
            self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._closing = True
        self._handshake_ended(exc or ConnectionResetError("closed the connection"))
        above, self._above = self._above, None
        if above is not None:
            above.connection_lost(self._error or exc)

    def pause_writing(self) -> None:
        """The socket takes no more."""
        self._paused = True
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._paused = False
        if self._above is not None:
            self._above.resume_writing()

    # -- the handshake --------------------------------------------------------------------

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert that tells the peer
            if error.reason == "HTTP_REQUEST":
                self._below.write(_PLAIN_HTTP)
            self._handshake_ended(error)
            self._close_below()
            return
        self._flush()
        paused = self._paused
        self._handshake_ended(None)
        self._above = self._make_above()
        self._above.connection_made(self)
        if paused and self._above is not None:
            self._above.pause_writing()  # only what happens from now on is told by the socket
        if self._incoming.pending and self._above is not None:
            self._decrypt()  # the first request may come with the client's last handshake message

    def give_up(self, error: Exception) -> None:
        """Break the handshake off, for that reason."""
        self._handshake_ended(error)
        self.abort()

    def _handshake_ended(self, error: Exception | None) -> None:
        told, self._on_handshake = self._on_handshake, None
        if told is not None:
            told(self, error)

    # -- reading --------------------------------------------------------------------------

    def _decrypt(self) -> None:
        """Hand up all that can be read, in one piece."""
        pieces: list[bytes] = []
        error: ssl.SSLError | None = None
        try:
            self._read_records(pieces)
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except ssl.SSLError as broken:
            error = broken
        self._flush()  # an alert, or an answer to a key update
        if pieces and self._above is not None:
            self._above.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if error is not None:
            self._error = error
            self._close_below()
        elif self._peer_finished:
            self._end_reading()

    def _read_records(self, pieces: list[bytes]) -> None:
        tls, incoming = self._tls, self._incoming
        while True:
            try:
                piece = tls.read(_RECORD_BYTES)
            except ssl.SSLZeroReturnError:  # close_notify, when ours has been sent
                piece = b""
            if not piece:
                self._peer_finished = True
                return
            pieces.append(piece)
            if not incoming.pending and not tls.pending():
                return  # asking once more would cost an exception

    def _end_reading(self) -> None:
        """The peer said its last word; as with TCP, the protocol above may want to go on."""
        if self._above is None or self._closing:
            return
        if not self._above.eof_received():
            self.close()

    # -- the transport of the protocol above ----------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._closing or self._finished or not data:
            return
        tls = self._tls
        try:
            written = tls.write(data)
            while written < len(data):  # OpenSSL writes a record at a time
                data = memoryview(data)[written:]
                written = tls.write(data)
        except ssl.SSLError as error:
            self._error = error
            self.abort()
            return
        self._below.write(self._outgoing.read())

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Encrypt and send all of it."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """TLS ends each direction apart (RFC 8446, 6.1)."""
        return True

    def write_eof(self) -> None:
        """Say that no more will be sent, and go on receiving."""
        if self._finished or self._closing:
            return
        self._finished = True
        with contextlib.suppress(ssl.SSLError):  # the peer's may come later, or never
            self._tls.unwrap()
        self._flush()

    def close(self) -> None:
        """Send what was written and close_notify, then close. The peer's is not waited for."""
        if self._closing:
            return
        self.write_eof()
        self._closing = True
        self._below.close()

    def abort(self) -> None:
        """Close at once, and without close_notify: an answer that is cut must look cut."""
        self._closing = True
        self._below.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._closing or self._below.is_closing()

    def pause_reading(self) -> None:
        """Receive nothing for the moment."""
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """Receive again."""
        self._below.resume_reading()

    def is_reading(self) -> bool:
        """Whether it receives."""
        return self._below.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When to pause the protocol above, in encrypted bytes."""
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that the socket has not taken."""
        return self._below.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Low and high, in encrypted bytes."""
        return self._below.get_write_buffer_limits()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Put another protocol above."""
        self._above = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol above; this object itself while there is none."""
        return self._above or self

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - asyncio's
        """What asyncio's TLS transports tell, and what the socket's transport does."""
        if name in _OWN_INFO:
            return _OWN_INFO[name](self._tls)
        return self._below.get_extra_info(name, default)

    # -- endings --------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read())

    def _close_below(self) -> None:
        """Close once the last words are out, but do not wait for long."""
        self._closing = True
        self._below.close()
        asyncio.get_running_loop().call_later(_LINGER_S, self._below.abort)


_PLAIN_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 32\r\n"
    b"Connection: close\r\n\r\nThis port speaks TLS: use https\n"
)
