"""How would different servers read the same bytes? Three readers, to be asked for one answer.

Request smuggling is two servers that read one message differently. What the sidecar sends on must
therefore mean the same to a strict server (h11), to the parser of Node and aiohttp (llhttp), and
to a gullible one that takes anything for a field, and either of two lengths for the length.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import NamedTuple

import h11
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.http_parser import HttpRequestParser

Fields = list[tuple[bytes, bytes]]
"""Names in lower case, and values, in order."""

_NOT_ASCII = re.compile(rb"([^ \r\n]+ )([!-~]*[\x80-\xff][!-~\x80-\xff]*)(?= HTTP/1\.[01]\r?\n)")


class Read(NamedTuple):
    """One whole request, as some server reads it."""

    method: bytes
    target: bytes
    body: bytes = b""


class UnreadableError(Exception):
    """A server refused the bytes."""


def what_arrived(data: bytes, *, unusual: bool = False) -> list[Read]:
    """The whole requests in what one connection brought, on which all readers must agree.

    With `unusual` strict readers may refuse it: it is no ambiguity if they do.
    """
    readings = [read_gullibly(data, by_length=by_length) for by_length in (False, True)]
    for read in (read_with_llhttp, read_with_h11):
        try:
            readings.append(read(data))
        except UnreadableError:
            assert unusual, data
    assert all(reading == readings[0] for reading in readings), (data, readings)
    return readings[0]


_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r\n|\n|\r")


def read_gullibly(data: bytes, *, by_length: bool) -> list[Read]:
    """Read as a careless server: any line end, any spelling; of two lengths the one it likes."""
    return split_gullibly(data, by_length=by_length)[0]


def split_gullibly(data: bytes, *, by_length: bool) -> tuple[list[Read], bytes]:
    """Read carelessly; also return the bytes behind the last whole request."""
    found = []
    while (blank := _BLANK_LINE.search(data)) is not None:
        line, *fields = _LINE_END.split(data[: blank.start()])
        rest = data[blank.end() :]
        chunked, length = False, 0
        for field in fields:
            name, _, value = field.partition(b":")
            name = re.sub(rb"[\x00-\x20]", b"", name).replace(b"_", b"-").lower()
            chunked |= name == b"transfer-encoding" and b"chunked" in value.lower()
            if name == b"content-length" and (digits := re.search(rb"[0-9]+", value)):
                length = int(digits[0])
        taken = _dechunk(rest) if chunked and not (by_length and length) else _cut(rest, length)
        if taken is None:
            break
        body, data = taken
        method, _, target = line.strip().partition(b" ")
        found.append(Read(method, target.rpartition(b" ")[0], body))
    return found, data


def _cut(data: bytes, length: int) -> tuple[bytes, bytes] | None:
    return (data[:length], data[length:]) if len(data) >= length else None


def _dechunk(data: bytes) -> tuple[bytes, bytes] | None:
    body = b""
    while (end := data.find(b"\n")) >= 0:
        size = int((re.match(rb"[0-9A-Fa-f]+", data) or [b"0"])[0], 16)
        data = data[end + 1 :]
        if size == 0:
            while not data.startswith((b"\n", b"\r\n")):
                if b"\n" not in data:
                    return None
                data = data.partition(b"\n")[2]
            return body, data.partition(b"\n")[2]
        if len(data) < size + 2:
            return None
        body, data = body + data[:size], data[size + 2 :]
    return None


def read_with_h11(data: bytes) -> list[Read]:
    """Read as h11 does; `UnreadableError` where it refuses."""
    reading = read_strictly(data)
    if reading.refusal:
        raise UnreadableError(reading.refusal)
    return [read for read, _ in reading.requests]


class StrictReading(NamedTuple):
    """What h11 reads in the bytes of one connection."""

    requests: list[tuple[Read, Fields]]
    """All that are whole, up to one that ends the connection."""
    begun: Read | None = None
    """The next one, when its head could be read but not its end; with what there is of its body."""
    refusal: str = ""
    """Why h11 refused the bytes behind."""


@lru_cache(maxsize=64)  # the bytes of one connection are judged more than once
def read_strictly(data: bytes) -> StrictReading:
    """Read as h11 does.

    h11 takes no empty line before a request (RFC 9112, 2.2), only ASCII in targets, and never
    keeps HTTP/1.0 alive; all three are put right here.
    """
    found: list[tuple[Read, Fields]] = []
    while data := re.sub(rb"\A(?:\r\n)+", b"", data):
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        line = _NOT_ASCII.match(data)
        connection.receive_data(data if line is None else line[1] + b"/" + data[line.end(2) :])
        request, body, end = None, b"", None
        try:
            request = connection.next_event()
            if not isinstance(request, h11.Request):
                break
            while isinstance(end := connection.next_event(), h11.Data):
                body += bytes(end.data)
        except h11.RemoteProtocolError as error:
            refusal = str(error)
        else:
            refusal = ""
        if not isinstance(request, h11.Request):
            return StrictReading(found, None, refusal)
        read = Read(request.method, request.target if line is None else line[2], body)
        if not isinstance(end, h11.EndOfMessage):
            return StrictReading(found, read, refusal)
        found.append((read, list(request.headers)))
        if not _keeps_alive(request):
            break
        data = connection.trailing_data[0]
    return StrictReading(found)


def _keeps_alive(request: h11.Request) -> bool:
    members = [
        member.strip().lower()
        for name, value in request.headers
        if name == b"connection"
        for member in value.split(b",")
    ]
    if b"close" in members:
        return False
    return request.http_version == b"1.1" or b"keep-alive" in members


def read_with_llhttp(data: bytes) -> list[Read]:
    """Read as llhttp does; `UnreadableError` where it refuses."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(
        BaseProtocol(loop),
        loop,
        1 << 24,
        max_line_size=1 << 20,
        max_field_size=1 << 20,
        max_headers=10_000,
        auto_decompress=False,
    )
    try:
        messages, _, _ = parser.feed_data(data)
    except BadHttpMessage as error:
        raise UnreadableError(str(error)) from error
    return [
        Read(message.method.encode(), _raw(message.path), payload.read_nowait())
        for message, payload in messages
        if payload.is_eof()
    ]


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
