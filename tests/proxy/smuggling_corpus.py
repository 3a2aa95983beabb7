"""Which tricks does request smuggling know? Raw payloads, each named after its trick.

Each says what must become of it: the requests that arrive at the backend, and the status with
which the connection is refused and closed, if it is. `TRICKS` holds them all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.proxy.readings import Read
from tests.proxy.running import FREE, GUARDED

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
GET = b"GET /free HTTP/1.1\r\nHost: a\r\n\r\n"
ARRIVED_GET = Read(b"GET", FREE)
HELLO = b"5\r\nhello\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Trick:
    """One payload and what must become of it."""

    name: str
    raw: bytes
    arrives: tuple[Read, ...] = ()
    refused: int | None = None
    """The status of the connection's last answer, after which it is closed."""
    closes: bool = False
    """Whether the connection is closed without a refusal: the client asked for it."""
    unusual: bool = False
    """Strict backends refuse what arrives; it has one meaning all the same."""


def post(*fields: bytes, body: bytes = b"", line: bytes = b"POST /free HTTP/1.1") -> bytes:
    """A POST with these field lines after its Host."""
    return b"\r\n".join([line, b"Host: a", *fields, b"", b""]) + body


def chunked(body: bytes) -> bytes:
    """A POST with a body that claims to be in chunks."""
    return post(b"Transfer-Encoding: chunked", body=body)


def line(request_line: bytes) -> bytes:
    """A request with this line."""
    return request_line + b"\r\nHost: a\r\n\r\n"


def field(field_line: bytes) -> bytes:
    """A GET with this field line between two others."""
    return b"GET /free HTTP/1.1\r\nHost: a\r\n" + field_line + b"\r\nX-Last: 1\r\n\r\n"


def hosts(*fields: bytes, request_line: bytes = b"GET /free HTTP/1.1") -> bytes:
    """A request with these Host fields only."""
    return b"\r\n".join([request_line, *fields, b"", b""])


def refused(raws: dict[str, bytes], status: int = 400) -> list[Trick]:
    """Payloads of which nothing may reach the backend."""
    return [Trick(name, raw, refused=status) for name, raw in raws.items()]


def passed(raws: dict[str, tuple[bytes, Read]]) -> list[Trick]:
    """Payloads that look odd and have one meaning."""
    return [Trick(name, raw, (read,)) for name, (raw, read) in raws.items()]


_TE = b"Transfer-Encoding: chunked"

BOTH_LENGTHS = refused(
    {
        "CL.TE: length covers the smuggled request, chunks end before it": post(
            b"Content-Length: %d" % (5 + len(SMUGGLED)), _TE, body=b"0\r\n\r\n" + SMUGGLED
        ),
        "TE.CL: chunks cover the smuggled request, length ends before it": post(
            b"Content-Length: 4",
            _TE,
            body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
        ),
        "both lengths, Transfer-Encoding first": post(_TE, b"Content-Length: 15", body=HELLO),
        "both lengths, Content-Length: 0": post(b"Content-Length: 0", _TE, body=HELLO),
        "both lengths that agree": post(b"Content-Length: 15", _TE, body=HELLO),
        "both lengths in capitals": post(
            b"CONTENT-LENGTH: 15", b"TRANSFER-ENCODING: CHUNKED", body=HELLO
        ),
        "both lengths in small letters": post(
            b"content-length: 15", b"transfer-encoding: chunked", body=HELLO
        ),
        "both lengths, identity": post(
            b"Content-Length: 5", b"Transfer-Encoding: identity", body=b"hello"
        ),
        "both lengths, unknown coding": post(
            b"Content-Length: 5", b"Transfer-Encoding: x", body=b"hello"
        ),
        "both lengths, empty Transfer-Encoding": post(
            b"Content-Length: 5", b"Transfer-Encoding:", body=b"hello"
        ),
        "both lengths, Transfer-Encoding hidden by a tab": post(
            b"Content-Length: 15", b"Transfer-Encoding:\tchunked", body=HELLO
        ),
        "both lengths, Transfer-Encoding behind an underscore": post(
            b"Content-Length: 15", b"Transfer_Encoding: chunked", body=HELLO
        ),
        "both lengths, Content-Length behind an underscore": post(
            b"Content_Length: 15", _TE, body=HELLO
        ),
        "both lengths, and Connection names one of them": post(
            b"Content-Length: 15", _TE, b"Connection: content-length", body=HELLO
        ),
        "both lengths, and Connection names the other": post(
            b"Content-Length: 15", _TE, b"Connection: transfer-encoding", body=HELLO
        ),
        "both lengths far apart": post(
            b"Content-Length: 15", *(b"X-%d: 1" % n for n in range(50)), _TE, body=HELLO
        ),
        "both lengths in HTTP/1.0": post(
            b"Content-Length: 15", _TE, body=HELLO, line=b"POST /free HTTP/1.0"
        ),
        "both lengths in a GET": post(
            b"Content-Length: 15", _TE, body=HELLO, line=b"GET /free HTTP/1.1"
        ),
    }
)

