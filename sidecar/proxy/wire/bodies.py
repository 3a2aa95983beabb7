"""Where does a message body end? Framing by length, by chunks, by the end of the connection.

A body is fed the bytes as they come and says how many of them are its own; the rest belongs to
the next message. What is its own can be passed on as it came: chunk sizes, extensions and
trailers are checked, not rebuilt.
"""

from __future__ import annotations

import re
from typing import Protocol

from sidecar.proxy.wire.heads import FORWARDING, BadMessageError

_TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_TOKEN = _TCHAR + rb"++"
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*+"
_QUOTED = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'

# RFC 9112, 7.1: size in hexadecimal, then extensions. 15 digits hold 2^60 - 1; more could
# overflow somebody's 64-bit integer. White space beside ";" is not accepted (smuggling).
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*+"
)
_PLAIN_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_FILL_MAX = 64 * 1024  # of a chunk that will never come whole: a guess
_TRAILER_LINE = re.compile(rb"(" + _TOKEN + rb"):" + _TEXT)

# Nobody sends extensions, and trailers are a checksum or a few timings: both bounds are far above
# what is met, so that they are no settings. RFC 9112, 7.1.1, asks for a limit on extensions.
CHUNK_LINE_MAX = 1024
TRAILERS_MAX = 8 * 1024

# A run of chunks of less than 16 bytes, each with one short extension at most. One at a time they
# cost 2 us each, so that a client sending single bytes at full speed would keep everybody else
# waiting: 95 ms for the 256 KB that are read at once, and 2 ms this way (measured).
_SHORT_EXTENSION = rb"(?:;" + _TCHAR + rb"{1,32}+(?:=" + _TCHAR + rb"{1,32}+)?+)?+\r\n"
_TINY_CHUNKS = re.compile(
    rb"(?:"
    + b"|".join(b"[%x%X]" % (n, n) + _SHORT_EXTENSION + rb".{%d}\r\n" % n for n in range(1, 16))
    + rb")*+",
    re.DOTALL,
)

# How such lines begin. What is passed on before its line's end has come must not be anything that
# the backend could take for a line's end already.
_CHUNK_LINE_START = re.compile(rb"[0-9A-Fa-f]{1,15}(?:;" + _TEXT + rb")?\r?")
_TRAILER_LINE_START = re.compile(rb"(?:" + _TOKEN + rb"(?::" + _TEXT + rb")?)?\r?")

# RFC 9110, 6.5.1: fields that would change framing, routing, trust or how the content is read
# must not stand in trailers. A backend that merges trailers into the head would take them there.
_NOT_IN_TRAILERS = (
    FORWARDING
    | {b"authorization", b"connection", b"content-encoding", b"content-length", b"content-range"}
    | {b"content-type", b"cookie", b"expect", b"host", b"keep-alive", b"max-forwards"}
    | {b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"set-cookie", b"te"}
    | {b"trailer", b"transfer-encoding", b"upgrade", b"x-api-key", b"x-request-id"}
)


class Body(Protocol):
    """One message body being received."""

    complete: bool

    def feed(self, data: bytes) -> int:
        """Take the next bytes; return how many of them belong to this body."""


