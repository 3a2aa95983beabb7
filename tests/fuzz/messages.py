"""Do heads and bodies mean one thing? To h11, to ourselves reading what we wrote, however split."""

from __future__ import annotations

from sidecar.proxy.config import Forwarded
from sidecar.proxy.fields import Peer, client_head, interim_head, upstream_head
from sidecar.proxy.wire.bodies import ChunkedBody
from sidecar.proxy.wire.heads import (
    BadMessageError,
    Head,
    RequestHead,
    parse_request_head,
    parse_response_head,
)
from tests.fuzz.plans import Plan
from tests.fuzz.virtual_time import VirtualLoop
from tests.fuzz.world import forget_names
from tests.proxy.same_meaning import (
    assert_same_chunks,
    assert_same_request,
    assert_same_response,
    head_of,
)

_PEER = Peer("192.0.2.1", tls=False, trusted=True)


def try_request_head(data: bytes, _: VirtualLoop) -> None:
    """What we accept h11 reads as we do; what we send on of it, we would accept and read so too."""
    raw = head_of(Plan.split(data)[1])
    forget_names()
    assert_same_request(raw)
    try:
        head = parse_request_head(raw)  # the second time, names are remembered
    except BadMessageError:
        return
    if b"max-forwards" in head.special:
        return  # what we send on with 0 is for the next one to answer, which we would not
    for forwarded in Forwarded:
        sent_on = parse_request_head(
            upstream_head(head, forwarded, _PEER, authority=b"b", upgrade=False).of(
                head.content_length, b"id"
            )
        )
        assert (sent_on.method, sent_on.minor) == (head.method, 1)
        assert head.target.endswith(sent_on.target.removeprefix(b"/")) or sent_on.target == b"*"
        _assert_same_framing(head, sent_on)


def try_response_head(data: bytes, _: VirtualLoop) -> None:
    """Likewise for answers, whatever the client that gets them."""
    raw = head_of(Plan.split(data)[1])
    forget_names()
    assert_same_response(raw)
    try:
        head = parse_response_head(raw)
    except BadMessageError:
        return
    if head.status < 200:
        sent_on = parse_response_head(interim_head(head))
        assert (sent_on.status, sent_on.chunked, sent_on.content_length) == (
            head.status, False, None,
        )  # fmt: skip
        return
    for minor in (0, 1):
        sent_on = parse_response_head(client_head(head, _asking(minor), b"id", close=True))
        assert (sent_on.status, sent_on.minor, sent_on.keep_alive) == (head.status, 1, False)
        if head.status != 204 and minor:
            _assert_same_framing(head, sent_on)


def try_chunks(data: bytes, _: VirtualLoop) -> None:
    """A chunked body is the same to h11, and the same however it is split."""
    plan, raw = Plan.split(data)
    assert_same_chunks(raw, plan.piece_bytes or len(raw) or 1)
    assert _fed(plan.pieces(raw)) == _fed([raw])


def _fed(pieces: list[bytes]) -> tuple[int, bytes, bool] | None:
    """How much a chunked body takes, its content, whether it is whole; None for a malformed one."""
    body = ChunkedBody(collect=True)
    taken = 0
    for piece in pieces:
        if body.complete:
            break
        try:
            taken += body.feed(piece)
        except BadMessageError:
            return None
    return taken, b"".join(body.payload or []), body.complete


def _asking(minor: int) -> RequestHead:
    return parse_request_head(b"GET / HTTP/1.%d\r\nHost: a\r\n\r\n" % minor)


def _assert_same_framing(head: Head, sent_on: Head) -> None:
    assert (sent_on.chunked, sent_on.content_length) == (head.chunked, head.content_length)
