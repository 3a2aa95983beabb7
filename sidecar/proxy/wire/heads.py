"""What does a message head say, and is it beyond doubt? Parsing of request and response heads.

Strict where RFC 9112 leaves room, because two parsers that read one message differently are what
request smuggling lives on: anything ambiguous is refused. Field lines are kept as the bytes that
came in, so that they can be passed on untouched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# RFC 9110, 5.5: visible ASCII, obs-text, SP and HTAB. No other control character, so no bare
# CR or LF, no NUL; and since a name must be a token right before its colon, no obs-fold either.
_FIELD_LINES = rb"((?:" + _TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"

# Non-ASCII bytes in a target are against RFC 3986, but clients send them and backends take them.
_REQUEST_HEAD = re.compile(
    rb"(" + _TOKEN + rb"++) ([!\"$-~\x80-\xff]++) HTTP/1\.([01])\r\n" + _FIELD_LINES
)
_RESPONSE_HEAD = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9]{2})((?: [\t\x20-\x7e\x80-\xff]*+)?)\r\n" + _FIELD_LINES
)
# A line that ends in LF alone. In an unfinished head it says that there will be no good one.
BARE_LF = re.compile(rb"(?<!\r)\n")
_OTHER_VERSION = re.compile(rb"[^ \r\n]+ [^ \r\n]+ HTTP/[0-9](?:\.[0-9])?\r\n")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+;=-]*)(?::[0-9]*)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")

# Of fields nobody has special use for only the lower-cased name is remembered. Bounded, because
# names come from strangers.
_LOWERED: dict[bytes, bytes] = {}
_LOWERED_MAX = 2048
_LOWERED_NAME_MAX = 64
_FORWARDING_MAX = 64

# Fields that the sidecar must look at, or must not pass on. Forwarding fields are added as they
# are met, because X-Forwarded-* has no end.
SPECIAL: set[bytes] = {
    b"authorization",
    b"connection",
    b"content-length",
    b"date",
    b"expect",
    b"host",
    b"http2-settings",
    b"idempotency-key",
    b"keep-alive",
    b"max-forwards",
    b"proxy-connection",
    b"te",
    b"traceparent",
    b"transfer-encoding",
    b"upgrade",
    b"x-api-key",
    b"x-request-id",
    b"x-request-timeout",
    b"x-sidecar-deadline",
    b"x-sidecar-priority",
    b"x-stainless-retry-count",
}
FORWARDING: set[bytes] = {
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-proto",
    b"x-real-ip",
}
SPECIAL |= FORWARDING

# Stands in `Head.names` for forwarding fields whose spelling is not worth remembering.
_OTHER_FORWARDING = b"x-forwarded-*"

# CGI and WSGI write "-" as "_", so their servers may take these for the fields that end a body.
_FRAMING_LOOKALIKES = frozenset({b"content_length", b"transfer_encoding"})


class BadMessageError(Exception):
    """A message that cannot be read without doubt. `status` is what a client is told."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Head:
    """What request and response heads have in common.

    `lines` are the field lines as received, without CRLF, save that the fields which end the body
    are spelled plainly; `names` are their names in lower case, in the same order. `special` holds
    the names in `SPECIAL` that occur.
    """

    minor: int  # HTTP/1.`minor`
    lines: list[bytes]
    names: list[bytes]
    special: set[bytes]
    content_length: int | None
    chunked: bool
    connection: frozenset[bytes]  # tokens of all Connection fields, in lower case

    def values(self, name: bytes) -> list[bytes]:
        """All values of the field `name` (lower case), without surrounding whitespace."""
        return [
            line[len(name) + 1 :].strip(b" \t")
            for line, other in zip(self.lines, self.names, strict=True)
            if other == name
        ]

    def value(self, name: bytes) -> bytes:
        """The first value of the field `name` (lower case), which must be there."""
        return self.lines[self.names.index(name)][len(name) + 1 :].strip(b" \t")

    def only_value(self, name: bytes) -> bytes:
        """The value of a field that may stand only once; raises `BadMessageError` otherwise."""
        if self.names.count(name) > 1:
            raise BadMessageError(f"more than one {name.decode().title()}")
        return self.value(name)

    @property
    def keep_alive(self) -> bool:
        """Whether the sender wants to keep the connection (RFC 9112, 9.3)."""
        if b"close" in self.connection:
            return False
        return self.minor == 1 or b"keep-alive" in self.connection


