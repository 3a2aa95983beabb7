"""Are message heads read without doubt, and kept as they came?"""

from __future__ import annotations

import pytest

from sidecar.proxy.wire import heads
from sidecar.proxy.wire.heads import (
    BadMessageError,
    RequestHead,
    ResponseHead,
    parse_request_head,
    parse_response_head,
    tokens_of,
)


def request_head(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> RequestHead:
    return parse_request_head(b"\r\n".join([line, b"Host: a", *fields, b"", b""]))


def response_head(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> ResponseHead:
    return parse_response_head(b"\r\n".join([line, *fields, b"", b""]))


def refusal_of(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> BadMessageError:
    with pytest.raises(BadMessageError) as caught:
        request_head(*fields, line=line)
    return caught.value


# -- what is kept ---------------------------------------------------------------------------


def test_field_lines_are_kept_byte_for_byte() -> None:
    """Order, letter case, repeats, white space and obs-text are the sender's own."""
    lines = [b"X-b:  2 ", b"x-A:\t1", b"X-B:3", b"Empty:", b"Obs: \xe9\xff", b"!#$%&'*+-.^_`|~0: t"]
    head = request_head(*lines)
    assert head.lines == [b"Host: a", *lines]
    assert head.names == [
        b"host", b"x-b", b"x-a", b"x-b", b"empty", b"obs", b"!#$%&'*+-.^_`|~0"
    ]  # fmt: skip
    assert head.values(b"x-b") == [b"2", b"3"]
    assert head.value(b"x-b") == b"2"


def test_the_target_is_kept_byte_for_byte() -> None:
    """Percent-encoding, double slashes, an empty query and other bytes stay as they are."""
    target = b"//a/../%41%2f%zz?&?%20\xc3\xa9|{}\\^`"
    head = request_head(line=b"GET " + target + b" HTTP/1.1")
    assert (head.method, head.target, head.minor) == (b"GET", target, 1)


def test_a_response_s_status_line_is_kept() -> None:
    """The reason may be anything printable, empty, or missing with its space."""
    head = response_head(line=b"HTTP/1.1 404 N\xf6 \t such")
    assert (head.status, head.reason, head.minor) == (404, b" N\xf6 \t such", 1)
    assert response_head(line=b"HTTP/1.1 200 ").reason == b" "
    assert response_head(line=b"HTTP/1.0 200").reason == b""
    assert response_head(line=b"HTTP/1.0 200").lines == []


def test_only_the_fields_that_end_a_body_are_spelled_plainly() -> None:
    """Odd but allowed spellings of the framing are not passed on, for others misread them."""
    head = request_head(b"CONTENT-length:\t 007 ", b"X:\t 007 ")
    assert head.content_length == 7
    assert head.lines == [b"Host: a", b"CONTENT-length: 7", b"X:\t 007 "]
    head = request_head(b"transfer-Encoding:CHUNKED\t")
    assert head.chunked
    assert head.lines == [b"Host: a", b"transfer-Encoding: chunked"]
    plain = [b"Content-Length: 7", b"content-length: 7"]
    assert [request_head(line).lines[1] for line in plain] == plain


# -- how long the body is, and the connection lives -----------------------------------------


def test_the_length_of_a_body() -> None:
    """A Content-Length, chunks, or neither."""
    assert (request_head().content_length, request_head().has_body) == (None, False)
    head = request_head(b"Content-Length: 0")
    assert (head.content_length, head.has_body) == (0, False)
    head = request_head(b"Content-Length: 999999999999999999")
    assert (head.content_length, head.has_body) == (10**18 - 1, True)
    assert request_head(b"Transfer-Encoding: chunked").has_body
    assert response_head(b"Content-Length: 5").content_length == 5
    assert response_head(b"Transfer-Encoding: chunked").chunked


@pytest.mark.parametrize(
    "line",
    [b"Content-Length: 5", b"Content-Length: +5", b"Content-Length: 1000000000000000000"],
)
def test_a_second_or_a_malformed_length_is_refused(line: bytes) -> None:
    """One length, in digits that fit 64 bits, or none."""
    assert refusal_of(b"Content-Length: 5", line).status == 400


def test_transfer_encoding_in_http10_is_refused_either_way() -> None:
    """HTTP/1.0 knows no chunks, so nobody can say what such a message means."""
    chunked = b"Transfer-Encoding: chunked"
    assert refusal_of(chunked, line=b"POST / HTTP/1.0").status == 400
    with pytest.raises(BadMessageError):
        response_head(chunked, line=b"HTTP/1.0 200 OK")


@pytest.mark.parametrize(
    ("version", "fields", "kept"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"Connection: close"], False),
        (b"1.1", [b"Connection: x , CLOSE"], False),
        (b"1.1", [b"Connection: keep-alive", b"Connection: close"], False),
        (b"1.1", [b"Connection: keep-alive, close"], False),
        (b"1.1", [b"Connection: closed"], True),
        (b"1.0", [], False),
        (b"1.0", [b"Connection: keep-alive"], True),
        (b"1.0", [b"Connection: KEEP-ALIVE, x"], True),
        (b"1.0", [b"Connection: keep-alive", b"Connection: close"], False),
    ],
)
def test_whether_the_connection_is_kept(version: bytes, fields: list[bytes], kept: bool) -> None:
    """HTTP/1.1 keeps it unless told to close, HTTP/1.0 closes it unless told to keep."""
    assert request_head(*fields, line=b"GET / HTTP/" + version).keep_alive is kept
    assert response_head(*fields, line=b"HTTP/" + version + b" 200 OK").keep_alive is kept


def test_the_members_of_a_list() -> None:
    """Empty members do not count, letter case and white space do not matter."""
    assert tokens_of([b"a, B ,,", b"\tc"]) == {b"a", b"b", b"c"}
    assert tokens_of([b"", b" , "]) == frozenset()


# -- what is refused, and how ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "status", "why"),
    [
        (b"GET /", 400, "request line"),
        (b"GET  / HTTP/1.1", 400, "request line"),
        (b"GET / HTTP/1.1 ", 400, "request line"),
        (b"GET / http/1.1", 400, "request line"),
        (b"GET /#x HTTP/1.1", 400, "request line"),
        (b"G(T / HTTP/1.1", 400, "request line"),
        (b"GET / HTTP/1.2", 505, "version"),
        (b"GET / HTTP/2", 505, "version"),
        (b"PRI * HTTP/2.0", 505, "version"),
        (b"CONNECT a:1 HTTP/1.1", 501, "CONNECT"),
        (b"GET * HTTP/1.1", 400, "target"),
        (b"GET a HTTP/1.1", 400, "target"),
        (b"GET ftp://a/ HTTP/1.1", 400, "target"),
        (b"GET http:///a HTTP/1.1", 400, "target"),
        (b"GET http://:80/a HTTP/1.1", 400, "target"),
        (b"GET http://u@a/ HTTP/1.1", 400, "target"),
    ],
)
def test_request_lines_are_refused_with_the_reason(line: bytes, status: int, why: str) -> None:
    """The status and the message say what was wrong."""
    error = refusal_of(line=line)
    assert error.status == status
    assert why in str(error)


