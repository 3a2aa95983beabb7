"""What can a backend answer to confuse a proxy? Raw answers, each named after its trick."""

from __future__ import annotations

from dataclasses import dataclass

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Evil: 1\r\n\r\nevil"


@dataclass(frozen=True)
class Answer:
    """One raw answer, and what the client gets of it."""

    name: str
    raw: bytes
    status: int = 502
    body: bytes = b""
    then: bytes = b""
    """What is sent when the client has got the body so far."""
    method: str = "GET"
    closes: bool = False
    """Whether the backend closes after the last piece."""


def with_fields(*fields: bytes, body: bytes = b"hello") -> bytes:
    """A 200 with these field lines."""
    return b"\r\n".join([b"HTTP/1.1 200 OK", *fields, b"", b""]) + body


_TE = b"Transfer-Encoding: chunked"
_HELLO = b"5\r\nhello\r\n0\r\n\r\n"

_UNREADABLE = {
    "both lengths, Content-Length first": with_fields(b"Content-Length: 15", _TE, body=_HELLO),
    "both lengths, Transfer-Encoding first": with_fields(_TE, b"Content-Length: 15", body=_HELLO),
    "both lengths, Content-Length: 0": with_fields(b"Content-Length: 0", _TE, body=_HELLO),
    "two different lengths": with_fields(b"Content-Length: 5", b"Content-Length: 50"),
    "two equal lengths": with_fields(b"Content-Length: 5", b"Content-Length: 5"),
    "a list of lengths": with_fields(b"Content-Length: 5, 5"),
    "a negative length": with_fields(b"Content-Length: -5"),
    "a length with a plus sign": with_fields(b"Content-Length: +5"),
    "a hexadecimal length": with_fields(b"Content-Length: 0x5"),
    "an empty length": with_fields(b"Content-Length:"),
    "a length beyond 64 bits": with_fields(b"Content-Length: 18446744073709551621"),
    "a length behind an underscore": with_fields(b"Content_Length: 5"),
    "an unknown coding": with_fields(b"Transfer-Encoding: xchunked", body=_HELLO),
    "chunked, identity": with_fields(b"Transfer-Encoding: chunked, identity", body=_HELLO),
    "gzip, chunked": with_fields(b"Transfer-Encoding: gzip, chunked", body=_HELLO),
    "an empty coding": with_fields(b"Transfer-Encoding:", body=_HELLO),
    "chunked twice": with_fields(_TE, _TE, body=_HELLO),
    "chunked and a vertical tab": with_fields(_TE + b"\x0b", body=_HELLO),
    "Transfer-Encoding in HTTP/1.0": b"HTTP/1.0 200 OK\r\n" + _TE + b"\r\n\r\n" + _HELLO,
    "obs-fold": with_fields(b"X: a\r\n b", b"Content-Length: 5"),
    "a bare CR in a value": with_fields(b"X: a\rSet-Cookie: evil=1", b"Content-Length: 5"),
    "a bare LF in a value": with_fields(b"X: a\nSet-Cookie: evil=1", b"Content-Length: 5"),
    "bare LFs everywhere": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "a bare LF for the empty line": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello",
    "NUL in a value": with_fields(b"X: a\x00", b"Content-Length: 5"),
    "a space before the colon": with_fields(b"Content-Length : 5"),
    "a field without colon": with_fields(b"X", b"Content-Length: 5"),
    "a field without name": with_fields(b": x", b"Content-Length: 5"),
    "obs-text in a name": with_fields(b"\xc3\x9cber: x", b"Content-Length: 5"),
    "a bare CR in the reason": b"HTTP/1.1 200 O\rK\r\nContent-Length: 5\r\n\r\nhello",
    "NUL in the reason": b"HTTP/1.1 200 \x00\r\nContent-Length: 5\r\n\r\nhello",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello",
    "a status below 100": b"HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello",
    "a status of letters": b"HTTP/1.1 OK\r\nContent-Length: 5\r\n\r\nhello",
    "no status": b"HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "another protocol": b"ICY 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "an empty line before the head": b"\r\n" + EVIL,
    "a switch of protocols unasked": b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + EVIL,
    "a head of 300 KiB": with_fields(b"X: " + b"y" * 300_000, b"Content-Length: 5"),
    "a head of 300 KiB without end": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000,
    "a first chunk without size": with_fields(_TE, body=b"x\r\nhello\r\n0\r\n\r\n"),
    "a first chunk with a hexadecimal prefix": with_fields(_TE, body=b"0x5\r\nhello\r\n0\r\n\r\n"),
    "a first chunk longer than its size": with_fields(_TE, body=b"4\r\nhello\r\n0\r\n\r\n"),
    "a first chunk's line that ends in LF": with_fields(_TE, body=b"5\nhello\r\n0\r\n\r\n"),
    "HTTP/0.9": b"<html>hello</html>\r\n\r\n",
}
_ENDS_EARLY = {
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Len",
    "nothing": b"",
    "only a 100": b"HTTP/1.1 100 Continue\r\n\r\n",
}

