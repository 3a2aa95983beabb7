"""How does a connection end in a reset? asyncio's transports do not offer it."""

from __future__ import annotations

import asyncio
import socket
import struct

# SO_LINGER on, zero seconds: closing sends RST (socket(7), tcp(7)).
_LINGER_ZERO = struct.pack("ii", 1, 0)


def reset(transport: asyncio.Transport) -> None:
    """End at once, with a reset, and drop what the peer has not got. Unix sockets just close."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    transport.abort()