@pytest.mark.parametrize(
    "line",
    [b"X", b": x", b"X : y", b" X: y", b"X: a\rb", b"X: a\nb", b"X: \x00", b"X: \x7f", b"X\xff: y"],
)
def test_field_lines_are_refused_with_the_reason(line: bytes) -> None:
    """No byte that could end a line early, and no name that is no token."""
    error = refusal_of(line)
    assert (error.status, str(error)) == (400, "malformed field line")
    with pytest.raises(BadMessageError):
        response_head(line)


@pytest.mark.parametrize("name", [b"Content_Length", b"TRANSFER_ENCODING"])
def test_look_alikes_of_framing_fields_are_refused_every_time(name: bytes) -> None:
    """A server that takes underscores for dashes must not see another length than we do."""
    for _ in range(2):
        assert refusal_of(name + b": 5").status == 400


@pytest.mark.parametrize(
    ("host", "good"),
    [
        (b"", True),
        (b"a", True),
        (b"a.b:80", True),
        (b"a:", True),
        (b"[::1]:80", True),
        (b"%C3%A9", True),
        (b"a b", False),
        (b"a/b", False),
        (b"a@b", False),
        (b"a,b", False),
        (b"[::1", False),
        (b"a:b", False),
        (b"\xc3\xa9", False),
    ],
)
def test_the_host_is_a_host(host: bytes, good: bool) -> None:
    """A name or an address, and a port; nothing that changes what a URL made of it means."""
    data = b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    if good:
        assert parse_request_head(data).host == host
    else:
        with pytest.raises(BadMessageError):
            parse_request_head(data)