UNREADABLE = [
    *(Answer(name, raw) for name, raw in _UNREADABLE.items()),
    *(Answer(f"{name}, then the end", raw, closes=True) for name, raw in _ENDS_EARLY.items()),
    Answer(
        "a switch of protocols unasked, after a 100",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n" + EVIL,
    ),
]

_CHUNKED = with_fields(_TE, body=b"5\r\nhello\r\n")
_LONG = with_fields(b"Content-Length: 50")
CUT = [
    Answer(name, raw, 200, b"hello", then, closes=closes)
    for name, raw, then, closes in (
        ("a second chunk without size", _CHUNKED, b"x\r\n", False),
        ("a second chunk longer than its size", _CHUNKED, b"1\r\nevil\r\n0\r\n\r\n", False),
        ("an answer for a chunk", _CHUNKED, EVIL, False),
        ("an answer behind the last chunk's line", _CHUNKED, b"0\r\n" + EVIL, False),
        ("a length in the trailers", _CHUNKED, b"0\r\nContent-Length: 5\r\n\r\n", False),
        ("a cookie in the trailers", _CHUNKED, b"0\r\nSet-Cookie: evil=1\r\n\r\n", False),
        ("an end between chunks", _CHUNKED, b"", True),
        ("an end within a chunk", _CHUNKED, b"5\r\n", True),
        ("an end before the trailers' end", _CHUNKED, b"0\r\n", True),
        ("an end before the length is reached", _LONG, b"", True),
    )
]

_NO_CONTENT = b"HTTP/1.1 204 No Content\r\n"
_NOT_MODIFIED = b"HTTP/1.1 304 Not Modified\r\n"
WHOLE = [
    Answer("an answer behind the body", with_fields(b"Content-Length: 5") + EVIL, 200, b"hello"),
    Answer("an answer behind the last chunk", _CHUNKED + b"0\r\n\r\n" + EVIL, 200, b"hello"),
    Answer("a body longer than its length", with_fields(b"Content-Length: 4"), 200, b"hell"),
    Answer("junk behind the body", with_fields(b"Content-Length: 5") + b"\r\n", 200, b"hello"),
    Answer("204 with a body", _NO_CONTENT + b"\r\n" + EVIL, 204),
    Answer("204 with a length", _NO_CONTENT + b"Content-Length: 5\r\n\r\n", 204),
    Answer("204 with a length, then a body", _NO_CONTENT + b"Content-Length: 5\r\n\r\nhello", 204),
    Answer("204 with chunks", _NO_CONTENT + _TE + b"\r\n\r\n" + _HELLO, 204),
    Answer("304 with a body", _NOT_MODIFIED + b"Content-Length: 5\r\n\r\nhello", 304),
    Answer("304 with a length and no body", _NOT_MODIFIED + b"Content-Length: 5\r\n\r\n", 304),
    Answer(
        "an answer to HEAD with a body",
        with_fields(b"Content-Length: 5"),
        200,
        method="HEAD",
    ),
    Answer("an answer to HEAD with chunks", with_fields(_TE, body=b""), 200, method="HEAD"),
    Answer(
        "a 100 with a length",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n" + with_fields(b"Content-Length: 5"),
        200,
        b"hello",
    ),
    Answer(
        "a 103 with chunks",
        b"HTTP/1.1 103 Hints\r\n" + _TE + b"\r\n\r\n" + with_fields(b"Content-Length: 5"),
        200,
        b"hello",
    ),
    Answer("an answer to the end", with_fields(), 200, b"hello", closes=True),
    Answer("an answer of HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\nhello", 200, b"hello", closes=True),
    Answer(
        "an encoded line end in a value",
        with_fields(b"X: a%0d%0aSet-Cookie: bad=1", b"Content-Length: 5"),
        200,
        b"hello",
    ),
    Answer("an unknown status", b"HTTP/1.1 799\r\nContent-Length: 5\r\n\r\nhello", 799, b"hello"),
]
