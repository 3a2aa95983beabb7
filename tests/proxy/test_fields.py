"""Which fields cross the proxy, and do all others cross byte for byte?"""

from __future__ import annotations

import re

import pytest

from sidecar.proxy.config import Forwarded
from sidecar.proxy.fields import Peer, client_head, interim_head, switching_head, upstream_head
from sidecar.proxy.wire.heads import parse_request_head, parse_response_head

STRANGER = Peer("192.0.2.7", tls=False, trusted=False)
TRUSTED = Peer("192.0.2.1", tls=True, trusted=True)
VIA = b"Via: 1.1 openclaw-sidecar"
ID = b"X-Request-Id: id-1"


def sent_on(
    *fields: bytes,
    line: bytes = b"GET /x HTTP/1.1",
    host: bytes | None = b"Host: a",
    forwarded: Forwarded = Forwarded.OFF,
    peer: Peer = STRANGER,
    upgrade: bool = False,
) -> list[bytes]:
    """The lines that the backend gets for a request."""
    lines = [line, *([host] if host is not None else []), *fields]
    head = parse_request_head(b"\r\n".join([*lines, b"", b""]))
    data = upstream_head(head, forwarded, peer, authority=b"backend:1", upgrade=upgrade).of(
        head.content_length, b"id-1"
    )
    assert data.endswith(b"\r\n\r\n")
    return data.removesuffix(b"\r\n\r\n").split(b"\r\n")


def answered(
    *fields: bytes,
    line: bytes = b"HTTP/1.1 200 OK",
    to: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    close: bool = False,
    rechunk: bool = False,
    extra: list[bytes] | None = None,
) -> list[bytes]:
    """The lines that the client gets for a response."""
    head = parse_response_head(b"\r\n".join([line, *fields, b"", b""]))
    data = client_head(
        head, parse_request_head(to), b"id-1", extra or [], close=close, rechunk=rechunk
    )
    assert data.endswith(b"\r\n\r\n")
    return data.removesuffix(b"\r\n\r\n").split(b"\r\n")


DATED = b"Date: Thu, 01 Jan 1970 00:00:00 GMT"
ODD_LINES = [
    b"x-b:  2 ",
    b"X-A:\t1",
    b"X-B:3",
    b"Empty:",
    b"Obs: \xe9\xff",
    b"Cookie: a=b",
    b"Cookie: c=d",
    b"Accept-Encoding: br, gzip;q=0",
    b"User-Agent:",
    b"traceparent: 00-x",
    b"Range: bytes=0-",
]

# -- requests -------------------------------------------------------------------------------


def test_a_request_crosses_byte_for_byte() -> None:
    """Order, case, repeats, white space and odd bytes stay; two lines are added behind."""
    line = b"POST //a/%2e%2e/?&?%20\xc3\xa9 HTTP/1.1"
    assert sent_on(*ODD_LINES, line=line) == [line, b"Host: a", *ODD_LINES, VIA, ID]


def test_nothing_is_invented() -> None:
    """No User-Agent, no Accept-Encoding, no Content-Type, no length: the client sent none."""
    assert sent_on() == [b"GET /x HTTP/1.1", b"Host: a", VIA, ID]


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: keep-alive",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"TE: gzip",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAAQ",
        b"CONNECTION: close",
    ],
)
def test_hop_by_hop_fields_end_here(line: bytes) -> None:
    """What concerns this connection alone is not the backend's."""
    assert sent_on(line) == sent_on()


def test_fields_that_connection_names_end_here() -> None:
    """In any case, in any of several Connection fields, however often they stand."""
    fields = [b"X-Hop: 1", b"x-hop: 2", b"X-Other: 3", b"Connection: close, x-HOP", b"X-Kept: 4"]
    assert sent_on(*fields, b"Connection: ,x-other,") == [
        b"GET /x HTTP/1.1",
        b"Host: a",
        b"X-Kept: 4",
        VIA,
        ID,
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: Bearer x",
        b"Content-Length: 5",
        b"Content-Type: application/json",
        b"Cookie: a=b",
        b"Transfer-Encoding: chunked",
        b"X-Api-Key: x",
    ],
)
def test_connection_cannot_name_what_a_request_lives_by(line: bytes) -> None:
    """Whose request it is and where it ends is not for a Connection field to hide."""
    name = line.partition(b":")[0]
    assert line in sent_on(line, b"Connection: close, " + name.lower())
    assert b"Host: a" in sent_on(line, b"Connection: Host")
    assert ID in sent_on(line, b"Connection: x-request-id, via")
    assert VIA in sent_on(line, b"Connection: x-request-id, via")


