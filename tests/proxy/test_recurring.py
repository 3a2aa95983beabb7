"""Promises about heads that recur: what is remembered of one request is true of the next."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.proxy.recurring import Heads
from sidecar.proxy.wire.heads import BadMessageError, RequestHead, parse_request_head
from tests.proxy.running import data_path
from tests.support.origin import Origin, json_ok
from tests.support.wire import request

START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"


def new_heads() -> Heads:
    return Heads(256, lambda head: (head.target.decode("latin-1"), None))


def outcome(read: Heads, data: bytes) -> tuple[object, ...]:
    """Everything that is known of a head after reading it, or why it was refused."""
    try:
        recurring, length = read.read(data)
    except BadMessageError as error:
        return (str(error), error.status)
    return (recurring.method, recurring.path, recurring.route, recurring.key_hash, length)


def own_outcome(data: bytes) -> tuple[object, ...]:
    """The same, by a reader that remembers nothing."""
    return outcome(new_heads(), data)


def test_a_head_is_remembered_whatever_the_length_of_the_body() -> None:
    """The second request of a client is read from memory, with a length of its own."""
    heads = new_heads()
    first, length = heads.read(START + b"Content-Length: 5\r\n\r\n")
    again, other_length = heads.read(START + b"Content-Length: 123456\r\n\r\n")
    assert again is first
    assert (length, other_length) == (5, 123456)


@pytest.mark.parametrize(
    "second",
    [
        b"Content-Length: 6\r\nX: 1\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"Content-Length: 5\r\ncontent-length: 5\r\n\r\n",
        b"content-length: 6\r\n\r\n",
        b"Content-Length: \r\n\r\n",
        b"Content-Length: 05\r\n\r\n",
        b"Content-Length: 0\r\n\r\n",
        b"Content-Length: -5\r\n\r\n",
        b"Content-Length: 5 \r\n\r\n",
        b"Content-Length:  5\r\n\r\n",
        b"Content-Length: 5\n\r\n\r\n",
        b"Content-Length: " + b"9" * 19 + b"\r\n\r\n",
        "Content-Length: \u0665\r\n\r\n".encode(),
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Authorization: Bearer b\r\nContent-Length: 5\r\n\r\n",
        b"\r\n",
    ],
)
def test_what_is_remembered_never_changes_how_another_head_is_read(second: bytes) -> None:
    """A reader with a memory and one without say the same, in either order."""
    known = START + b"Content-Length: 5\r\n\r\n"
    heads = new_heads()
    assert outcome(heads, known) == own_outcome(known)
    assert outcome(heads, START + second) == own_outcome(START + second)
    assert outcome(heads, known) == own_outcome(known)


_LINES = st.sampled_from(
    [
        b"Content-Length: 5", b"Content-Length: 17", b"content-length: 5", b"content-length: 17",
        b"Content-Length: 0", b"Content-Length: 05", b"Content-Length:5", b"Content-Length: ",
        b"CONTENT-LENGTH: 5", b"Transfer-Encoding: chunked", b"X: Content-Length: 5", b"X: 5",
        b"Authorization: k", b"x-api-key: k", b"Host: b", b"traceparent: 00",
    ]
)  # fmt: skip


@settings(max_examples=1000)
@given(st.lists(st.lists(_LINES, max_size=4), min_size=1, max_size=12))
def test_a_memory_changes_nothing(requests: list[list[bytes]]) -> None:
    """Whatever heads came before, each is read as if it were the first."""
    heads = new_heads()
    for lines in requests:
        data = START + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
        assert outcome(heads, data) == own_outcome(data)


def test_ids_that_never_recur_fill_no_memory() -> None:
    """Only heads that may come again are kept, and not without bound."""
    heads = new_heads()
    traced = START + b"traceparent: 00-a\r\n\r\n"
    assert heads.read(traced)[0] is not heads.read(traced)[0]
    long = START + b"X: " + b"x" * 2048 + b"\r\n\r\n"
    assert heads.read(long)[0] is not heads.read(long)[0]
    first = heads.read(START + b"X: first\r\n\r\n")[0]
    for number in range(600):
        heads.read(START + b"X: %d\r\n\r\n" % number)
    assert heads.read(START + b"X: first\r\n\r\n")[0] is not first


def test_the_route_is_that_of_the_whole_head() -> None:
    """Two targets are two heads."""
    seen: list[RequestHead] = []

    def route_of(head: RequestHead) -> tuple[str, None]:
        seen.append(head)
        return "free", None

    heads = Heads(256, route_of)
    for target in (b"/a", b"/b", b"/a"):
        heads.read(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [head.target for head in seen] == [b"/a", b"/b"]
    assert seen[0] == parse_request_head(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")


async def test_each_body_arrives_whole_behind_the_same_head() -> None:
    """Bodies of all lengths, one after the other and ahead of their answers, stay apart."""
    bodies = [b"x" * length for length in (1, 9, 10, 99, 0, 100, 5, 70_000, 1)]
    async with Origin(json_ok) as origin, data_path(origin.url) as path, path.client() as client:
        for body in bodies:
            await client.send(request("POST", "/v1/chat/completions", body))
            assert (await client.read_response("POST")).status == 200
        await client.send(b"".join(request("POST", "/free", body) for body in bodies[:7]))
        for _ in bodies[:7]:
            assert (await client.read_response("POST")).status == 200
        assert [seen.body for seen in origin.requests] == bodies + bodies[:7]


def test_what_is_told_of_a_request_has_a_bound() -> None:
    """A huge target or method cannot fill the log: its beginning is told, the backend gets all."""
    heads = new_heads()
    long, _ = heads.read(b"G" * 40 + b" /" + b"x" * 2000 + b"?y HTTP/1.1\r\nHost: a\r\n\r\n")
    assert long.method == "G" * 32 + "..."
    assert long.path == "/" + "x" * 1023 + "..."
    assert long.head.target == b"/" + b"x" * 2000 + b"?y"
    short, _ = heads.read(b"G" * 32 + b" /" + b"x" * 1023 + b"?y HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (short.method, short.path) == ("G" * 32, "/" + "x" * 1023)
