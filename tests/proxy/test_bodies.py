"""Does a body end where it ends, however it is cut into segments?"""

from __future__ import annotations

import random
import time
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


MISTAKES = (
    b"",
    b"1;=x\r\na\r\n",
    b"1\na\r\n",
    b"2\r\na\r\n",
    b"1\r\nab\r\n",
    b"1 \r\na\r\n",
    b"g\r\n",
)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_run_of_tiny_chunks_is_read_like_each_of_them(mistake: bytes) -> None:
    """Thousands of small chunks read at once end, or fail, where they do one at a time."""
    dice = random.Random(7)
    for _ in range(50):
        chunks = [tiny_chunk(dice) for _ in range(dice.randrange(1, 60))]
        chunks.insert(dice.randrange(len(chunks) + 1), mistake)
        data = b"".join([*chunks, b"0\r\nX-Sum: 1\r\n\r\n", NEXT])
        whole = outcome_of_feeding(ChunkedBody(), [data])
        assert whole == outcome_of_feeding(
            ChunkedBody(collect=True), [data[at : at + 1] for at in range(len(data))]
        )
        assert whole == (b"refused" if mistake else NEXT)


def tiny_chunk(dice: random.Random) -> bytes:
    content = dice.randbytes(dice.choice([1, 1, 2, 5, 9, 10, 15, 16, 17, 300]))
    content = dice.choice([content, b"\r\n" * len(content), b"0\r\n\r\n"])
    extension = dice.choice([b"", b"", b";a", b";a=b", b";a;b", b";" + b"x" * 40, b';a="b"'])
    size = dice.choice([b"%x", b"%X", b"0%x"]) % len(content)
    return size + extension + b"\r\n" + content + b"\r\n"


def outcome_of_feeding(body: ChunkedBody, segments: list[bytes]) -> bytes:
    try:
        return feed_all(body, segments)
    except BadMessageError:
        return b"refused"


@pytest.mark.parametrize(
    "piece", [b"1\r\nx\r\n", b"1;x=y\r\nx\r\n", b"f\r\n" + b"x" * 15 + b"\r\n"]
)
def test_a_flood_of_tiny_chunks_costs_little_time(piece: bytes) -> None:
    """What is read from a socket at once (256 KB) keeps others waiting for milliseconds only."""
    data = piece * (256_000 // len(piece))
    took_s = []
    for _ in range(5):
        started_s = time.process_time()
        assert ChunkedBody().feed(data) == len(data)
        took_s.append(time.process_time() - started_s)
    assert min(took_s) < 0.015, "one at a time it is 35 to 95 ms"


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
    ("start", "piece", "bound_bytes"),
    [
        (b"", b"5;a=" + b"x" * 100, 1024),
        (b"0\r\n", b"X: " + b"x" * 100, 8192),
        (b"0\r\n", b"X: " + b"x" * 100 + b"\r\n", 8192),
    ],
)
def test_lines_and_trailers_have_a_bound(start: bytes, piece: bytes, bound_bytes: int) -> None:
    """An extension or trailers without end are refused by name before they fill the memory."""
    more = piece if piece.endswith(b"\n") else b"x" * 100
    for segments in ([start + piece, *[more] * 100], [start + piece + more * 100 + b"\r\n"]):
        with pytest.raises(BadMessageError, match=f"exceed {bound_bytes} bytes"):
            feed_all(ChunkedBody(), segments)
