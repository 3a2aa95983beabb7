"""Which fields cross the proxy? Hop-by-hop ones go, a few are added, all others pass untouched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sidecar.proxy.config import Forwarded
from sidecar.proxy.wire.date import http_date
from sidecar.proxy.wire.heads import (
    ABSOLUTE_FORM,
    FORWARDING,
    LIMITED_IN_FORWARDS,
    Head,
    RequestHead,
    ResponseHead,
    tokens_of,
)

# RFC 9110, 7.6.1, and Proxy-Connection and HTTP2-Settings, which mean this hop only.
# Transfer-Encoding stays: the framing is passed on as it came, and so is its field.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"upgrade",
    }
)

# A Connection field may name any field as hop-by-hop. These it may not: removing them would
# change who asks for what, or where the message ends.
_NEVER_HOP_BY_HOP = frozenset(
    {
        b"authorization",
        b"content-length",
        b"content-type",
        b"cookie",
        b"host",
        b"transfer-encoding",
        b"x-api-key",
        b"x-request-id",
    }
)

# RFC 9110, 8.6, and RFC 9112, 6.1: neither may stand in a 1xx or a 204. Passed on, they would
# have a client that looks at them first wait for a body, or take the next answer for one.
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})

_VIA = b"Via: 1.1 openclaw-sidecar"
_VIA_HTTP10 = b"Via: 1.0 openclaw-sidecar"


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a request came from, as far as forwarding fields tell it."""

    address: str  # IP address, or "" for a unix socket
    tls: bool
    trusted: bool  # listed in `trusted_proxies`


class UpstreamHead(NamedTuple):
    """The head that the backend gets, but for what differs between requests that look alike.

    `before` and `after` stand around the length of the body. Without a length there is only
    `before`.
    """

    before: bytes
    after: bytes

    def of(self, content_length: int | None, request_id: bytes) -> bytes:
        """The whole head of one request."""
        if content_length is None:
            return b"%bX-Request-Id: %b\r\n\r\n" % (self.before, request_id)
        return b"%b%d%bX-Request-Id: %b\r\n\r\n" % (
            self.before, content_length, self.after, request_id,
        )  # fmt: skip


def upstream_head(
    head: RequestHead,
    forwarded: Forwarded,
    peer: Peer,
    *,
    authority: bytes,
    upgrade: bool,
    expectation_met: bool = False,
) -> UpstreamHead:
    """Build the head that the backend gets.

    `authority` is the backend's own, for an HTTP/1.0 request that names none. `upgrade` keeps
    the Upgrade field and its Connection token, `expectation_met` removes Expect.
    """
    target, host = head.target, head.host
    dropped = set(head.special & _HOP_BY_HOP)
    added = [_VIA if head.minor else _VIA_HTTP10]
    if not target.startswith(b"/") and target != b"*":
        target, host = _origin_form(head.method, target)
        dropped.add(b"host")
        added.insert(0, b"Host: " + host)
    elif b"host" not in head.special:
        added.insert(0, b"Host: " + authority)
    if head.connection:
        dropped |= head.connection - _NEVER_HOP_BY_HOP - FORWARDING
    if head.special & FORWARDING and not (forwarded is Forwarded.APPEND and peer.trusted):
        dropped |= head.special & FORWARDING
    if forwarded is not Forwarded.OFF:
        added += _forwarding_lines(head, host, peer, dropped)
    if b"expect" in head.special and (expectation_met or not head.expect_continue):
        dropped.add(b"expect")
    _note_limits(head, dropped, added)
    if upgrade:
        added += [b"Connection: Upgrade", b"Upgrade: " + head.value(b"upgrade")]
    elif b"te" in head.special and b"trailers" in tokens_of(head.values(b"te")):
        added += [b"TE: trailers", b"Connection: TE"]
    dropped.add(b"x-request-id")  # follows with the request's own
    request_line = b"%b %b HTTP/1.1" % (head.method, target)
    return _around_length(head, dropped, [request_line], added)


def _around_length(
    head: RequestHead, dropped: set[bytes], first: list[bytes], last: list[bytes]
) -> UpstreamHead:
    """Join the lines that are not dropped, divided where the length of the body stands."""
    kept = [
        (name, line)
        for line, name in zip(head.lines, head.names, strict=True)
        if name not in dropped
    ]
    if head.content_length is None:
        return UpstreamHead(_joined([*first, *(line for _, line in kept), *last]), b"")
    at = [name for name, _ in kept].index(b"content-length")
    lines = [line for _, line in kept]
    spelling = lines[at].partition(b":")[0]
    return UpstreamHead(
        _joined([*first, *lines[:at]]) + spelling + b": ",
        b"\r\n" + _joined([*lines[at + 1 :], *last]),
    )


