"""What lies between two protocols when there are no sockets? A line with two ends.

Each end is an asyncio transport that behaves as TCP under uvloop does where it matters here:
segments arrive one by one, `close` says FIN and `abort` too, unless SO_LINGER is zero or something
was left unread, which makes it a reset; who writes to somebody that is gone is reset as well, and
learns of it by the next write if it has read the FIN; and writing on after a `close`, which uvloop
drops at first and raises at later, is an error of the program. An end can be slow: what is written
then stays in user space for a few turns of the loop, and writing is paused.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

P = TypeVar("P", bound=asyncio.Protocol)

# How many turns of the loop a slow end keeps what was written.
_SLOW_TURNS = 3


class _Signal(Enum):
    """What can arrive besides bytes."""

    FIN = "fin"
    RST = "rst"


class LineSocket:
    """The kernel's view of one end: what poll(2) and setsockopt(2) would know of it."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.resets_on_close = False
        self._pipe: tuple[int, int] | None = None  # made when somebody asks for the number
        self._readable = self._hung_up = False

    def fileno(self) -> int:
        """A descriptor that polls as readable while bytes wait, and as hung up after the end."""
        if self._pipe is None:
            self._pipe = os.pipe()
            self._show()
        return self._pipe[0]

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Remember whether closing sends RST; nothing else matters here."""
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self.resets_on_close = bool(value)

    def waits(self) -> None:
        """Bytes wait to be read, or the end of all bytes does."""
        if not self._readable:
            self._readable = True
            self._show()

    def read_empty(self) -> None:
        """All bytes have been read."""
        if self._readable and not self._hung_up:
            self._readable = False
            if self._pipe is not None:
                os.read(self._pipe[0], 1)

    def hang_up(self) -> None:
        """The other end says no more."""
        if not self._hung_up:
            self._readable = self._hung_up = True
            if self._pipe is not None:
                os.close(self._pipe[1])

    def close(self) -> None:
        """Free the descriptors."""
        if self._pipe is not None:
            os.close(self._pipe[0])
            if not self._hung_up:
                os.close(self._pipe[1])
            self._pipe = None

    def _show(self) -> None:
        if self._pipe is not None:
            if self._hung_up:
                os.close(self._pipe[1])
            elif self._readable:
                os.write(self._pipe[1], b"x")


class End(asyncio.Transport):
    """One end of a line."""

    peer: End

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.Protocol,
        sock: LineSocket,
        *,
        slow: bool,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._slow = slow
        self.sock = sock
        self._inbox: deque[bytes | _Signal] = deque()
        self._outbox = b""
        self._flushing = False
        self._reading = True
        self._delivering = False
        self._closing = False
        self._eof_said = False
        self._eof_heard = False
        self._reset_unseen = False  # uvloop reads no more after a FIN, so nobody told us yet
        self.lost = False

    # What the protocol asks for.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self.sock
        return ("192.0.2.1", 50_000) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0, "the data path keeps nothing in user space"
        assert low is None

    def get_write_buffer_size(self) -> int:
        return len(self._outbox)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._look_for_mail()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self._closing, "written after close: dropped, and uvloop raises when it is over"
        assert not self._eof_said, "written after write_eof"
        if self._reset_unseen:
            self._loop.call_soon(self._lose, BrokenPipeError("the peer has gone"))
        elif data and self._slow:
            self._outbox += data
            if not self._flushing:
                self._flushing = True
                self._protocol.pause_writing()
                self._after_turns(_SLOW_TURNS, self._flush)
        elif data:
            self._send(bytes(data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._eof_said:
            self._eof_said = True
            if not self._flushing:
                self.peer.arrive(_Signal.FIN)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._flushing:
                self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        self._outbox = b""
        self._closing = True
        self._loop.call_soon(self._lose, None)

    # What the line does.

    def arrive(self, item: bytes | _Signal) -> None:
        """Bytes, FIN or RST came in from the other end."""
        if self.lost:
            return
        self._inbox.append(item)
        if isinstance(item, bytes):
            self.sock.waits()
        else:
            self.sock.hang_up()
        self._look_for_mail()

    def _look_for_mail(self) -> None:
        if self._inbox and self._reading and not self._delivering:
            self._delivering = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._delivering = False
        if self._closing or not self._reading or not self._inbox:
            return
        item = self._inbox.popleft()
        if not self._inbox:
            self.sock.read_empty()
        if isinstance(item, bytes):
            self._protocol.data_received(item)
        elif item is _Signal.RST:
            if self._eof_heard:
                self._reset_unseen = True
            else:
                self._lose(ConnectionResetError("reset by peer"))
        else:
            self._eof_heard = True
            if not self._protocol.eof_received():
                self.close()
        self._look_for_mail()

    def _send(self, data: bytes) -> None:
        if self.peer.lost:
            self.arrive(_Signal.RST)  # says the peer's kernel
        else:
            self.peer.arrive(data)

    def _after_turns(self, turns: int, callback: Callable[[], None]) -> None:
        if turns:
            self._loop.call_soon(self._after_turns, turns - 1, callback)
        else:
            callback()

    def _flush(self) -> None:
        self._flushing = False
        data, self._outbox = self._outbox, b""
        if self.lost:
            return
        if data:
            self._send(data)
        if self._eof_said:
            self.peer.arrive(_Signal.FIN)
        if self._closing:
            self._lose(None)
        else:
            self._protocol.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        if self.lost:
            return
        self._closing = self.lost = True
        self._protocol.connection_lost(error)
        self.sock.close()
        if error is None:
            unread = any(isinstance(item, bytes) for item in self._inbox)
            if self.sock.resets_on_close or unread:
                self.peer.arrive(_Signal.RST)
            elif not self._eof_said:
                self.peer.arrive(_Signal.FIN)


def connect(
    loop: asyncio.AbstractEventLoop,
    make_near: Callable[[LineSocket], P],
    far: asyncio.Protocol,
    *,
    near_slow: bool = False,
) -> P:
    """Put a line between the protocol that is made for the near end's socket, and another one."""
    sock = LineSocket()
    near = make_near(sock)
    ends = End(loop, near, sock, slow=near_slow), End(loop, far, LineSocket(), slow=False)
    ends[0].peer, ends[1].peer = ends[1], ends[0]
    far.connection_made(ends[1])
    near.connection_made(ends[0])
    return near
