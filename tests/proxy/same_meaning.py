"""Does a message that we accept mean the same to h11?

h11 is strict, small and made by people who think about nothing else. Where it refuses what we
accept, or reads it differently, one of us is wrong, or the exception stands here with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable

import h11

from sidecar.proxy.wire.bodies import ChunkedBody
from sidecar.proxy.wire.heads import (
    BadMessageError,
    Head,
    parse_request_head,
    parse_response_head,
)

_END = b"\r\n\r\n"


def head_of(data: bytes) -> bytes:
    """Up to the end of the first head; all where there is none."""
    return data[: data.find(_END) + len(_END)] if _END in data else data


def assert_same_request(data: bytes) -> None:
    """A request head that we accept has the same method, target, fields and framing for h11."""
    try:
        head = parse_request_head(data)
    except BadMessageError:
        return
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    try:
        request = connection.next_event()
    except h11.RemoteProtocolError:
        # h11 takes RFC 3986 at its word; clients send other bytes in targets, and backends
        # take them.
        assert not head.target.isascii(), data
        return
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (head.method, head.target)
    assert request.http_version == b"1.%d" % head.minor
    _assert_same_fields(head, request.headers)


def assert_same_response(data: bytes) -> None:
    """So does a response head."""
    try:
        head = parse_response_head(data)
    except BadMessageError:
        return
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    fields = [("Host", "a"), ("Upgrade", "any"), ("Connection", "upgrade")]  # to have 101 read
    connection.send(h11.Request(method="GET", target="/", headers=fields))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    response = _next(connection)
    assert isinstance(response, h11.Response | h11.InformationalResponse)
    assert response.status_code == head.status
    assert response.reason == head.reason.removeprefix(b" ")
    assert response.http_version == b"1.%d" % head.minor
    _assert_same_fields(head, response.headers)


def _next(connection: h11.Connection) -> object:
    """What h11 reads next, of what we accept."""
    try:
        return connection.next_event()
    except h11.RemoteProtocolError as error:
        raise AssertionError(f"h11 refuses what we accept: {error}") from error


def _assert_same_fields(head: Head, fields: Iterable[tuple[bytes, bytes]]) -> None:
    """Names and values in the same order; h11 writes the framing in its own way."""
    framing = {b"content-length", b"transfer-encoding"}
    mine = []
    for name, line in zip(head.names, head.lines, strict=True):
        spelt, _, value = line.partition(b":")
        # Some spellings of forwarding fields are not worth remembering.
        assert name in (spelt.lower(), b"x-forwarded-*")
        mine.append((spelt.lower(), value.strip(b" \t")))
    assert [pair for pair in mine if pair[0] not in framing] == [
        pair for pair in fields if pair[0] not in framing
    ]
    theirs = {name: value for name, value in fields if name in framing}
    assert head.chunked == (theirs.pop(b"transfer-encoding", None) == b"chunked")
    length = theirs.pop(b"content-length", None)
    assert head.content_length == (None if length is None else int(length))


def assert_same_chunks(data: bytes, segment_bytes: int) -> None:
    """A chunked body that we accept has the same content, and ends at the same byte."""
    body = ChunkedBody(collect=True)
    taken = 0
    try:
        while taken < len(data) and not body.complete:
            taken += body.feed(data[taken : taken + segment_bytes])
    except BadMessageError:
        return
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data
    )
    assert isinstance(_next(connection), h11.Request)
    content = b""
    while isinstance(event := _next(connection), h11.Data):
        content += bytes(event.data)
    assert body.payload is not None
    assert b"".join(body.payload) == content
    assert body.complete == isinstance(event, h11.EndOfMessage)
    if body.complete:
        assert connection.trailing_data[0] == data[taken:]