def test_te_trailers_is_passed_on_as_its_own_hop() -> None:
    """A client that takes trailers gets them (gRPC refuses to work without)."""
    end = [b"TE: trailers", b"Connection: TE", ID]
    assert sent_on(b"TE: gzip;q=0.5, Trailers")[-3:] == end
    assert sent_on(b"TE: gzip", b"te: trailers", b"Connection: te")[-3:] == end
    assert sent_on(b"TE: xtrailers") == sent_on()


def test_an_earlier_via_is_kept() -> None:
    """Ours comes behind; it says which version we were asked in."""
    assert sent_on(b"Via: 1.1 front")[-3:] == [b"Via: 1.1 front", VIA, ID]
    assert b"Via: 1.0 openclaw-sidecar" in sent_on(line=b"GET / HTTP/1.0")


def test_there_is_one_request_id() -> None:
    """The one that was chosen, however many came."""
    lines = sent_on(b"X-Request-ID: other", b"x-request-id: third")
    assert [line for line in lines if line.lower().startswith(b"x-request-id")] == [ID]


def test_expect_crosses_while_it_is_open() -> None:
    """An expectation is passed on where the backend is to answer it, and only there."""
    expect, length = b"Expect: 100-continue", b"Content-Length: 5"
    assert expect in sent_on(expect, length)
    assert expect not in sent_on(expect)
    assert expect not in sent_on(expect, length, line=b"POST / HTTP/1.0")
    head = parse_request_head(
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    )
    head.expect_continue = False  # answered by ourselves
    data = upstream_head(head, Forwarded.OFF, STRANGER, authority=b"b", upgrade=False).of(
        head.content_length, b"id-1"
    )
    assert b"Expect" not in data


def test_max_forwards_is_counted_down() -> None:
    """For TRACE and OPTIONS; for other methods it means nothing and stays."""
    field = b"Max-Forwards: 10"
    assert b"Max-Forwards: 9" in sent_on(field, line=b"TRACE / HTTP/1.1")
    lines = sent_on(field, line=b"OPTIONS * HTTP/1.1")
    assert [line for line in lines if line.startswith(b"Max")] == [b"Max-Forwards: 9"]
    assert field in sent_on(field)


@pytest.mark.parametrize(
    ("line", "target", "host"),
    [
        (b"GET http://b:8/p/../q?r HTTP/1.1", b"/p/../q?r", b"b:8"),
        (b"GET HTTPS://B HTTP/1.1", b"/", b"B"),
        (b"GET http://b?r HTTP/1.1", b"/?r", b"b"),
        (b"GET http://b?r/s//t HTTP/1.1", b"/?r/s//t", b"b"),
        (b"GET http://b/?http://c/d HTTP/1.1", b"/?http://c/d", b"b"),
        (b"GET http://[::1]:8/ HTTP/1.1", b"/", b"[::1]:8"),
        (b"OPTIONS http://b HTTP/1.1", b"*", b"b"),
        (b"OPTIONS http://b/ HTTP/1.1", b"/", b"b"),
        (b"OPTIONS http://b?r HTTP/1.1", b"/?r", b"b"),
    ],
)
def test_absolute_form_becomes_origin_form(line: bytes, target: bytes, host: bytes) -> None:
    """Its authority replaces Host, as RFC 9112 3.2.2 wants it."""
    lines = sent_on(line=line)
    assert lines[0].split(b" ")[1] == target
    assert [one for one in lines if one.startswith(b"Host")] == [b"Host: " + host]


def test_asterisk_form_stays() -> None:
    """OPTIONS * asks about the server as a whole."""
    assert sent_on(line=b"OPTIONS * HTTP/1.1")[0] == b"OPTIONS * HTTP/1.1"


def test_an_http10_request_gets_what_http11_needs() -> None:
    """It is sent on in HTTP/1.1, with the backend's own name where it had none."""
    lines = sent_on(line=b"GET /x HTTP/1.0", host=None)
    assert lines[:2] == [b"GET /x HTTP/1.1", b"Host: backend:1"]
    assert sent_on(line=b"GET /x HTTP/1.0")[1] == b"Host: a"


def test_an_upgrade_is_asked_for_anew() -> None:
    """The protocol is kept, other members of Connection are not, and no body is announced."""
    lines = sent_on(
        b"Connection: keep-alive, Upgrade, x-hop",
        b"Upgrade: websocket",
        b"X-Hop: 1",
        b"Sec-WebSocket-Key: x",
        upgrade=True,
    )
    assert lines[2:] == [
        b"Sec-WebSocket-Key: x", VIA, b"Connection: Upgrade", b"Upgrade: websocket", ID
    ]  # fmt: skip


