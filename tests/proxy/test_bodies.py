"""Does a body end where it ends, however it is cut into segments?"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from sidecar.proxy.wire.bodies import Body, ChunkedBody, LengthBody, UntilCloseBody
from sidecar.proxy.wire.heads import BadMessageError

NEXT = b"GET / HTTP/1.1\r\n\r\n"
CHUNKED = (
    b'5;a=b;c="d;\\" "\r\nhello\r\nA\r\n0123\r\n6789\r\n01\r\n!\r\n000;x\r\nX-Sum: 1\r\nY:\r\n\r\n'
)
CONTENT = b"hello0123\r\n6789!"


def feed_all(body: Body, segments: Iterable[bytes]) -> bytes:
    """Feed segments until the body is complete; what did not belong to it."""
    rest = b""
    for segment in segments:
        taken = 0 if body.complete else body.feed(segment)
        assert 0 <= taken <= len(segment)
        assert body.complete or taken == len(segment)
        rest += segment[taken:]
    return rest


def splits_in_two(data: bytes) -> list[list[bytes]]:
    return [[data[:at], data[at:]] for at in range(len(data) + 1)]


def test_a_body_of_known_length() -> None:
    """It takes as many bytes as announced and leaves the rest to the next message."""
    for segments in splits_in_two(b"hello" + NEXT):
        body = LengthBody(5)
        assert feed_all(body, segments) == NEXT
        assert body.complete
    assert LengthBody(0).complete
    body = LengthBody(5)
    assert body.feed(b"hell") == 4
    assert not body.complete
    assert body.left == 1


def test_a_body_until_the_end() -> None:
    """Everything belongs to it; only who sees the end can say that it is complete."""
    body = UntilCloseBody()
    assert feed_all(body, [b"a", NEXT]) == b""
    assert not body.complete


@pytest.mark.parametrize("segments", splits_in_two(CHUNKED + NEXT), ids=lambda s: str(len(s[0])))
def test_a_body_in_chunks_however_it_is_split(segments: list[bytes]) -> None:
    """Every split yields the same content and the same end."""
    body = ChunkedBody(collect=True)
    assert feed_all(body, segments) == NEXT
    assert body.complete
    assert body.payload is not None
    assert b"".join(body.payload) == CONTENT


def test_a_body_in_chunks_byte_by_byte_and_in_threes() -> None:
    """So do many splits at once."""
    data = CHUNKED + NEXT
    for size in (1, 2, 3, 7):
        body = ChunkedBody(collect=True)
        assert feed_all(body, [data[at : at + size] for at in range(0, len(data), size)]) == NEXT
        assert body.payload is not None
        assert b"".join(body.payload) == CONTENT


def test_nothing_is_collected_unless_asked() -> None:
    """Content that is only passed on is not kept."""
    body = ChunkedBody()
    feed_all(body, [CHUNKED])
    assert body.complete
    assert body.payload is None


def test_a_large_chunk_is_passed_over_without_looking_at_it() -> None:
    """Content may hold anything, line ends and requests included."""
    content = (NEXT + b"\r\n0\r\n\r\n") * 5000
    body = ChunkedBody()
    head = b"%X\r\n" % len(content)
    assert body.feed(head + content) == len(head + content)
    assert body.left == 2
    assert feed_all(body, [b"\r\n0\r\n\r\n" + NEXT]) == NEXT


@pytest.mark.parametrize(
    "raw",
    [
        b"x\r\n",
        b"\r\n",
        b"5 \r\n",
        b" 5\r\n",
        b"0x5\r\n",
        b"+5\r\n",
        b"-5\r\n",
        b"5\n",
        b"5\rhello",
        b"5;\r\n",
        b"5;=\r\n",
        b"5; a\r\n",
        b"5;a =b\r\n",
        b'5;a="b\r\n',
        b"5;a\x00\r\n",
        b"5;a\rb\r\n",
        b"1000000000000000\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n0\r\n",
        b"5\r\nhello\rX",
        b"5\r\nhell\r\n\r\n",
        b"0\r\n\n",
        b"0\r\nX\r\n",
        b"0\r\nX : y\r\n",
        b"0\r\n X: y\r\n",
        b"0\r\nX: \x00\r\n",
        b"0\r\nX: a\rb\r\n",
        b"0\r\nContent-Length: 5\r\n",
        b"0\r\nTRANSFER_encoding: chunked\r\n",
        b"0\r\nX-Forwarded-Whatever: a\r\n",
    ],
)
def test_malformed_chunks_are_refused_however_they_are_split(raw: bytes) -> None:
    """No split hides a mistake, and no part is passed on behind it."""
    for segments in [*splits_in_two(raw), [raw[at : at + 1] for at in range(len(raw))]]:
        with pytest.raises(BadMessageError):
            feed_all(ChunkedBody(), segments)


@pytest.mark.parametrize(
    "start", [b"0x", b"5\rh", b"5 ", b";", b"5;a\x00", b"0\r\n\rX", b"0\r\nX :"]
)
def test_an_unfinished_line_is_refused_as_soon_as_it_cannot_become_good(start: bytes) -> None:
    """What has been passed on of a line that turns out bad could not be taken for a whole one."""
    with pytest.raises(BadMessageError):
        ChunkedBody().feed(start)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b"5;a=" + b"x" * 100),
        (b"0\r\n", b"X: " + b"x" * 100),
        (b"0\r\n", b"X: " + b"x" * 100 + b"\r\n"),
    ],
)
def test_lines_and_trailers_have_a_bound(start: bytes, piece: bytes) -> None:
    """An extension or trailers without end are refused before they fill the memory."""
    more = piece if piece.endswith(b"\n") else b"x" * 100
    with pytest.raises(BadMessageError):
        feed_all(ChunkedBody(), [start + piece, *[more] * 100])