@dataclass(slots=True)
class RequestHead(Head):
    """A request's head. `target` is as received; `host` is b"" only in HTTP/1.0."""

    method: bytes
    target: bytes
    host: bytes
    expect_continue: bool

    @property
    def has_body(self) -> bool:
        """Whether body bytes follow."""
        return self.chunked or bool(self.content_length)


@dataclass(slots=True)
class ResponseHead(Head):
    """A response's head. `reason` is as received, with its leading space, or b""."""

    status: int
    reason: bytes


def parse_request_head(data: bytes) -> RequestHead:
    """Read a whole request head, CRLF CRLF included.

    Raises `BadMessageError` for anything that RFC 9112 forbids or that could be read in two ways.
    """
    match = _REQUEST_HEAD.fullmatch(data)
    if match is None:
        raise _why_not_a_request(data)
    method, target, minor, block = match.groups()
    lines, names, special = _fields(block)
    # Positional, because keywords cost twice the time: minor, lines, names, special, length,
    # chunked, connection; then method, target, host, expect_continue.
    head = RequestHead(
        minor[0] - 0x30, lines, names, special, None, False, _NO_TOKENS,
        method, target, b"", False,
    )  # fmt: skip
    _read_framing(head)
    _check_host(head)
    _check_target(head)
    if b"expect" in special:
        _check_expect(head)
    if b"max-forwards" in special:
        _check_max_forwards(head)
    return head


def parse_response_head(data: bytes) -> ResponseHead:
    """Read a whole response head, CRLF CRLF included; raises `BadMessageError`."""
    match = _RESPONSE_HEAD.fullmatch(data)
    if match is None:
        raise BadMessageError("not an HTTP/1.1 response head", 502)
    minor, status, reason, block = match.groups()
    lines, names, special = _fields(block)
    head = ResponseHead(
        minor[0] - 0x30, lines, names, special, None, False, _NO_TOKENS, int(status), reason
    )
    _read_framing(head)
    return head


_NO_TOKENS: frozenset[bytes] = frozenset()


def _fields(block: bytes) -> tuple[list[bytes], list[bytes], set[bytes]]:
    """Split a valid block of field lines into lines, lower-case names and special names."""
    if not block:
        return [], [], set()
    lines = block.split(b"\r\n")
    lines.pop()  # what follows the last CRLF: nothing
    try:
        names = [_LOWERED[line.partition(b":")[0]] for line in lines]
    except KeyError:
        names = [_lower(line.partition(b":")[0]) for line in lines]
    return lines, names, SPECIAL.intersection(names)


def _lower(name: bytes) -> bytes:
    """Lower-case a name that is met for the first time, and see what kind it is."""
    lowered = name.lower()
    if lowered in _FRAMING_LOOKALIKES:
        raise BadMessageError("a field name that could be taken for Content-Length or the like")
    dashed = lowered.replace(b"_", b"-")
    if dashed.startswith(b"x-forwarded-") or dashed in FORWARDING:
        if len(FORWARDING) >= _FORWARDING_MAX or dashed != lowered:
            lowered = _OTHER_FORWARDING
        SPECIAL.add(lowered)
        FORWARDING.add(lowered)
    if len(_LOWERED) < _LOWERED_MAX and len(name) <= _LOWERED_NAME_MAX:
        _LOWERED[name] = lowered
    return lowered


def tokens_of(values: list[bytes]) -> frozenset[bytes]:
    """Members of a comma-separated list field, lower-cased (RFC 9110, 5.6.1)."""
    return frozenset(
        token.strip(b" \t") for value in values for token in value.lower().split(b",")
    ) - {b""}


def _read_framing(head: Head) -> None:
    """Find out how the body is delimited (RFC 9112, 6.3); anything doubtful is refused."""
    special = head.special
    if b"connection" in special:
        head.connection = _connection_of(head)
    if b"content-length" in special:
        head.content_length = _length_of(head)
    if b"transfer-encoding" in special:
        if head.content_length is not None:
            raise BadMessageError("both Content-Length and Transfer-Encoding")
        if head.only_value(b"transfer-encoding").lower() != b"chunked":
            raise BadMessageError("a Transfer-Encoding other than chunked")
        if head.minor == 0:
            raise BadMessageError("Transfer-Encoding in an HTTP/1.0 message")
        head.chunked = True
        _spell_plainly(head, b"transfer-encoding", b"chunked")