_BAD_CODINGS = {
    "a coding that ends in chunked": b"xchunked",
    "a coding that begins with chunked": b"chunkedx",
    "chunked with a dash": b"chunked-x",
    "chunked, identity": b"chunked, identity",
    "identity, chunked": b"identity, chunked",
    "identity": b"identity",
    "chunked twice in a list": b"chunked, chunked",
    "gzip, chunked": b"gzip, chunked",
    "chunked, gzip": b"chunked, gzip",
    "chunked with a parameter": b"chunked;q=1",
    "chunked with an empty parameter": b"chunked;",
    "chunked in quotes": b'"chunked"',
    "chunked in apostrophes": b"'chunked'",
    "chunked and a vertical tab": b"chunked\x0b",
    "a vertical tab and chunked": b"\x0bchunked",
    "chunked and a form feed": b"chunked\x0c",
    "chunked and NUL": b"chunked\x00",
    "NUL and chunked": b"\x00chunked",
    "chunked and DEL": b"chunked\x7f",
    "chunked and backspace": b"chunkedx\x08",
    "chunked in two words": b"chun ked",
    "half of chunked": b"chunk",
    "no coding": b"",
    "a lone comma": b",",
    "chunked and a comma": b"chunked,",
    "a comma and chunked": b", chunked",
    "chunked and a no-break space": b"chunked\xa0",
    "a no-break space and chunked": b"\xa0chunked",
    "chunked and obs-text": b"chunked\xff",
    "chunked with a Kelvin sign": "chun\u212aed".encode(),
    "chunked and junk": b"chunked junk",
    "chunked with brackets": b"[chunked]",
    "percent-encoded chunked": b"%63hunked",
    "chunked and a bare LF": b"chunked\n",
    "a bare LF and chunked": b"\nchunked",
    "chunked and a bare CR": b"chunked\r",
    "a bare CR and chunked": b"\rchunked",
    "chunked in a folded line": b"\r\n chunked",
    "chunked in a line folded by a tab": b"\r\n\tchunked",
    "chunked with a folded comma": b"chunked\r\n , identity",
}
_TE_LINES = {
    "a space before the colon": b"Transfer-Encoding : chunked",
    "a tab before the colon": b"Transfer-Encoding\t: chunked",
    "a vertical tab before the colon": b"Transfer-Encoding\x0b: chunked",
    "NUL before the colon": b"Transfer-Encoding\x00: chunked",
    "a space before the name": b" Transfer-Encoding: chunked",
    "a vertical tab before the name": b"\x0bTransfer-Encoding: chunked",
    "an underscore": b"Transfer_Encoding: chunked",
    "a space in the name": b"Transfer Encoding: chunked",
    "a line break in the name": b"Transfer-\r\nEncoding: chunked",
    "a semicolon for the colon": b"Transfer-Encoding; chunked",
    "an equals sign for the colon": b"Transfer-Encoding=chunked",
    "a colon before the name": b":Transfer-Encoding: chunked",
    "a dash that is none": "Transfer\u2010Encoding: chunked".encode(),
    "the field after a bare LF": b"X: y\nTransfer-Encoding: chunked",
    "the field after a bare CR": b"X: y\rTransfer-Encoding: chunked",
    "the field after CR CR LF": b"X: y\r\r\nTransfer-Encoding: chunked",
    "the field after LF CR": b"X: y\n\rTransfer-Encoding: chunked",
    "the field after NUL": b"X: y\x00Transfer-Encoding: chunked",
    "the field in an obs-fold": b"X: y\r\n Transfer-Encoding: chunked",
    "twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "twice, in two spellings": b"Transfer-Encoding: chunked\r\ntransfer-encoding: chunked",
    "twice, identity last": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "twice, identity first": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "twice, junk last": b"Transfer-Encoding: chunked\r\nTransfer-encoding: cow",
    "twice, empty first": b"Transfer-Encoding:\r\nTransfer-Encoding: chunked",
}
_PLAIN_CHUNKS = Read(b"POST", FREE, b"hello")
TRANSFER_CODINGS = [
    *refused(
        {
            f"Transfer-Encoding: {name}": post(b"Transfer-Encoding: " + value, body=HELLO)
            for name, value in _BAD_CODINGS.items()
        }
    ),
    *refused(
        {
            f"Transfer-Encoding: {name}": post(one_line, body=HELLO)
            for name, one_line in _TE_LINES.items()
        }
    ),
    *refused({"Transfer-Encoding in HTTP/1.0": post(_TE, body=HELLO, line=b"POST /free HTTP/1.0")}),
    *passed(
        {
            f"Transfer-Encoding: {name}": (post(one_line, body=HELLO), _PLAIN_CHUNKS)
            for name, one_line in {
                "no space": b"Transfer-Encoding:chunked",
                "a tab for the space": b"Transfer-Encoding:\tchunked",
                "spaces around": b"Transfer-Encoding:  chunked  ",
                "a tab behind": b"Transfer-Encoding: chunked\t",
                "capitals": b"TRANSFER-ENCODING: CHUNKED",
                "mixed letters": b"tRANSFER-eNCODING: cHuNkEd",
            }.items()
        }
    ),
]