# -- who asked ------------------------------------------------------------------------------

SPOOFED = [
    b"X-Forwarded-For: 127.0.0.1",
    b"x-forwarded-proto: https",
    b"X-Forwarded-Host: evil",
    b"X-Forwarded-Whatever: 1",
    b"X_Forwarded_For: 127.0.0.1",
    b"X-Real-IP: 127.0.0.1",
    b"Forwarded: for=127.0.0.1",
]


def forwarding(lines: list[bytes]) -> list[bytes]:
    return [
        line for line in lines if re.match(rb"x[-_]forwarded|forwarded|x[-_]real", line.lower())
    ]


@pytest.mark.parametrize("peer", [STRANGER, TRUSTED])
def test_off_tells_nothing_and_believes_nobody(peer: Peer) -> None:
    """By default the backend hears nothing of addresses, least of all from clients."""
    assert forwarding(sent_on(*SPOOFED, peer=peer)) == []


@pytest.mark.parametrize("mode", [Forwarded.REBUILD, Forwarded.APPEND])
def test_strangers_are_not_believed(mode: Forwarded) -> None:
    """Fresh fields tell what we saw ourselves."""
    assert forwarding(sent_on(*SPOOFED, forwarded=mode)) == [
        b"X-Forwarded-For: 192.0.2.7",
        b'Forwarded: for=192.0.2.7;proto=http;host="a"',
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: a",
    ]


def test_append_keeps_what_a_trusted_proxy_told() -> None:
    """Its chain is continued, its word about the entrance stands."""
    told = [
        b"X-Forwarded-For: 198.51.100.1",
        b"X-Forwarded-For: 198.51.100.2",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: shop.example",
        b"X-Forwarded-Port: 80",
    ]
    lines = forwarding(sent_on(*told, forwarded=Forwarded.APPEND, peer=TRUSTED))
    assert sorted(lines) == sorted(
        [
            b"X-Forwarded-For: 198.51.100.1, 198.51.100.2, 192.0.2.1",
            b'Forwarded: for=192.0.2.1;proto=https;host="a"',
            *told[2:],
        ]
    )


def test_append_fills_in_what_a_trusted_proxy_did_not_tell() -> None:
    """What is missing is what we see."""
    lines = forwarding(sent_on(forwarded=Forwarded.APPEND, peer=TRUSTED))
    assert b"X-Forwarded-Proto: https" in lines
    assert b"X-Forwarded-Host: a" in lines


def test_connection_cannot_hide_what_a_trusted_proxy_told() -> None:
    """A client behind it could else have its address forgotten (as in CVE-2022-31813)."""
    lines = sent_on(
        b"X-Forwarded-For: 198.51.100.1",
        b"Connection: close, X-Forwarded-For",
        forwarded=Forwarded.APPEND,
        peer=TRUSTED,
    )
    assert b"X-Forwarded-For: 198.51.100.1, 192.0.2.1" in lines


def test_addresses_are_written_as_the_fields_want_them() -> None:
    """IPv6 in brackets and quotes (RFC 7239, 6); a unix socket's client has no address."""
    lines = sent_on(forwarded=Forwarded.REBUILD, peer=Peer("2001:db8::1", tls=True, trusted=False))
    assert b"X-Forwarded-For: 2001:db8::1" in lines
    assert b'Forwarded: for="[2001:db8::1]";proto=https;host="a"' in lines
    lines = sent_on(forwarded=Forwarded.REBUILD, peer=Peer("", tls=False, trusted=False))
    assert b"X-Forwarded-For: unknown" in lines


def test_the_host_told_is_the_one_asked_for() -> None:
    """With absolute-form it is the target's; without any it is left out."""
    lines = forwarding(sent_on(line=b"GET http://b/ HTTP/1.1", forwarded=Forwarded.REBUILD))
    assert b"X-Forwarded-Host: b" in lines
    assert b'Forwarded: for=192.0.2.7;proto=http;host="b"' in lines
    lines = forwarding(sent_on(line=b"GET / HTTP/1.0", host=None, forwarded=Forwarded.REBUILD))
    assert b"Forwarded: for=192.0.2.7;proto=http" in lines
    assert not [line for line in lines if line.startswith(b"X-Forwarded-Host")]


# -- responses ------------------------------------------------------------------------------