def test_a_host_is_due_in_http11_only() -> None:
    """HTTP/1.1 has exactly one, even with absolute-form; HTTP/1.0 may have none."""
    assert parse_request_head(b"GET / HTTP/1.0\r\n\r\n").host == b""
    for raw in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
    ):
        with pytest.raises(BadMessageError, match="Host"):
            parse_request_head(raw)


def test_expectations() -> None:
    """100-continue counts where a body follows and HTTP/1.1 is spoken; others are refused."""
    waits = b"Expect: 100-Continue"
    assert request_head(waits, b"Content-Length: 5").expect_continue
    assert request_head(waits, b"Transfer-Encoding: chunked").expect_continue
    assert not request_head(waits).expect_continue
    assert not request_head(waits, b"Content-Length: 5", line=b"POST / HTTP/1.0").expect_continue
    assert refusal_of(b"Expect: x").status == 417
    assert refusal_of(waits, b"Expect: x").status == 417


def test_max_forwards_ends_at_zero() -> None:
    """A TRACE or OPTIONS that may go no further is not passed on; other methods do not care."""
    assert refusal_of(b"Max-Forwards: 0", line=b"OPTIONS * HTTP/1.1").status == 501
    assert refusal_of(b"Max-Forwards: 0", line=b"TRACE / HTTP/1.1").status == 501
    assert refusal_of(b"Max-Forwards: -1", line=b"TRACE / HTTP/1.1").status == 400
    assert request_head(b"Max-Forwards: 0").method == b"GET"
    assert request_head(b"Max-Forwards: 1", line=b"TRACE / HTTP/1.1").method == b"TRACE"


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/2.0 200 OK",
        b"HTTP/1.1 99 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 1000 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200 O\x00K",
        b"ICY 200 OK",
        b"",
    ],
)
def test_what_is_no_status_line_is_refused(line: bytes) -> None:
    """A backend that speaks something else is not believed."""
    with pytest.raises(BadMessageError):
        response_head(line=line)


# -- strangers' names -----------------------------------------------------------------------


def test_forwarding_fields_are_known_by_any_name() -> None:
    """All of X-Forwarded-* is told apart, also with underscores, which some servers take alike."""
    for name in (b"X-Forwarded-For", b"x-forwarded-Anything", b"X_Forwarded_For", b"X_Real_IP"):
        assert request_head(name + b": x").special & heads.FORWARDING


def test_many_names_from_strangers_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that nobody uses fill no memory, and cannot hide forwarding fields among them."""
    monkeypatch.setattr(heads, "_LOWERED", {})
    monkeypatch.setattr(heads, "SPECIAL", set(heads.SPECIAL))
    monkeypatch.setattr(heads, "FORWARDING", set(heads.FORWARDING))
    for number in range(3000):
        request_head(b"X-Forwarded-%d: x" % number, b"X-%d: x" % number, b"x" * 1000 + b": y")
    assert len(heads._LOWERED) <= 2048
    assert max(map(len, heads._LOWERED)) <= 64
    assert len(heads.SPECIAL) < 200
    for name in (b"X-Forwarded-For", b"X-Forwarded-Port", b"X-Forwarded-New", b"x-forwarded-7"):
        assert request_head(name + b": x").special & heads.FORWARDING
    assert request_head(b"CONTENT-LENGTH: 5").content_length == 5