_BAD_LENGTHS = {
    "a list of equals": b"5, 5",
    "a list of different ones": b"5, 6",
    "a list with a hole": b"5,,5",
    "a plus sign": b"+5",
    "a minus sign": b"-5",
    "minus zero": b"-0",
    "hexadecimal": b"0x5",
    "hexadecimal without prefix": b"a",
    "a fraction": b"5.0",
    "an exponent": b"5e0",
    "two numbers": b"5 5",
    "a number and a word": b"5 bytes",
    "an underscore in it": b"1_0",
    "a thousands separator": b"1,000",
    "a semicolon": b"5;",
    "quotes": b'"5"',
    "a vertical tab behind": b"5\x0b",
    "a vertical tab before": b"\x0b5",
    "a form feed behind": b"5\x0c",
    "NUL behind": b"5\x00",
    "NUL before": b"\x005",
    "a no-break space": b"\xa05",
    "nothing": b"",
    "only white space": b" \t ",
    "20 digits": b"00000000000000000005",
    "2 to the 64th, plus 5": b"18446744073709551621",
    "2 to the 32nd to the 3rd": b"79228162514264337593543950336",
    "a thousand digits": b"0" * 999 + b"5",
    "Arabic digits": "\u0665".encode(),
    "full-width digits": "\uff15".encode(),
    "infinity": b"Infinity",
    "a folded line": b"\r\n 5",
    "a folded second digit": b"5\r\n 0",
    "a bare LF behind": b"5\n",
    "a bare CR behind": b"5\r",
    "a field behind a bare CR": b"5\rContent-Length: 0",
    "a field behind a bare LF": b"5\nContent-Length: 0",
}
_LENGTH_LINES = {
    "twice, equal": b"Content-Length: 5\r\nContent-Length: 5",
    "twice, different": b"Content-Length: 5\r\nContent-Length: 50",
    "twice, zero first": b"Content-Length: 0\r\nContent-Length: 5",
    "twice, in two spellings": b"Content-Length: 5\r\ncontent-length: 0",
    "twice, empty last": b"Content-Length: 5\r\nContent-Length:",
    "a space before the colon": b"Content-Length : 5",
    "a tab before the colon": b"Content-Length\t: 5",
    "NUL before the colon": b"Content-Length\x00: 5",
    "a space before the name": b" Content-Length: 5",
    "an underscore": b"Content_Length: 5",
    "an underscore in capitals": b"CONTENT_LENGTH: 5",
    "a space in the name": b"Content Length: 5",
    "a line break before the colon": b"Content-Length\r\n: 5",
}
CONTENT_LENGTHS = [
    *refused(
        {
            f"Content-Length: {name}": post(b"Content-Length: " + value, body=b"hello")
            for name, value in _BAD_LENGTHS.items()
        }
    ),
    *refused(
        {
            f"Content-Length: {name}": post(one_line, body=b"hello")
            for name, one_line in _LENGTH_LINES.items()
        }
    ),
    *passed(
        {
            f"Content-Length: {name}": (
                post(one_line, body=b"hello"),
                Read(b"POST", FREE, b"hello"),
            )
            for name, one_line in {
                "no space": b"Content-Length:5",
                "tabs around": b"Content-Length:\t5\t",
                "spaces around": b"Content-Length:   5  ",
                "leading zeros": b"Content-Length: 0005",
                "capitals": b"CONTENT-LENGTH: 5",
            }.items()
        }
    ),
    *passed(
        {
            "CL.0: a GET whose body is a request": (
                post(
                    b"Content-Length: %d" % len(SMUGGLED),
                    body=SMUGGLED,
                    line=b"GET /free HTTP/1.1",
                ),
                Read(b"GET", FREE, SMUGGLED),
            ),
            "CL.0: a POST whose body is a request": (
                post(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
                Read(b"POST", FREE, SMUGGLED),
            ),
            "TE.0: a chunk that is a request": (
                chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
                Read(b"POST", FREE, SMUGGLED),
            ),
            "TE.0: an OPTIONS whose chunk is a request": (
                post(
                    _TE,
                    body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
                    line=b"OPTIONS /free HTTP/1.1",
                ),
                Read(b"OPTIONS", FREE, SMUGGLED),
            ),
        }
    ),
    Trick(
        "a body shorter than what follows it: the rest is the client's next request",
        post(b"Content-Length: 5", body=b"hello" + SMUGGLED),
        (Read(b"POST", FREE, b"hello"), Read(b"GET", b"/smuggled")),
    ),
    Trick(
        "a body with no length at all: it is no body",
        post(body=b"hello\r\n\r\n"),
        (Read(b"POST", FREE),),
        refused=400,
    ),
    Trick(
        "a length in a field of another name is no length",
        post(b"X-Content-Length: 9", body=b"hello\r\n\r\n"),
        (Read(b"POST", FREE),),
        refused=400,
    ),
    Trick(
        "a body longer than what came: it waits, and nothing of it is a request",
        post(b"Content-Length: 500", body=SMUGGLED),
    ),
]

_BAD_CHUNKS = {
    "hexadecimal prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a plus sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a minus sign": b"-5\r\nhello\r\n0\r\n\r\n",
    "a space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "a space behind": b"5 \r\nhello\r\n0\r\n\r\n",
    "a tab behind": b"5\t\r\nhello\r\n0\r\n\r\n",
    "a space before the extension": b"5 ;x\r\nhello\r\n0\r\n\r\n",
    "a vertical tab behind": b"5\x0b\r\nhello\r\n0\r\n\r\n",
    "NUL behind": b"5\x00\r\nhello\r\n0\r\n\r\n",
    "no number": b"g\r\nhello\r\n0\r\n\r\n",
    "nothing": b"\r\nhello\r\n0\r\n\r\n",
    "only an extension": b";x\r\nhello\r\n0\r\n\r\n",
    "an underscore in it": b"0_5\r\nhello\r\n0\r\n\r\n",
    "a comma behind": b"5,\r\nhello\r\n0\r\n\r\n",
    "an equals sign behind": b"5=x\r\nhello\r\n0\r\n\r\n",
    "Arabic digits": "\u0665\r\nhello\r\n0\r\n\r\n".encode(),
    "16 digits": b"0000000000000005\r\nhello\r\n0\r\n\r\n",
    "2 to the 64th, plus 5": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "2 to the 32nd, plus 5, times 2 to the 32nd": b"100000005000000000\r\nhello\r\n0\r\n\r\n",
    "all ones": b"FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
    "a line that ends in LF": b"5\nhello\r\n0\r\n\r\n",
    "a line that ends in CR": b"5\rhello\r\n0\r\n\r\n",
    "a line that ends in LF CR": b"5\n\rhello\r\n0\r\n\r\n",
    "a line that ends in CR CR LF": b"5\r\r\nhello\r\n0\r\n\r\n",
    "an empty line before": b"\r\n5\r\nhello\r\n0\r\n\r\n",
    "no line end behind the data": b"5\r\nhello0\r\n\r\n" + SMUGGLED,
    "LF behind the data": b"5\r\nhello\n0\r\n\r\n" + SMUGGLED,
    "CR behind the data": b"5\r\nhello\r0\r\n\r\n" + SMUGGLED,
    "LF CR behind the data": b"5\r\nhello\n\r0\r\n\r\n" + SMUGGLED,
    "two bytes of junk behind the data": b"5\r\nhelloXX0\r\n\r\n" + SMUGGLED,
    "less data than the size": b"6\r\nhello\r\n0\r\n\r\n" + SMUGGLED,
    "more data than the size": b"4\r\nhello\r\n0\r\n\r\n" + SMUGGLED,
    "an extension with LF": b"5;x\nhello\r\n0\r\n\r\n",
    "an extension with CR": b"5;x\ry\r\nhello\r\n0\r\n\r\n",
    "an extension with NUL": b"5;x\x00\r\nhello\r\n0\r\n\r\n",
    "an extension with ESC": b"5;\x1b[1m\r\nhello\r\n0\r\n\r\n",
    "an extension without end": b"5;" + b"x" * 2000 + b"\r\nhello\r\n0\r\n\r\n",
    "an empty extension": b"5;\r\nhello\r\n0\r\n\r\n",
    "an extension without name": b"5;=x\r\nhello\r\n0\r\n\r\n",
    "an extension after a space": b"5; x\r\nhello\r\n0\r\n\r\n",
    "a quoted extension that goes on": b'5;a="\r\nhello\r\n0\r\n\r\n',
    "a quoted extension that hides the line's end": b'5;a="\\\r\n"\r\nhello\r\n0\r\n\r\n',
    "TERM.EXT: an empty extension and LF": b"5;\nxx\r\nhello\r\n0\r\n\r\n",
    "EXT.TERM: the last chunk's extension with LF": b"0;\n\r\n" + SMUGGLED,
    "a last chunk that ends in LF": b"0\n\r\n" + SMUGGLED,
    "a last chunk and LF": b"0\r\n\n" + SMUGGLED,
    "a last chunk in LF alone": b"0\n\n" + SMUGGLED,
    "a last chunk and CR CR LF": b"0\r\n\r\r\n" + SMUGGLED,
    "a negative last chunk": b"-0\r\n\r\n",
    "a last chunk in hexadecimal": b"0x0\r\n\r\n",
    "a last chunk of 16 zeros": b"0000000000000000\r\n\r\n",
    "a last chunk with a space": b"0 \r\n\r\n",
    "a request where the size should stand": SMUGGLED,
}
_BAD_TRAILERS = {
    "Content-Length": b"Content-Length: 5",
    "Transfer-Encoding": b"Transfer-Encoding: chunked",
    "an underscore in Content-Length": b"Content_Length: 5",
    "Host": b"Host: evil",
    "Authorization": b"Authorization: Bearer x",
    "Cookie": b"Cookie: a=b",
    "Connection": b"Connection: close",
    "X-Forwarded-For": b"X-Forwarded-For: 127.0.0.1",
    "X-Request-Id": b"X-Request-Id: x",
    "Content-Encoding": b"Content-Encoding: gzip",
    "no colon": b"GET /smuggled HTTP/1.1",
    "a space before the colon": b"X-Sum : 1",
    "a fold": b"X-Sum: 1\r\n folded",
    "a bare CR": b"X-Sum: 1\rX: y",
    "a bare LF": b"X-Sum: 1\nX: y",
    "NUL": b"X-Sum: \x00",
    "an empty name": b": 1",
    "9 KiB": b"X-Sum: " + b"x" * 9000,
    "9 KiB in many lines": b"\r\n".join(b"X-%d: %s" % (n, b"x" * 90) for n in range(100)),
}
CHUNKS = [
    *refused({f"chunk size: {name}": chunked(body) for name, body in _BAD_CHUNKS.items()}),
    *refused(
        {
            f"chunk size of the second chunk: {name}": chunked(b"3\r\nabc\r\n" + body)
            for name, body in {
                "hexadecimal prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
                "a line that ends in LF": b"5\nhello\r\n0\r\n\r\n",
                "junk behind the data": b"5\r\nhelloXX0\r\n\r\n" + SMUGGLED,
            }.items()
        }
    ),
    *refused(
        {
            f"trailers: {name}": chunked(b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n\r\n")
            for name, trailer in _BAD_TRAILERS.items()
        }
    ),
    *passed(
        {
            f"chunks: {name}": (chunked(body), _PLAIN_CHUNKS)
            for name, body in {
                "leading zeros": b"00005\r\nhello\r\n0\r\n\r\n",
                "a last chunk of many zeros": b"5\r\nhello\r\n000000\r\n\r\n",
                "an extension": b'5;a=b;c="d \\" ;";e\r\nhello\r\n0;e\r\n\r\n',
                "a harmless trailer": b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
                "one byte each": b"".join(b"1\r\n%c\r\n" % byte for byte in b"hello")
                + b"0\r\n\r\n",
            }.items()
        }
    ),
    Trick(
        "chunks: the last chunk has not come, so nothing behind it is a request",
        chunked(b"500\r\n" + SMUGGLED),
    ),
    Trick(
        "chunks: two bodies in a row are two requests",
        chunked(HELLO) + chunked(HELLO),
        (_PLAIN_CHUNKS, _PLAIN_CHUNKS),
    ),
]

LINE_ENDS = refused(
    {
        "bare LF everywhere": b"GET /free HTTP/1.1\nHost: a\n\n",
        "bare LF after the request line": b"GET /free HTTP/1.1\nHost: a\r\n\r\n",
        "bare LF after a field": b"GET /free HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "bare LF for the empty line": b"GET /free HTTP/1.1\r\nHost: a\r\n\n" + SMUGGLED,
        "bare LF before the empty line": b"GET /free HTTP/1.1\r\nHost: a\n\r\n" + SMUGGLED,
        "bare LF in a field's value": field(b"X: a\nb"),
        "bare LF at the start of a value": field(b"X:\nb"),
        "bare LF in a field's name": field(b"X\ny: 1"),
        "bare LF in the target": line(b"GET /fr\nee HTTP/1.1"),
        "bare LF in the method": line(b"G\nET /free HTTP/1.1"),
        "bare LF before the request": b"\n" + GET,
        "bare CR after the request line": b"GET /free HTTP/1.1\rHost: a\r\n\r\n",
        "bare CR everywhere": b"GET /free HTTP/1.1\rHost: a\r\r\r\n\r\n",
        "bare CR in a field's value": field(b"X: a\rb"),
        "bare CR at the end of a value": field(b"X: a\r"),
        "bare CR at the start of a value": field(b"X:\rb"),
        "bare CR at the start of a name": field(b"\rX: b"),
        "bare CR in a field's name": field(b"X\ry: 1"),
        "bare CR in the target": line(b"GET /fr\ree HTTP/1.1"),
        "bare CR in the method": line(b"G\rET /free HTTP/1.1"),
        "bare CR before the version": line(b"GET /free\rHTTP/1.1"),
        "bare CR before the request": b"\r" + GET,
        "CR CR LF after the request line": b"GET /free HTTP/1.1\r\r\nHost: a\r\n\r\n",
        "CR CR LF for the empty line": b"GET /free HTTP/1.1\r\nHost: a\r\n\r\r\n" + SMUGGLED,
        "LF CR for line ends": b"GET /free HTTP/1.1\n\rHost: a\n\r\n\r",
        "a value that hides a request behind bare CRs": field(
            b"X: \r\rGET /smuggled HTTP/1.1\rHost: a\r\r"
        ),
    }
)

FIELDS = [
    *refused(
        {
            "obs-fold in a field": field(b"X: a\r\n b"),
            "obs-fold by a tab": field(b"X: a\r\n\tb"),
            "obs-fold of an empty value": field(b"X:\r\n b"),
            "obs-fold before all fields": b"GET /free HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n",
            "obs-fold of the request line": b"GET /free\r\n HTTP/1.1\r\nHost: a\r\n\r\n",
            "obs-fold of Host": b"GET /free HTTP/1.1\r\nHost:\r\n a\r\n\r\n",
            "a line of white space": field(b" "),
            "a field without colon": field(b"X"),
            "a field without name": field(b": x"),
            "a space before the colon": field(b"X : y"),
            "a tab before the colon": field(b"X\t: y"),
            "a space in the name": field(b"X y: z"),
            "parentheses in the name": field(b"X(y): z"),
            "a slash in the name": field(b"X/y: z"),
            "quotes in the name": field(b'"X": z'),
            "an at sign in the name": field(b"X@y: z"),
            "obs-text in the name": field("\u00dcber: z".encode()),
            "NUL in the name": field(b"X\x00: z"),
            "DEL in the name": field(b"X\x7f: z"),
            "NUL in the value": field(b"X: y\x00z"),
            "DEL in the value": field(b"X: y\x7f"),
            "a vertical tab in the value": field(b"X: y\x0bz"),
            "ESC in the value": field(b"X: \x1b[31m"),
            "backspace in the value": field(b"X: a\x08"),
            "a pseudo-field of HTTP/2": field(b":path: /smuggled"),
        }
    ),
    *passed(
        {
            "an underscore in a harmless name": (field(b"X_y: z"), ARRIVED_GET),
            "an empty value": (field(b"X:"), ARRIVED_GET),
            "a value of colons": (field(b"X:::"), ARRIVED_GET),
            "a value that looks like a field": (field(b"X: Content-Length: 5"), ARRIVED_GET),
            "a value of white space": (field(b"X: \t \t"), ARRIVED_GET),
            "a value of encoded line ends": (field(b"X: %0d%0aHost: evil"), ARRIVED_GET),
            "all token characters in a name": (field(b"!#$%&'*+-.^_`|~09aZ: z"), ARRIVED_GET),
            "200 fields": (field(b"\r\n".join([b"X: y"] * 200)), ARRIVED_GET),
        }
    ),
    Trick("obs-text in a value", field(b"X: \xff\x80"), (ARRIVED_GET,)),
    *refused(
        {
            "a head of 40 KiB": field(b"X: " + b"y" * 40_000),
            "a head of 40 KiB without end": GET.removesuffix(b"\r\n") + b"X: " + b"y" * 40_000,
            "1,000 fields": field(b"\r\n".join([b"X: y"] * 1000)),
            "10,000 fields": field(b"\r\n".join([b"X: y"] * 10_000)),
        },
        431,
    ),
    *refused(
        {
            "a target of 40 KiB": line(b"GET /" + b"y" * 40_000 + b" HTTP/1.1"),
            "a target of 40 KiB without end": b"GET /" + b"y" * 40_000,
            "a method of 40 KiB": line(b"G" * 40_000 + b" /free HTTP/1.1"),
        },
        414,
    ),
]

REQUEST_LINES = [
    *refused(
        {
            "HTTP/0.9": b"GET /free\r\n\r\n",
            "HTTP/0.9 with fields": b"GET /free\r\nHost: a\r\n\r\n",
            "no method": line(b"/free HTTP/1.1"),
            "no target": line(b"GET HTTP/1.1"),
            "an empty target": line(b"GET  HTTP/1.1"),
            "two spaces before the target": line(b"GET  /free HTTP/1.1"),
            "two spaces before the version": line(b"GET /free  HTTP/1.1"),
            "a space before the method": line(b" GET /free HTTP/1.1"),
            "a space behind the version": line(b"GET /free HTTP/1.1 "),
            "a tab before the target": line(b"GET\t/free HTTP/1.1"),
            "a tab before the version": line(b"GET /free\tHTTP/1.1"),
            "a vertical tab for a space": line(b"GET\x0b/free HTTP/1.1"),
            "a form feed for a space": line(b"GET /free\x0cHTTP/1.1"),
            "a no-break space for a space": line(b"GET\xa0/free HTTP/1.1"),
            "NUL in the method": line(b"GET\x00 /free HTTP/1.1"),
            "parentheses in the method": line(b"GET() /free HTTP/1.1"),
            "a comma in the method": line(b"GET,POST /free HTTP/1.1"),
            "obs-text in the method": line(b"G\xc8T /free HTTP/1.1"),
            "a second request line": line(b"GET /smuggled HTTP/1.1\r\nGET /free HTTP/1.1"),
            "two targets": line(b"GET /free /smuggled HTTP/1.1"),
            "two versions": line(b"GET /smuggled HTTP/1.1 HTTP/1.1"),
            "a version in small letters": line(b"GET /free http/1.1"),
            "a version without name": line(b"GET /free 1.1"),
            "a version without number": line(b"GET /free HTTP"),
            "a version without dot": line(b"GET /free HTTP/11"),
            "a version with a comma": line(b"GET /free HTTP/1,1"),
            "a version with zeros": line(b"GET /free HTTP/01.1"),
            "a version with two digits": line(b"GET /free HTTP/1.10"),
            "a version with junk": line(b"GET /free HTTP/1.1x"),
            "a version with a space": line(b"GET /free HTTP/ 1.1"),
            "another protocol": line(b"GET /free HTTPS/1.1"),
            "a target without slash": line(b"GET free HTTP/1.1"),
            "a target of a query alone": line(b"GET ?x HTTP/1.1"),
            "a fragment": line(b"GET /free#/v1/chat/completions HTTP/1.1"),
            "a fragment in the query": line(b"GET /free?a#b HTTP/1.1"),
            "an asterisk for a GET": line(b"GET * HTTP/1.1"),
            "an asterisk and more": line(b"OPTIONS */free HTTP/1.1"),
            "a backslash first": line(b"GET \\free HTTP/1.1"),
            "NUL in the target": line(b"GET /free\x00 HTTP/1.1"),
            "DEL in the target": line(b"GET /free\x7f HTTP/1.1"),
            "authority-form for a GET": line(b"GET a:80 HTTP/1.1"),
            "absolute-form without authority": line(b"GET http:///free HTTP/1.1"),
            "absolute-form without host": line(b"GET http://:80/free HTTP/1.1"),
            "absolute-form with a user": line(b"GET http://user@a/free HTTP/1.1"),
            "absolute-form with a backslash": line(b"GET http://a\\@b/free HTTP/1.1"),
            "absolute-form with one slash": line(b"GET http:/free HTTP/1.1"),
            "absolute-form without scheme": line(b"GET ://a/free HTTP/1.1"),
            "absolute-form of another scheme": line(b"GET ftp://a/free HTTP/1.1"),
            "absolute-form of a file": line(b"GET file:///etc/passwd HTTP/1.1"),
            "absolute-form with a fragment": line(b"GET http://a#b HTTP/1.1"),
            "absolute-form with a bad port": line(b"GET http://a:b/free HTTP/1.1"),
        }
    ),
    *refused(
        {
            "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "HTTP/2.0": line(b"GET /free HTTP/2.0"),
            "HTTP/2": line(b"GET /free HTTP/2"),
            "HTTP/3.0": line(b"GET /free HTTP/3.0"),
            "HTTP/0.9 by its number": line(b"GET /free HTTP/0.9"),
            "HTTP/1.2": line(b"GET /free HTTP/1.2"),
        },
        505,
    ),
    *refused(
        {
            "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n" + SMUGGLED,
            "CONNECT with a path": line(b"CONNECT /free HTTP/1.1"),
            "CONNECT with absolute-form": line(b"CONNECT http://a/free HTTP/1.1"),
            "TRACE with Max-Forwards: 0": post(b"Max-Forwards: 0", line=b"TRACE /free HTTP/1.1"),
            "OPTIONS with Max-Forwards: 0": post(b"Max-Forwards: 0", line=b"OPTIONS * HTTP/1.1"),
        },
        501,
    ),
    *passed(
        {
            "OPTIONS *": (line(b"OPTIONS * HTTP/1.1"), Read(b"OPTIONS", b"*")),
            "double slashes": (line(b"GET //free//x HTTP/1.1"), Read(b"GET", b"//free//x")),
            "dot segments": (line(b"GET /a/../free/./x HTTP/1.1"), Read(b"GET", b"/a/../free/./x")),
            "percent-encoding": (
                line(b"GET /%66ree%2f%00%0d%0a%zz?%20 HTTP/1.1"),
                Read(b"GET", b"/%66ree%2f%00%0d%0a%zz?%20"),
            ),
            "an empty query": (line(b"GET /free? HTTP/1.1"), Read(b"GET", b"/free?")),
            "a query of question marks": (line(b"GET /?a?b?c HTTP/1.1"), Read(b"GET", b"/?a?b?c")),
            "a backslash": (line(b"GET /a\\b HTTP/1.1"), Read(b"GET", b"/a\\b")),
            "a scheme within the path": (
                line(b"GET /http://b/free HTTP/1.1"),
                Read(b"GET", b"/http://b/free"),
            ),
            "absolute-form": (line(b"GET http://a/free HTTP/1.1"), ARRIVED_GET),
            "absolute-form in capitals": (line(b"GET HTTP://A/free HTTP/1.1"), ARRIVED_GET),
            "absolute-form without path": (line(b"GET http://a HTTP/1.1"), Read(b"GET", b"/")),
            "absolute-form with a query alone": (
                line(b"GET http://a?x HTTP/1.1"),
                Read(b"GET", b"/?x"),
            ),
            "absolute-form with a slash in the query": (
                line(b"POST http://a?x/v1/chat/completions HTTP/1.1"),
                Read(b"POST", b"/?x/v1/chat/completions"),
            ),
            "absolute-form whose host is not Host's": (
                line(b"GET http://b/free HTTP/1.1"),
                ARRIVED_GET,
            ),
            "absolute-form of OPTIONS *": (
                line(b"OPTIONS http://a HTTP/1.1"),
                Read(b"OPTIONS", b"*"),
            ),
            "a method nobody knows well": (line(b"PURGE /free HTTP/1.1"), Read(b"PURGE", FREE)),
            "one empty line before": (b"\r\n" + GET, ARRIVED_GET),
            "three empty lines before": (b"\r\n\r\n\r\n" + GET, ARRIVED_GET),
        }
    ),
    Trick(
        "a method in small letters",
        line(b"get /free HTTP/1.1"),
        (Read(b"get", FREE),),
        unusual=True,
    ),
    Trick(
        "obs-text in the target",
        line("GET /caf\u00e9 HTTP/1.1".encode()),
        (Read(b"GET", "/caf\u00e9".encode()),),
        unusual=True,
    ),
]

_HTTP10 = b"GET /free HTTP/1.0"
HOSTS = [
    *refused(
        {
            "no Host": hosts(),
            "two Hosts": hosts(b"Host: a", b"Host: b"),
            "two equal Hosts": hosts(b"Host: a", b"Host: a"),
            "two Hosts in two spellings": hosts(b"Host: a", b"hOST: b"),
            "two Hosts in HTTP/1.0": hosts(b"Host: a", b"Host: b", request_line=_HTTP10),
            "two Hosts and absolute-form": hosts(
                b"Host: a", b"Host: b", request_line=b"GET http://c/free HTTP/1.1"
            ),
            "no Host but absolute-form": hosts(request_line=b"GET http://c/free HTTP/1.1"),
            "Host: a list": hosts(b"Host: a, b"),
            "Host: a space in it": hosts(b"Host: a b"),
            "Host: a tab in it": hosts(b"Host: a\tb"),
            "Host: a slash": hosts(b"Host: a/b"),
            "Host: a backslash": hosts(b"Host: a\\b"),
            "Host: a user": hosts(b"Host: user@a"),
            "Host: a query": hosts(b"Host: a?b"),
            "Host: a fragment": hosts(b"Host: a#b"),
            "Host: a scheme": hosts(b"Host: http://a"),
            "Host: two ports": hosts(b"Host: a:80:80"),
            "Host: a port of letters": hosts(b"Host: a:http"),
            "Host: half a bracket": hosts(b"Host: [::1"),
            "Host: a name in brackets": hosts(b"Host: [name]"),
            "Host: a quote": hosts(b'Host: a"b'),
            "Host: angle brackets": hosts(b"Host: <script>"),
            "Host: obs-text": hosts(b"Host: a\xff"),
            "Host: NUL": hosts(b"Host: a\x00b"),
            "Host: a space before the colon": hosts(b"Host : a"),
            "Host: a space before the name": hosts(b" Host: a"),
            "Host: a space before the second name": hosts(b"Host: a", b" Host: b"),
        }
    ),
    *passed(
        {
            f"Host: {name}": (hosts(host), ARRIVED_GET)
            for name, host in {
                "empty": b"Host:",
                "no space": b"Host:a",
                "a port": b"Host: a:8080",
                "an IPv6 address": b"Host: [::1]:80",
                "capitals": b"HOST: A.Example",
                "white space around": b"Host: \t a\t ",
            }.items()
        }
    ),
    Trick("no Host in HTTP/1.0", hosts(request_line=_HTTP10), (ARRIVED_GET,), closes=True),
]

_UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x")
_H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ")
UPGRADES = [
    *passed(
        {
            "h2c upgrade": (post(*_H2C, line=b"GET /free HTTP/1.1"), ARRIVED_GET),
            "h2c upgrade of a POST": (
                post(*_H2C, b"Content-Length: 5", body=b"hello"),
                Read(b"POST", FREE, b"hello"),
            ),
            "an upgrade to HTTP/2.0": (
                post(b"Connection: upgrade", b"Upgrade: HTTP/2.0", line=b"GET /free HTTP/1.1"),
                ARRIVED_GET,
            ),
            "an upgrade to h2c among others": (
                post(
                    b"Connection: upgrade", b"Upgrade: websocket, h2c", line=b"GET /free HTTP/1.1"
                ),
                ARRIVED_GET,
            ),
            "an upgrade with a body": (
                post(
                    *_UPGRADE,
                    b"Content-Length: %d" % len(SMUGGLED),
                    body=SMUGGLED,
                    line=b"GET /free HTTP/1.1",
                ),
                Read(b"GET", FREE, SMUGGLED),
            ),
            "an upgrade with a body in chunks": (
                post(*_UPGRADE, _TE, body=HELLO, line=b"GET /free HTTP/1.1"),
                Read(b"GET", FREE, b"hello"),
            ),
            "an upgrade of a POST": (
                post(*_UPGRADE, b"Content-Length: 5", body=b"hello"),
                Read(b"POST", FREE, b"hello"),
            ),
            "an Upgrade that Connection does not name": (
                post(b"Upgrade: websocket", line=b"GET /free HTTP/1.1"),
                ARRIVED_GET,
            ),
        }
    ),
    Trick(
        "an upgrade of a POST, and a request behind it",
        post(*_UPGRADE, b"Content-Length: 5", body=b"hello" + SMUGGLED),
        (Read(b"POST", FREE, b"hello"), Read(b"GET", b"/smuggled")),
    ),
    Trick(
        "h2c upgrade, and HTTP/2's preface behind it",
        post(*_H2C, line=b"GET /free HTTP/1.1", body=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (ARRIVED_GET,),
        refused=505,
    ),
    Trick(
        "an upgrade in HTTP/1.0",
        post(*_UPGRADE, line=_HTTP10) + SMUGGLED,
        (ARRIVED_GET,),
        closes=True,
    ),
]

_FIVE = b"Content-Length: 5"
_ARRIVED_FIVE = Read(b"POST", FREE, b"hello")
EXPECTATIONS = [
    *refused(
        {
            "Expect: something else": post(b"Expect: 200-ok", _FIVE, body=b"hello"),
            "Expect: 100-continue and something else": post(
                b"Expect: 100-continue, x", _FIVE, body=b"hello"
            ),
            "Expect: something else in a second field": post(
                b"Expect: 100-continue", b"Expect: x", _FIVE, body=b"hello"
            ),
            "Expect: nothing": post(b"Expect:", _FIVE, body=b"hello"),
            "Expect: 100-continue in quotes": post(b'Expect: "100-continue"', _FIVE, body=b"hello"),
            "Expect: 100 continue": post(b"Expect: 100 continue", _FIVE, body=b"hello"),
        },
        417,
    ),
    *refused(
        {"Expect: a space before the colon": post(b"Expect : 100-continue", _FIVE, body=b"hello")}
    ),
    *passed(
        {
            "Expect: 100-continue": (
                post(b"Expect: 100-continue", _FIVE, body=b"hello"),
                _ARRIVED_FIVE,
            ),
            "Expect: 100-continue in capitals": (
                post(b"EXPECT: 100-CONTINUE", _FIVE, body=b"hello"),
                _ARRIVED_FIVE,
            ),
            "Expect: 100-continue twice": (
                post(b"Expect: 100-continue", b"Expect: 100-continue", _FIVE, body=b"hello"),
                _ARRIVED_FIVE,
            ),
            "Expect: 100-continue and chunks": (
                post(b"Expect: 100-continue", _TE, body=HELLO),
                _ARRIVED_FIVE,
            ),
            "Expect: 100-continue without a body": (field(b"Expect: 100-continue"), ARRIVED_GET),
        }
    ),
    Trick(
        "Expect: 100-continue, and the body is the next request",
        field(b"Expect: 100-continue") + SMUGGLED,
        (ARRIVED_GET, Read(b"GET", b"/smuggled")),
    ),
    Trick(
        "Expect: 100-continue in HTTP/1.0",
        post(b"Expect: 100-continue", _FIVE, body=b"hello", line=b"POST /free HTTP/1.0"),
        (_ARRIVED_FIVE,),
        closes=True,
    ),
]

CONNECTIONS = [
    *passed(
        {
            f"Connection: {name}": (post(fields, _FIVE, body=b"hello"), _ARRIVED_FIVE)
            for name, fields in {
                "content-length": b"Connection: content-length",
                "Content-Length in capitals": b"Connection: CONTENT-LENGTH",
                "keep-alive and content-length": b"Connection: keep-alive, Content-Length",
                "host": b"Connection: host",
                "itself": b"Connection: connection",
                "empty members": b"Connection: , ,, keep-alive,",
                "two fields": b"Connection: keep-alive\r\nConnection: content-length",
                "an unknown name": b"Connection: x-nobody",
                "a pipelining hint": b"Proxy-Connection: close\r\nKeep-Alive: timeout=1",
            }.items()
        }
    ),
    *passed(
        {
            "Connection: transfer-encoding": (
                post(_TE, b"Connection: transfer-encoding", body=HELLO),
                _ARRIVED_FIVE,
            )
        }
    ),
    Trick(
        "Connection: close and content-length",
        post(b"Connection: close, content-length", _FIVE, body=b"hello" + SMUGGLED),
        (_ARRIVED_FIVE,),
        closes=True,
    ),
]

_HTTP10_GET = b"GET /free HTTP/1.0\r\nHost: a\r\n\r\n"
_HTTP10_KEPT = b"GET /free HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
_ARRIVED_SMUGGLED = Read(b"GET", b"/smuggled")
PIPELINES = [
    Trick("two requests are two", GET + SMUGGLED, (ARRIVED_GET, _ARRIVED_SMUGGLED)),
    Trick("five requests are five", GET * 5, (ARRIVED_GET,) * 5),
    Trick(
        "a body and a request",
        post(_FIVE, body=b"hello") + SMUGGLED,
        (_ARRIVED_FIVE, _ARRIVED_SMUGGLED),
    ),
    Trick("chunks and a request", chunked(HELLO) + SMUGGLED, (_ARRIVED_FIVE, _ARRIVED_SMUGGLED)),
    Trick(
        "a HEAD and a request",
        b"HEAD /free HTTP/1.1\r\nHost: a\r\n\r\n" + SMUGGLED,
        (Read(b"HEAD", FREE), _ARRIVED_SMUGGLED),
    ),
    Trick("an empty line between", GET + b"\r\n" + SMUGGLED, (ARRIVED_GET, _ARRIVED_SMUGGLED)),
    Trick("a bare LF between", GET + b"\n" + SMUGGLED, (ARRIVED_GET,), refused=400),
    Trick("a space between", GET + b" " + SMUGGLED, (ARRIVED_GET,), refused=400),
    Trick("NUL between", GET + b"\x00" + SMUGGLED, (ARRIVED_GET,), refused=400),
    Trick(
        "a good one, then a bad one, then a good one",
        GET + field(b"X : y") + SMUGGLED,
        (ARRIVED_GET,),
        refused=400,
    ),
    Trick("a bad one, then a good one", field(b"X : y") + SMUGGLED, refused=400),
    Trick("a bad body, then a good request", chunked(b"x\r\n") + SMUGGLED, refused=400),
    Trick(
        "a request behind Connection: close",
        field(b"Connection: close") + SMUGGLED,
        (ARRIVED_GET,),
        closes=True,
    ),
    Trick(
        "a request behind Connection: Close, among others",
        field(b"Connection: x, CLOSE") + SMUGGLED,
        (ARRIVED_GET,),
        closes=True,
    ),
    Trick("a request behind HTTP/1.0", _HTTP10_GET + SMUGGLED, (ARRIVED_GET,), closes=True),
    Trick(
        "a request behind HTTP/1.0 that keeps the connection",
        _HTTP10_KEPT + SMUGGLED,
        (ARRIVED_GET, _ARRIVED_SMUGGLED),
    ),
    Trick(
        "half a request behind a whole one",
        GET + b"GET /smuggled HTTP/1.1\r\nHost",
        (ARRIVED_GET,),
    ),
    Trick("half a request", b"POST /smuggled HTTP/1.1\r\nContent-Length: 0\r\n"),
    Trick("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", refused=400),
    Trick("a proxy protocol's line", b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n" + GET, refused=400),
    Trick("a response", b"HTTP/1.1 200 OK\r\nHost: a\r\n\r\n", refused=400),
]

TRICKS = [
    *BOTH_LENGTHS,
    *TRANSFER_CODINGS,
    *CONTENT_LENGTHS,
    *CHUNKS,
    *LINE_ENDS,
    *FIELDS,
    *REQUEST_LINES,
    *HOSTS,
    *UPGRADES,
    *EXPECTATIONS,
    *CONNECTIONS,
    *PIPELINES,
]


def on_guarded_route(trick: Trick) -> Trick:
    """The same trick, aimed at the route where bodies are gathered before the backend is asked."""
    return replace(
        trick,
        raw=trick.raw.replace(FREE, GUARDED),
        arrives=tuple(
            read._replace(target=read.target.replace(FREE, GUARDED)) for read in trick.arrives
        ),
    )


ON_GUARDED_ROUTE = [on_guarded_route(trick) for trick in TRICKS if b"POST /free" in trick.raw]
