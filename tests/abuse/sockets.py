"""How does an attacker talk? Blocking sockets, without a library that would know better."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator

# SO_LINGER with time 0: close() sends RST instead of FIN (socket(7)).
_RESET = struct.pack("ii", 1, 0)

# What is not over by then never will be.
_PATIENCE_S = 10.0


def connect(port: int) -> socket.socket:
    """A connection whose every `send` is a segment of its own."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def reset(sock: socket.socket) -> None:
    """End the connection with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


@contextlib.contextmanager
def connections(
    port: int, count: int, *, first: bytes = b"", pause_s: float = 0.0
) -> Iterator[list[socket.socket]]:
    """So many at once, on each of which `first` is sent; reset, last first, when the block ends."""
    socks: list[socket.socket] = []
    try:
        for _ in range(count):
            socks.append(connect(port))
            socks[-1].sendall(first)
            time.sleep(pause_s)
        yield socks
    finally:
        for sock in reversed(socks):
            reset(sock)


def read_all(sock: socket.socket) -> bytes:
    """All that comes until the other side closes or resets."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            received += data
    return bytes(received)


def read_now(sock: socket.socket) -> bytes:
    """What has come by now."""
    sock.setblocking(False)
    try:
        return sock.recv(65536)
    except (BlockingIOError, ConnectionError):
        return b""


def ask(port: int, request: bytes) -> bytes:
    """Send a request on a connection of its own that the other side will close."""
    with connect(port) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(request)
        return read_all(sock)


def flood(sock: socket.socket, piece: bytes, seconds: float) -> int:
    """Send the same bytes again and again; how many were taken until time or patience ended."""
    sock.settimeout(1.0)
    sent = 0
    until_s = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while time.monotonic() < until_s:
            sock.sendall(piece)
            sent += len(piece)
    return sent


def drip(socks: list[socket.socket], data: bytes, over: Callable[[], bool]) -> None:
    """Send one byte after the other on all of them, a round every 20 ms, until it is over."""
    for byte in data:
        if over():
            return
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.send(bytes([byte]))
        time.sleep(0.02)