class LengthBody:
    """A body of a length known beforehand."""

    __slots__ = ("complete", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.complete = length == 0

    def feed(self, data: bytes) -> int:
        """Take what is still missing."""
        size = len(data)
        if size < self.left:
            self.left -= size
            return size
        taken, self.left = self.left, 0
        self.complete = True
        return taken


class UntilCloseBody:
    """A body that ends with its connection; whoever sees the end sets `complete`."""

    __slots__ = ("complete",)

    def __init__(self) -> None:
        self.complete = False

    def feed(self, data: bytes) -> int:
        """Everything belongs to it."""
        return len(data)


class ChunkedBody:
    """A body in chunks, with trailers (RFC 9112, 7.1).

    With `payload` set to a list, the content of the chunks is collected there. When the body is
    complete, `last_chunk_at` is where the last chunk began in what was fed last, or -1 if it began
    before.
    """

    __slots__ = (
        "_line", "_state", "_trailers_size", "complete", "last_chunk_at", "left", "payload",
    )  # fmt: skip

    def __init__(self, *, collect: bool = False) -> None:
        self.complete = False
        self.payload: list[bytes] | None = [] if collect else None
        self.left = 0  # of the current chunk: content, then its CRLF
        self.last_chunk_at = -1
        self._state = _SIZE
        self._line = b""  # an unfinished size or trailer line
        self._trailers_size = 0

    def feed(self, data: bytes) -> int:
        """Take bytes up to the end of the trailers; raises `BadMessageError`."""
        end = len(data)
        self.last_chunk_at = -1
        position = self._whole_chunks(data, end) if self._state == _SIZE and not self._line else 0
        while position < end:
            if self._state == _CONTENT:
                position = self._content(data, position, end)
                if self._state == _SIZE and position < end:
                    position = self._pass_over_tiny(data, position)
                continue
            stop = data.find(b"\n", position)
            if stop < 0:
                self._keep(data[position:])
                return end
            line_at = -1 if self._line else position
            line = self._line + data[position:stop] if self._line else data[position:stop]
            self._line = b""
            position = stop + 1
            if line[-1:] != b"\r":
                raise BadMessageError("a line in a chunked body without CR")
            began = self._state == _SIZE
            self._take_line(line[:-1])
            if began and self._state == _TRAILERS:
                self.last_chunk_at = line_at
            if self.complete:
                return position
        return end

    def finishing(self, filler: bytes) -> bytes | None:
        """What would end the current chunk, so that another may follow; None if nothing could.

        `filler` is a byte that does no harm in the content.
        """
        if self._state == _SIZE and not self._line:
            return b""
        if self._state == _CONTENT and self.left <= _FILL_MAX:
            return filler * (self.left - 2) + b"\r\n"[-self.left :]
        return None

    def _whole_chunks(self, data: bytes, end: int) -> int:
        """Pass over chunks that are here whole, as they nearly always are when streamed."""
        position = 0
        while match := _PLAIN_SIZE.match(data, position):
            start = match.end()
            stop = start + int(match[1], 16)
            if stop == start or stop + 2 > end or data[stop : stop + 2] != b"\r\n":
                break  # the last chunk, a part of one, or a malformed one: see there
            if self.payload is not None:
                self.payload.append(data[start:stop])
            position = stop + 2
            if stop - start < 16 and position < end:
                position = self._pass_over_tiny(data, position)
        return position

    def _content(self, data: bytes, position: int, end: int) -> int:
        """Pass over chunk content and the CRLF behind it; return the new position."""
        left = self.left
        if left > 2:
            taken = min(left - 2, end - position)
            if self.payload is not None:
                self.payload.append(data[position : position + taken])
            position += taken
            left -= taken
        while left <= 2 and position < end:
            if data[position] != (0x0D if left == 2 else 0x0A):
                raise BadMessageError("a chunk longer than its size")
            position += 1
            left -= 1
            if left == 0:
                self._state = _SIZE
                break
        self.left = left
        return position

    def _pass_over_tiny(self, data: bytes, position: int) -> int:
        """Where the run of tiny chunks ends that may begin at `position`."""
        if self.payload is not None:
            return position
        run = _TINY_CHUNKS.match(data, position)
        return run.end() if run is not None else position

    def _take_line(self, line: bytes) -> None:
        if self._state == _SIZE:
            if len(line) > CHUNK_LINE_MAX:
                raise _too_long_line()
            match = _CHUNK_LINE.fullmatch(line)
            if match is None:
                raise BadMessageError("malformed chunk size")
            size = int(match[1], 16)
            if size:
                self.left = size + 2
                self._state = _CONTENT
            else:
                self._state = _TRAILERS
        elif line:
            self._take_trailer(line)
        else:
            self.complete = True

    def _take_trailer(self, line: bytes) -> None:
        self._trailers_size += len(line)
        if self._trailers_size > TRAILERS_MAX:
            raise _too_many_trailers()
        match = _TRAILER_LINE.fullmatch(line)
        if match is None:
            raise BadMessageError("malformed trailers")
        name = match[1].lower().replace(b"_", b"-")
        if name in _NOT_IN_TRAILERS or name.startswith(b"x-forwarded-"):
            raise BadMessageError("a field in the trailers that may not stand there")

    def _keep(self, start: bytes) -> None:
        self._line += start
        if self._state == _SIZE:
            if len(self._line) > CHUNK_LINE_MAX:
                raise _too_long_line()
            pattern = _CHUNK_LINE_START
        else:
            if self._trailers_size + len(self._line) > TRAILERS_MAX:
                raise _too_many_trailers()
            pattern = _TRAILER_LINE_START
        if pattern.fullmatch(self._line) is None:
            raise BadMessageError("malformed line in a chunked body")


def _too_long_line() -> BadMessageError:
    return BadMessageError(f"a chunk's size and extensions exceed {CHUNK_LINE_MAX} bytes")


def _too_many_trailers() -> BadMessageError:
    return BadMessageError(f"the trailers exceed {TRAILERS_MAX} bytes")


_SIZE, _CONTENT, _TRAILERS = range(3)
