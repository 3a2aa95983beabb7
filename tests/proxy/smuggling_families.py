"""Which families of tricks does the literature know? Every member of each, made by rule.

* chunk terminators: "Funky chunks" (w4ke.info, 2025), as scanners name them;
* hidden fields: the permutations of PortSwigger's HTTP Request Smuggler and of Amit Klein's "HTTP
  Request Smuggling in 2020", on either length, on Host and on Expect;
* lengths, chunk sizes, versions and trailers that some server took otherwise (CVEs beside them);
* other protocols on the wire.

`FAMILIES` holds them all; see `smuggling_corpus` for what each says.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.proxy.readings import Read
from tests.proxy.running import FREE, GUARDED
from tests.proxy.smuggling_corpus import (
    ARRIVED_GET,
    GET,
    HELLO,
    SMUGGLED,
    Trick,
    chunked,
    field,
    line,
    passed,
    post,
    refused,
)

_TE = b"Transfer-Encoding: chunked"
_LENGTH = b"Content-Length: 5"
_ALL_OF_HELLO = b"Content-Length: %d" % len(HELLO)
_ARRIVED_HELLO = Read(b"POST", FREE, b"hello")
_ARRIVED_EMPTY = Read(b"POST", FREE)

# -- chunks: what ends a line, and what ends the data ------------------------------------------

_LINE_ENDS = {"LF": b"\n", "CR": b"\r", "CR and a letter": b"\rX", "CR CR": b"\r\r"}
_DATA_ENDS = {**_LINE_ENDS, "nothing": b"", "two letters": b"XX"}
_ONE_BYTE = {"LF": b"\n", "CR": b"\r"}

# For one server the request is within a chunk, for the other it follows the last one.
_HIDDEN = b"0\r\n\r\n" + SMUGGLED


def _chunk(data: bytes, extension: bytes = b"", end: bytes = b"\r\n") -> bytes:
    return b"%x%b\r\n%b%b" % (len(data), extension, data, end)


FUNKY_CHUNKS = [
    *refused(
        {
            f"TERM.EXT: {name} ends the line, or is in the extension": chunked(
                b"2;" + end + b"xx\r\n" + _chunk(_HIDDEN) + b"0\r\n\r\n"
            )
            for name, end in _LINE_ENDS.items()
        }
    ),
    *refused(
        {
            f"EXT.TERM: {name} is in the extension, or ends the line": chunked(
                _chunk(b"%x" % len(_HIDDEN), b";" + end) + _HIDDEN + b"\r\n0\r\n\r\n"
            )
            for name, end in _LINE_ENDS.items()
        }
    ),
    *refused(
        {
            f"TERM.SPILL: {name} ends the data, or what follows spills over": chunked(
                _chunk(b"hello", end=end) + _chunk(_HIDDEN) + b"0\r\n\r\n"
            )
            for name, end in _DATA_ENDS.items()
        }
    ),
    *refused(
        {
            f"SPILL.TERM: data spill over, or {name} ends them": chunked(
                _chunk(b"hello", end=b"spilt" + end) + _HIDDEN
            )
            for name, end in _DATA_ENDS.items()
        }
    ),
    *refused(
        {
            f"ONE.TWO: one byte ends the data, which is {name}, or two do": chunked(
                _chunk(b"hello", end=end) + _HIDDEN
            )
            for name, end in _ONE_BYTE.items()
        }
    ),
    *refused(
        {
            f"TWO.ONE: two bytes end the data, or one does, which is {name}": chunked(
                _chunk(b"hello", end=end + b"0") + b"\r\n\r\n" + SMUGGLED
            )
            for name, end in _ONE_BYTE.items()
        }
    ),
    *refused(
        {
            "ZERO.TWO: nothing ends the data, or two bytes do": chunked(
                _chunk(b"hello", end=b"") + _HIDDEN
            ),
            "TWO.ZERO: two bytes end the data, or nothing does": chunked(
                _chunk(b"hello", end=b"00") + b"\r\n\r\n" + SMUGGLED
            ),
        }
    ),
]

# -- fields that only one of two servers sees --------------------------------------------------


def _in_name(char: bytes, at: int = 3) -> Callable[[bytes, bytes], bytes]:
    return lambda name, value: name[:at] + char + name[at:] + b": " + value


_PERMUTATIONS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "a space before the colon (space1)": lambda name, value: name + b" : " + value,
    "junk before the colon (spjunk)": lambda name, value: name + b" x: " + value,
    "in a folded line (nameprefix1)": lambda name, value: b"X: y\r\n " + name + b": " + value,
    "in a line folded by a tab (nameprefix2)": lambda name, value: (
        b"X: y\r\n\t" + name + b": " + value
    ),
    "LF and a space before the value (linewrapped1)": lambda name, value: name + b":\n " + value,
    "LF and a space before the colon (gareth1)": lambda name, value: name + b"\n : " + value,
    "behind a bare CR (badsetupCR)": lambda name, value: b"X: y\r" + name + b": " + value,
    "behind a bare LF (badsetupLF)": lambda name, value: b"X: y\n" + name + b": " + value,
    "behind CR LF CR (0dwrap)": lambda name, value: b"X: y\r\n\r" + name + b": " + value,
    "behind LF LF (bodysplit)": lambda name, value: b"X: y\n\n" + name + b": " + value,
    "LF and a vertical tab (vertwrap)": lambda name, value: name + b": \n\x0b" + value,
    "the value in the next line (tabwrap)": lambda name, value: name + b": \r\n\t" + value,
    "CR in the name (0dspam)": _in_name(b"\r"),
    "NUL in the name": _in_name(b"\x00"),
    "DEL in the name": _in_name(b"\x7f"),
    "an accented letter in the name (accentTE)": _in_name(b"\x82"),
    "a space in the name": _in_name(b" "),
    "a colon in the name": lambda name, value: b":" + name + b": " + value,
    "a slash in the name": _in_name(b"/"),
    "a space before the name": lambda name, value: b" " + name + b": " + value,
    "a tab before the name": lambda name, value: b"\t" + name + b": " + value,
    "NUL before the value (prefix1)": lambda name, value: name + b": \x00" + value,
    "a vertical tab before the value (prefix1)": lambda name, value: name + b": \x0b" + value,
    "a form feed before the value (prefix1)": lambda name, value: name + b": \x0c" + value,
    "DEL before the value (prefix1)": lambda name, value: name + b": \x7f" + value,
    "a no-break space before the value (unispace)": lambda name, value: name + b":\xa0" + value,
    "0xFF before the value (spaceFF)": lambda name, value: name + b":\xff" + value,
    "NUL behind the value (suffix1)": lambda name, value: name + b": " + value + b"\x00",
    "a form feed behind the value (suffix1)": lambda name, value: name + b": " + value + b"\x0c",
    "CR behind the value (0dsuffix)": lambda name, value: name + b": " + value + b"\r",
}
_BOTH_NAMES = {"Content-Length": b"5", "Transfer-Encoding": b"chunked"}


def _permuted(name: bytes, value: bytes) -> dict[str, bytes]:
    return {how: permute(name, value) for how, permute in _PERMUTATIONS.items()}


HIDDEN_FIELDS = [
    *refused(
        {
            f"CL.0: Content-Length: {how}": post(hidden, body=SMUGGLED)
            for how, hidden in _permuted(b"Content-Length", b"%d" % len(SMUGGLED)).items()
        }
    ),
    *refused(
        {
            f"TE.CL, Content-Length: {how}": post(_TE, hidden, body=HELLO + SMUGGLED)
            for how, hidden in _permuted(b"Content-Length", b"5").items()
        }
    ),
    *refused(
        {
            f"CL.TE, Transfer-Encoding: {how}": post(_ALL_OF_HELLO, hidden, body=HELLO + SMUGGLED)
            for how, hidden in _permuted(b"Transfer-Encoding", b"chunked").items()
        }
    ),
    *refused(
        {f"a second Host: {how}": field(hidden) for how, hidden in _permuted(b"Host", b"b").items()}
    ),
    *refused(
        {
            f"0.CL: {name}: {how}": post(_LENGTH, hidden, body=b"hello" + SMUGGLED)
            for name, value in (("Expect", b"100-continue"),)
            for how, hidden in _permuted(name.encode(), value).items()
            if "0xFF" not in how and "no-break" not in how
        }
    ),
    *refused(
        {
            "0.CL: Expect: y 100-continue": post(
                b"Expect: y 100-continue", _LENGTH, body=b"hello" + SMUGGLED
            ),
            "0.CL: Expect: 100-continue with a parameter": post(
                b"Expect: 100-continue;x", _LENGTH, body=b"hello" + SMUGGLED
            ),
            "0.CL: Expect: 0xFF before the value": post(
                b"Expect:\xff100-continue", _LENGTH, body=b"hello" + SMUGGLED
            ),
            "0.CL: Expect: a no-break space before the value": post(
                b"Expect:\xa0100-continue", _LENGTH, body=b"hello" + SMUGGLED
            ),
            "0.CL: Expect: 100-continue folded away": post(
                b"Expect: x, y", b"Expect: 100-continue", _LENGTH, body=b"hello" + SMUGGLED
            ),
        },
        417,
    ),
    # These are other fields, for everybody, and so no length at all.
    *(
        Trick(
            f"no length: {how}",
            post(other, body=b"hello\r\n\r\n"),
            (_ARRIVED_EMPTY,),
            refused=400,
        )
        for how, other in {
            "a percent-encoded letter in Transfer-Encoding (encode)": (
                b"Transfer-%45ncoding: chunked"
            ),
            "a percent-encoded letter in Content-Length": b"Content-%4cength: 9",
            "chunked as a Content-Encoding (contentEnc)": b"Content-Encoding: chunked",
            "a name longer than 256 bytes (CVE-2021-40346)": (
                b"Content-Length0" + b"a" * 255 + b": 9"
            ),
            "a backtick for the colon (h2colon)": b"Content-Length`9: 9",
            "the name in a value": b"X: Content-Length: 9",
            "a dot in the name": b"Content.Length: 9",
            "a plus in the name": b"Transfer+Encoding: chunked",
        }.items()
    ),
    *refused(
        {
            "a backslash for the dash in Content-Length (backslash)": post(
                b"Content\\Length: 5", body=b"hello"
            ),
            "a backslash for the dash in Transfer-Encoding (backslash)": post(
                b"Transfer\\Encoding: chunked", body=HELLO
            ),
            "a space for the dash in Transfer-Encoding (spacejoin1)": post(
                b"Transfer Encoding: chunked", body=HELLO
            ),
            "identity, chunked, identity (nested)": post(
                b"Transfer-Encoding: identity, chunked, identity", body=HELLO
            ),
            "a field of fold before all others, with a length (badwrap)": (
                b"POST /free HTTP/1.1\r\n Content-Length: 5\r\nHost: a\r\n\r\nhello"
            ),
        }
    ),
]

# -- numbers, versions, trailers ---------------------------------------------------------------

_LENGTHS = {
    "a comma before": b",5",
    "a comma behind": b"5,",
    "three equals": b"5,5,5",
    "octal": b"0o5",
    "binary": b"0b101",
    "hexadecimal digits behind zeros": b"00d",
    "a tab within": b"5\t5",
    "a semicolon and a parameter": b"5;x=y",
    "an apostrophe within": b"1'000",
    "a superscript": b"\xb2",
    "a minus sign behind": b"5-",
    "a colon": b"5:",
    "not a number": b"NaN",
}
_SIZES = {
    "octal": b"0o5\r\nhello\r\n0\r\n\r\n",
    "junk behind the digits (trafficserver #10580)": b"5these-bytes\r\nhello\r\n0\r\n\r\n",
    "CR before the last chunk's zero (uhttpd #3)": b"5\r\nhello\r\n\r0\r\n\r\n",
    "an underscore in the last chunk (uhttpd #3)": b"5\r\nhello\r\n0_0\r\n\r\n",
    "a quoted size": b'"5"\r\nhello\r\n0\r\n\r\n',
    "a comma and a second size": b"5,5\r\nhello\r\n0\r\n\r\n",
    "two sizes": b"5 5\r\nhello\r\n0\r\n\r\n",
    "a colon behind": b"5:\r\nhello\r\n0\r\n\r\n",
    "an h behind": b"5h\r\nhello\r\n0\r\n\r\n",
    "two semicolons": b"5;;x\r\nhello\r\n0\r\n\r\n",
    "a semicolon behind the extension": b"5;x;\r\nhello\r\n0\r\n\r\n",
    "a space within the extension": b"5;x y\r\nhello\r\n0\r\n\r\n",
    "obs-text in an extension's name": b"5;\xff\r\nhello\r\n0\r\n\r\n",
    "no value behind the equals sign": b"5;x=\r\nhello\r\n0\r\n\r\n",
    "DEL in a quoted extension": b'5;x="\x7f"\r\nhello\r\n0\r\n\r\n',
    "a request as an extension": b"5;GET /smuggled HTTP/1.1\r\nhello\r\n0\r\n\r\n",
    "an empty line for the last chunk": b"5\r\nhello\r\n\r\n",
    "a full-width digit": "\uff15\r\nhello\r\n0\r\n\r\n".encode(),
}
_VERSIONS = {
    "a capital within": b"hTTP/1.1",
    "a backslash": b"HTTP\\1.1",
    "a space before the dot": b"HTTP/1 .1",
    "a minus sign": b"HTTP/-1.1",
    "a parameter": b"HTTP/1.1;x",
    "NUL behind": b"HTTP/1.1\x00",
    "NUL within": b"HTTP/1\x00.1",
    "a second one behind a comma": b"HTTP/1.1,HTTP/1.0",
    "a tab behind": b"HTTP/1.1\t",
    "obs-text": b"HTTP/1.\xb9",
    "only its dot": b"HTTP/.",
    "plus signs": b"HTTP/+1.+1",
}
_TRAILERS = (
    b"Content-Type: text/html", b"Content-Range: bytes 0-1/2", b"Set-Cookie: a=b", b"TE: trailers",
    b"Trailer: X", b"Upgrade: websocket", b"Expect: 100-continue", b"Keep-Alive: timeout=5",
    b"Max-Forwards: 0", b"Proxy-Authorization: x", b"Proxy-Connection: close", b"X-Api-Key: x",
    b"Forwarded: for=127.0.0.1", b"X-Real-IP: 127.0.0.1", b"X-Forwarded-Host: evil",
    b"x_forwarded_for: 127.0.0.1", b"TRANSFER-ENCODING: identity", b"content-length: 0",
    b"Transfer_Encoding: chunked", b"Proxy-Authenticate: x",
)  # fmt: skip
NUMBERS = [
    *refused(
        {
            f"Content-Length: {name}": post(b"Content-Length: " + value, body=b"hello")
            for name, value in _LENGTHS.items()
        }
    ),
    *passed(
        {
            "Content-Length: zero twice in a row": (post(b"Content-Length: 00"), _ARRIVED_EMPTY),
            "Content-Length: what octal would make 8": (
                post(b"Content-Length: 0010", body=b"0123456789"),
                Read(b"POST", FREE, b"0123456789"),
            ),
        }
    ),
    *refused({f"chunk size: {name}": chunked(body) for name, body in _SIZES.items()}),
    *refused({f"version: {name}": line(b"GET /free " + text) for name, text in _VERSIONS.items()}),
    *refused(
        {
            f"trailer merging: {trailer.decode()}": chunked(
                b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n\r\n"
            )
            for trailer in _TRAILERS
        }
    ),
]

# -- methods whose bodies are forgotten ----------------------------------------------------------


def _with_method(method: bytes, *fields: bytes, body: bytes) -> bytes:
    return post(*fields, body=body, line=method + b" /free HTTP/1.1")


_FORGOTTEN = (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"PURGE")
BODIES = passed(
    {
        f"CL.0: a {method.decode()} whose body is a request, by its length": (
            _with_method(method, b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
            Read(method, FREE, SMUGGLED),
        )
        for method in _FORGOTTEN
    }
    | {
        f"TE.0: a {method.decode()} whose body is a request, in a chunk": (
            _with_method(method, _TE, body=_chunk(SMUGGLED) + b"0\r\n\r\n"),
            Read(method, FREE, SMUGGLED),
        )
        for method in _FORGOTTEN
    }
)

# -- what is on the wire before, between and instead of requests ---------------------------------

_GUARDED_BEHIND = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
WIRE = [
    *passed(
        {
            "eight empty lines before": (b"\r\n" * 8 + GET, ARRIVED_GET),
        }
    ),
    *refused(
        {
            "nine empty lines and one more": b"\r\n" * 10 + GET,
            "a flood of empty lines": b"\r\n" * 5000 + GET,
            "the proxy protocol's second version": (
                b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + GET
            ),
            "an SMTP greeting": b"EHLO a\r\n\r\n",
            "an SSH banner": b"SSH-2.0-OpenSSH\r\n\r\n",
            "a Redis command": b"*1\r\n$4\r\nPING\r\n\r\n",
            "a memcached command": b"set a 0 0 5\r\nhello\r\n\r\n",
            "a FastCGI record": b"\x01\x01\x00\x01\x00\x08\x00\x00\r\n\r\n",
            "an ICAP request": b"REQMOD icap://a/ ICAP/1.0\r\nHost: a\r\n\r\n",
            "an RTSP request": b"DESCRIBE rtsp://a/ RTSP/1.0\r\nHost: a\r\n\r\n",
            "a SIP request": b"INVITE sip:a SIP/2.0\r\nHost: a\r\n\r\n",
            "a chunk where a request should stand": HELLO + GET,
        }
    ),
    Trick(
        "a guarded request behind a free one on the same connection",
        GET + _GUARDED_BEHIND,
        (ARRIVED_GET, Read(b"POST", GUARDED, b"{}")),
    ),
    Trick(
        "another Host behind the first on the same connection",
        GET + GET.replace(b"Host: a", b"Host: b"),
        (ARRIVED_GET, ARRIVED_GET),
    ),
    Trick(
        "another framing behind the first on the same connection",
        post(_LENGTH, body=b"hello") + chunked(HELLO),
        (_ARRIVED_HELLO, _ARRIVED_HELLO),
    ),
    Trick(
        "two lengths behind one on the same connection",
        post(_LENGTH, body=b"hello") + post(_LENGTH, _TE, body=HELLO) + SMUGGLED,
        (_ARRIVED_HELLO,),
        refused=400,
    ),
]

FAMILIES = [*FUNKY_CHUNKS, *HIDDEN_FIELDS, *NUMBERS, *BODIES, *WIRE]
