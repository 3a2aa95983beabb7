"""How is one page of the admin port asked for? A GET over a socket, and nothing more.

`http.client` would do, but to import it takes 20 ms, as long as all the rest of a health check
(measured): it reads header fields with the `email` package.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import ssl

    from sidecar.settings.address import ListenAddress

_MAX_LINE_BYTES = 64 * 1024
_MAX_BODY_BYTES = 16 * 1024 * 1024


class NotHttpError(Exception):
    """What came is no answer; the text says what it is instead."""


def get(
    address: ListenAddress, path: str, tls: ssl.SSLContext | None, timeout_s: float
) -> tuple[int, bytes]:
    """Ask for `path`; returns status and body. Raises `OSError` and `NotHttpError`.

    `timeout_s` bounds each wait: for the connection, and for every piece of the answer.
    """
    connection = _connect(address, timeout_s)
    try:
        if tls is not None:
            connection = tls.wrap_socket(connection, server_hostname=address.host or "localhost")
        # HTTP/1.0: the answer is not chunked, and the connection ends with it (RFC 9112, 9.3).
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            return _status(answer), _body(answer)
    finally:
        connection.close()


def _connect(address: ListenAddress, timeout_s: float) -> socket.socket:
    if address.path is None:
        return socket.create_connection((address.host, address.port), timeout_s)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    try:
        connection.connect(address.path)
    except OSError:
        connection.close()
        raise
    return connection


def _status(answer: BinaryIO) -> int:
    line = answer.readline(_MAX_LINE_BYTES)
    version, _, rest = line.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        raise NotHttpError(repr(line[:80].decode("latin-1")) if line else "nothing")
    return int(rest[:3])


def _body(answer: BinaryIO) -> bytes:
    length = _MAX_BODY_BYTES
    exact = False
    while (line := answer.readline(_MAX_LINE_BYTES)).strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and value.strip().isdigit():
            length, exact = min(int(value), _MAX_BODY_BYTES), True
    body = answer.read(length)
    if exact and len(body) < length:
        raise NotHttpError(f"{len(body)} bytes instead of {length}")
    return body