def test_a_response_crosses_byte_for_byte() -> None:
    """Order, case, repeats, white space, odd bytes and the reason stay."""
    fields = [DATED, b"Set-Cookie: a", b"set-cookie: b", b"X:\t\xe9 ", b"ETag: W/x", b"Vary:"]
    line = b"HTTP/1.1 299 N\xf6 \t such"
    assert answered(*fields, line=line) == [line, *fields, VIA, ID]


def test_an_http10_response_is_sent_on_in_http11() -> None:
    """A proxy speaks its own version; Via tells the backend's."""
    lines = answered(DATED, line=b"HTTP/1.0 200 OK")
    assert lines == [b"HTTP/1.1 200 OK", DATED, b"Via: 1.0 openclaw-sidecar", ID]


def test_a_status_line_without_reason_gets_its_space() -> None:
    """The space is not optional (RFC 9112, 4)."""
    assert answered(line=b"HTTP/1.1 200")[0] == b"HTTP/1.1 200 "


def test_a_response_s_hop_by_hop_fields_end_here() -> None:
    """And those that its Connection field names; never its length."""
    fields = [
        b"Connection: close, x-hop, content-length",
        b"X-Hop: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: x",
        b"Upgrade: h2c",
        b"Content-Length: 5",
    ]
    assert answered(DATED, *fields) == [b"HTTP/1.1 200 OK", DATED, b"Content-Length: 5", VIA, ID]


def test_a_date_is_added_where_there_is_none() -> None:
    """A response that is passed on has one (RFC 9110, 6.6.1)."""
    (date,) = [line for line in answered() if line.startswith(b"Date: ")]
    assert re.fullmatch(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date)


def test_the_backend_s_own_request_id_stays() -> None:
    """Some backends name their answers; that is what their logs know."""
    lines = answered(b"x-request-id: theirs")
    assert [line for line in lines if b"request-id" in line.lower()] == [b"x-request-id: theirs"]


def test_what_the_sidecar_says_of_the_connection() -> None:
    """Close where it ends; keep-alive to HTTP/1.0, which would end it otherwise."""
    http10 = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    assert answered(close=True)[-1] == b"Connection: close"
    assert answered(to=http10)[-1] == b"Connection: keep-alive"
    assert answered(to=http10, close=True)[-1] == b"Connection: close"
    assert not [line for line in answered() if line.startswith(b"Connection")]


def test_chunks_are_announced_where_the_sidecar_makes_them() -> None:
    """A body without length goes to HTTP/1.1 in chunks."""
    assert answered(rechunk=True)[-1] == b"Transfer-Encoding: chunked"


def test_http10_is_told_of_no_chunks() -> None:
    """It does not know them (RFC 9112, 6.1)."""
    lines = answered(b"Transfer-Encoding: chunked", to=b"GET / HTTP/1.0\r\n\r\n")
    assert not [line for line in lines if line.startswith(b"Transfer")]


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_only_answers_that_may_have_a_body_announce_one(framing: bytes) -> None:
    """Neither 1xx nor 204; a 304 announces what a 200 would have had."""
    assert framing not in answered(framing, line=b"HTTP/1.1 204 No Content")
    assert framing in answered(framing, line=b"HTTP/1.1 304 Not Modified")
    head = parse_response_head(b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n" + framing + b"\r\n\r\n")
    assert interim_head(head) == b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n"


def test_an_interim_response_crosses_without_its_hop_by_hop_fields() -> None:
    """Early hints are the client's; what concerns our connection is not."""
    head = parse_response_head(
        b"HTTP/1.1 103 Hints\r\nLINK: </a>\r\nlink: </b>\r\nConnection: x\r\nX: 1\r\n\r\n"
    )
    assert interim_head(head) == b"HTTP/1.1 103 Hints\r\nLINK: </a>\r\nlink: </b>\r\n\r\n"


@pytest.mark.parametrize(
    "fields", [b"Upgrade: websocket\r\nConnection: Upgrade\r\nX: 1\r\n", b""], ids=["some", "none"]
)
def test_a_switch_crosses_with_what_was_agreed(fields: bytes) -> None:
    """Upgrade and Connection are the agreement. What follows the head belongs to the tunnel."""
    raw = b"HTTP/1.1 101 Go\r\n" + fields + b"\r\n"
    assert switching_head(parse_response_head(raw)) == raw


def test_lines_of_the_sidecar_stand_behind_the_backend_s() -> None:
    """Such as how long the request waited."""
    assert answered(DATED, extra=[b"x-sidecar-queue-ms: 5"])[-1] == b"x-sidecar-queue-ms: 5"