# What nearly all Connection fields say.
_CONNECTION_TOKENS = {
    b"keep-alive": frozenset({b"keep-alive"}),
    b"Keep-Alive": frozenset({b"keep-alive"}),
    b"close": frozenset({b"close"}),
}


def _connection_of(head: Head) -> frozenset[bytes]:
    if head.names.count(b"connection") == 1:
        known = _CONNECTION_TOKENS.get(head.value(b"connection"))
        if known is not None:
            return known
    return tokens_of(head.values(b"connection"))


_PLAIN_LENGTH = re.compile(rb": (0|[1-9][0-9]{0,17})")


def _length_of(head: Head) -> int:
    """Read Content-Length, and see to it that it is passed on in plain spelling."""
    names = head.names
    if names.count(b"content-length") == 1:
        line = head.lines[names.index(b"content-length")]
        plain = _PLAIN_LENGTH.fullmatch(line, len(b"content-length"))
        if plain is not None:
            return int(plain[1])
    value = head.only_value(b"content-length")
    if not _LENGTH.fullmatch(value):
        raise BadMessageError("malformed Content-Length")
    _spell_plainly(head, b"content-length", b"%d" % int(value))
    return int(value)


def _spell_plainly(head: Head, name: bytes, value: bytes) -> None:
    """Write the field that ends the body without odd white space, capitals or leading zeros.

    All are allowed, and all have been misread by some server, to which the body was a request.
    """
    at = head.names.index(name)
    head.lines[at] = head.lines[at][: len(name)] + b": " + value


def _check_host(head: RequestHead) -> None:
    """RFC 9112, 3.2: exactly one valid Host; it may be missing only in HTTP/1.0."""
    if b"host" not in head.special:
        if head.minor == 1:
            raise BadMessageError("no Host field")
        return
    head.host = head.only_value(b"host")
    if not _HOST.fullmatch(head.host):
        raise BadMessageError("malformed Host")


def _check_target(head: RequestHead) -> None:
    """RFC 9112, 3.2: origin-form, absolute-form, or `*` for OPTIONS."""
    target = head.target
    if head.method == b"CONNECT":
        raise BadMessageError("CONNECT: this is no forward proxy", 501)
    if target.startswith(b"/"):
        return
    if target == b"*" and head.method == b"OPTIONS":
        return
    match = ABSOLUTE_FORM.fullmatch(target)
    if match is None or not _HOST.fullmatch(match[1]) or match[1].partition(b":")[0] == b"":
        raise BadMessageError("malformed request target")


# scheme "://" authority (path and query); user information in it is refused by the Host check.
ABSOLUTE_FORM = re.compile(rb"(?i:https?)://([^/?]*)((?:[/?].*)?)", re.DOTALL)


def _check_expect(head: RequestHead) -> None:
    """RFC 9110, 10.1.1: 100-continue is the only expectation there is."""
    if tokens_of(head.values(b"expect")) != {b"100-continue"}:
        raise BadMessageError("an expectation other than 100-continue", 417)
    head.expect_continue = head.minor == 1 and head.has_body


def _check_max_forwards(head: RequestHead) -> None:
    """RFC 9110, 7.6.2: at zero the request ends here, and we have no answer to it."""
    if head.method not in LIMITED_IN_FORWARDS:
        return
    value = head.only_value(b"max-forwards")
    if not _LENGTH.fullmatch(value):
        raise BadMessageError("malformed Max-Forwards")
    if int(value) == 0:
        raise BadMessageError("Max-Forwards: 0 asks the sidecar itself, which has no answer", 501)


LIMITED_IN_FORWARDS = frozenset({b"OPTIONS", b"TRACE"})


def _why_not_a_request(data: bytes) -> BadMessageError:
    """Name what is wrong with a head that did not match. Slow, for refusals only."""
    line = data.partition(b"\r\n")[0]
    if _OTHER_VERSION.match(line + b"\r\n") and not line.endswith((b" HTTP/1.0", b" HTTP/1.1")):
        return BadMessageError("an HTTP version other than 1.0 and 1.1", 505)
    if _REQUEST_HEAD.fullmatch(line + b"\r\n\r\n") is None:
        return BadMessageError("malformed request line")
    return BadMessageError("malformed field line")
