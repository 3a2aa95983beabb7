"""What do messages look like that are valid, and what do they turn into when bytes go wrong?

`requests`, `responses` and `chunked_bodies` are strategies for valid bytes; `mutated` spoils them
with the bytes and lines that smugglers like, by `spoil`, which needs no strategies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")

_CONTENT = st.sampled_from(
    [b"", b"x", b"hello", b"0\r\n\r\n", b"\r\n", b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"]
)
_EXTENSION = st.sampled_from([b"", b"", b"", b";a", b";a=b", b';a="b;c"', b";a;b=c"])
_TRAILER = st.sampled_from([b"X-Sum: 1\r\n", b"Y:\r\n", b"z:\ta b \r\n"])
_ODD_FIELD = st.sampled_from(
    [
        b"X-One: 1",
        b"x-one:2",
        b"Empty:",
        b"Accept: */*",
        b"X-Tab:\t3\t",
        b"Obs: \xe9\xff",
        b"Connection: keep-alive",
        b"Connection: x-one",
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Colons: a:b:c",
        b"User-Agent: a b c",
    ]
)
_TARGET = st.sampled_from(
    [b"/free", b"/", b"//a/../b", b"/%2e%2E/?a=b&c", b"/free?", b"http://b/free", b"http://b?x"]
)


def _chunk(parts: tuple[bytes, bytes]) -> bytes:
    content, extension = parts
    return b"%x%b\r\n%b\r\n" % (len(content), extension, content) if content else b""


chunked_bodies: SearchStrategy[bytes] = st.builds(
    lambda chunks, extension, trailers: (
        b"".join(map(_chunk, chunks)) + b"0" + extension + b"\r\n" + b"".join(trailers) + b"\r\n"
    ),
    st.lists(st.tuples(_CONTENT, _EXTENSION), max_size=3),
    _EXTENSION,
    st.lists(_TRAILER, max_size=2),
)


def _message(first_line: bytes, fields: list[bytes], framing: bytes, body: bytes) -> bytes:
    return b"\r\n".join([first_line, *fields, *([framing] if framing else []), b"", b""]) + body


def _with_length(content: bytes) -> tuple[bytes, bytes]:
    return b"Content-Length: %d" % len(content), content


def _with_chunks(body: bytes) -> tuple[bytes, bytes]:
    return b"Transfer-Encoding: chunked", body


_framed = st.one_of(
    st.just((b"", b"")), _CONTENT.map(_with_length), chunked_bodies.map(_with_chunks)
)
_gets = st.builds(
    lambda method, target, fields: _message(
        b"%b %b HTTP/1.1" % (method, target), [b"Host: a", *fields], b"", b""
    ),
    st.sampled_from([b"GET", b"GET", b"OPTIONS", b"DELETE"]),
    _TARGET,
    st.lists(_ODD_FIELD, max_size=3),
)
_posts = st.builds(
    lambda target, fields, framed: _message(
        b"POST %b HTTP/1.1" % target, [b"Host: a", *fields], *framed
    ),
    _TARGET | st.just(b"/v1/chat/completions"),
    st.lists(_ODD_FIELD, max_size=3),
    _framed,
)
_http10 = st.builds(
    lambda fields: _message(b"GET /free HTTP/1.0", fields, b"", b""),
    st.lists(_ODD_FIELD, max_size=2),
)
requests: SearchStrategy[bytes] = st.one_of(_posts, _gets, _http10)
"""One valid request."""

responses: SearchStrategy[bytes] = st.builds(
    lambda line, fields, framed: _message(line, fields, *framed),
    st.sampled_from(
        [
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1 404 ",
            b"HTTP/1.0 200 OK",
            b"HTTP/1.1 204 No Content",
            b"HTTP/1.1 103 Early Hints",
            b"HTTP/1.1 500 a b\tc",
        ]
    ),
    st.lists(_ODD_FIELD, max_size=3),
    _framed,
)
"""One valid response."""

PIECES = [
    *(
        bytes([byte])
        for byte in b"\r\n\x00 \t:;,\x0b\x0c\x7f\x1f\x80\xa0\xff0159aAfxX+-_#?/\\@%\"'&=*"
    ),
    b"\r\n",
    b"\n\r",
    b"\r\r\n",
    b"\n\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"\r\n\t",
    b"0\r\n\r\n",
    b"chunked",
    b"identity",
    b", ",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"\r\nHost: b",
    b"\r\nConnection: close",
    b"\r\nConnection: content-length, transfer-encoding, host",
    b"\r\nContent-Length: 5",
    b"\r\nContent-Length: 0",
    b"\r\nTransfer-Encoding: chunked",
    b"\r\ntransfer_encoding: chunked",
    b"\r\nTransfer-Encoding:\tchunked",
    b"\r\nTransfer-Encoding: x",
    b"\r\nExpect: 100-continue",
    b"\r\nUpgrade: h2c",
    b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /smuggled HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
]
"""What mutations put in: the bytes and lines that smugglers like."""

# Where things happen in a message: mutations aim at these more often than at any other place.
_JOINTS = (b"\r\n\r\n", b"\r\n", b"\n", b": ", b":", b" ", b"chunked", b"Length", b"0", b"5", b";")


class Choose(Protocol):
    """Picks one of several; what does the picking is up to whoever spoils."""

    def __call__(self, options: Sequence[T], /) -> T: ...


def spoil(data: bytes, choose: Choose) -> bytes:
    """Insert, replace, delete or repeat something, or cut the bytes off, at one place."""
    joint = choose([b"", *_JOINTS])
    at = choose(_places(joint, data)) + choose([0, len(joint)])
    kind = choose(["insert", "replace", "delete", "repeat", "cut"])
    size = len(joint) or choose(range(1, 5))
    piece = choose(PIECES)
    if kind == "insert":
        return data[:at] + piece + data[at:]
    if kind == "replace":
        return data[:at] + piece + data[at + size :]
    if kind == "delete":
        return data[:at] + data[at + size :]
    if kind == "repeat":
        return data[:at] + data[max(0, at - 20) :]
    return data[:at]


def _places(joint: bytes, data: bytes) -> Sequence[int]:
    if not joint:
        return range(len(data) or 1)
    return [found.start() for found in re.finditer(re.escape(joint), data)] or [0]


@st.composite
def mutated(draw: st.DrawFn, valid: SearchStrategy[bytes], most: int = 3) -> bytes:
    """Bytes of `valid` with up to `most` mutations."""
    data = draw(valid)
    for _ in range(draw(st.integers(0, most))):
        data = spoil(data, lambda options: draw(st.sampled_from(options)))
    return data