def _joined(lines: list[bytes]) -> bytes:
    return b"".join([line + b"\r\n" for line in lines])


def _origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """Split an absolute-form target; its authority replaces Host (RFC 9112, 3.2.2)."""
    match = ABSOLUTE_FORM.fullmatch(target)
    assert match is not None, "the head was checked"
    authority, rest = match.groups()
    if rest.startswith(b"/"):
        return rest, authority
    if method == b"OPTIONS" and not rest:
        return b"*", authority  # RFC 9112, 3.2.4
    return b"/" + rest, authority


def _note_limits(head: RequestHead, dropped: set[bytes], added: list[bytes]) -> None:
    """The forwardings that are left (RFC 9110, 7.6.2); a zero was refused with the head."""
    if b"max-forwards" in head.special and head.method in LIMITED_IN_FORWARDS:
        dropped.add(b"max-forwards")
        added.append(b"Max-Forwards: %d" % (int(head.value(b"max-forwards")) - 1))


def _forwarding_lines(
    head: RequestHead, host: bytes, peer: Peer, dropped: set[bytes]
) -> list[bytes]:
    """Fresh X-Forwarded-* and Forwarded fields, after those of a trusted peer where kept."""
    address = peer.address.encode() or b"unknown"
    proto = b"https" if peer.tls else b"http"
    node = b'"[' + address + b']"' if b":" in address else address
    element = b"for=%b;proto=%b" % (node, proto)
    if host:
        element += b';host="%b"' % host
    chain = {b"x-forwarded-for": address, b"forwarded": element}
    lines = []
    for name, own in chain.items():
        earlier = [] if name in dropped else head.values(name)
        dropped.add(name)
        title = b"X-Forwarded-For" if name == b"x-forwarded-for" else b"Forwarded"
        lines.append(title + b": " + b", ".join([*earlier, own]))
    # These say where the request entered: the first proxy knows, so a trusted one's word stays.
    for name, title, value in (
        (b"x-forwarded-proto", b"X-Forwarded-Proto", proto),
        (b"x-forwarded-host", b"X-Forwarded-Host", host),
    ):
        if value and (name in dropped or name not in head.special):
            lines.append(title + b": " + value)
    return lines


def client_head(
    head: ResponseHead,
    request: RequestHead,
    request_id: bytes,
    extra: list[bytes] | None = None,
    *,
    close: bool,
    rechunk: bool = False,
) -> bytes:
    """Build the head that the client gets. `rechunk` announces chunks for a body without length.

    HTTP/1.0 knows no chunks, so that such a client is not told of any (RFC 9112, 6.1).
    """
    dropped = head.special & _HOP_BY_HOP
    if head.connection:
        dropped = dropped | (head.connection - _NEVER_HOP_BY_HOP)
    if request.minor == 0:
        dropped = dropped | {b"transfer-encoding"}
    if head.status == 204:
        dropped = dropped | _FRAMING
    lines = _without(head, dropped)
    lines.append(_VIA if head.minor else _VIA_HTTP10)
    if b"x-request-id" not in head.special:
        lines.append(b"X-Request-Id: " + request_id)
    if b"date" not in head.special:
        lines.append(b"Date: " + http_date())  # RFC 9110, 6.6.1
    if extra:
        lines += extra
    if rechunk:
        lines.append(b"Transfer-Encoding: chunked")
    if close:
        lines.append(b"Connection: close")
    elif request.minor == 0:
        lines.append(b"Connection: keep-alive")
    return b"HTTP/1.1 %d%b\r\n%b\r\n\r\n" % (head.status, head.reason or b" ", b"\r\n".join(lines))


def switching_head(head: ResponseHead) -> bytes:
    """Build the 101 head for the client: the backend's, with its Connection and Upgrade fields."""
    return b"\r\n".join([b"HTTP/1.1 101%b" % (head.reason or b" "), *head.lines, b"", b""])


def interim_head(head: ResponseHead) -> bytes:
    """Build a 1xx head for the client."""
    dropped = (head.special & _HOP_BY_HOP) | _FRAMING | (head.connection - _NEVER_HOP_BY_HOP)
    lines = _without(head, dropped)
    return b"\r\n".join([b"HTTP/1.1 %d%b" % (head.status, head.reason or b" "), *lines, b"", b""])


def _without(head: Head, dropped: set[bytes]) -> list[bytes]:
    if not dropped:
        return list(head.lines)
    return [line for line, name in zip(head.lines, head.names, strict=True) if name not in dropped]
