"""What do requests with the same head have in common? Read once, remembered while it recurs.

Clients say the same head again and again: an SDK's requests differ in the length of their bodies
and in nothing else. What follows from a head alone (that it is beyond doubt, its route, its
caller, what the backend is sent) is found out once and remembered under the head's own bytes
without the digits of that length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from sidecar.admission.routes import ByModel
from sidecar.proxy.attempts import attempt_in
from sidecar.proxy.fields import UpstreamHead
from sidecar.proxy.wire.heads import BadMessageError, RequestHead, parse_request_head

# Remembered at most: some 2 MB. When it is full all is forgotten, and learnt anew as it recurs.
_KEPT_MAX = 512
_HEAD_MAX = 2048

# Heads with these are never said twice.
_UNIQUE = frozenset({b"idempotency-key", b"traceparent", b"x-request-id", b"x-sidecar-deadline"})

# How clients spell it; other spellings are read anew each time.
_LENGTH_FIELDS = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")

# What is told of a request in logs and on pages is no longer than this, whatever it asks for.
_METHOD_TOLD_MAX = 32
_PATH_TOLD_MAX = 1024

# As in `wire.heads`: more could overflow somebody's 64-bit integer.
_DIGITS_MAX = 18


class Recurring:
    """All that requests with the same head share. `head.content_length` is only the first one's."""

    __slots__ = (
        "attempt",
        "by_model",
        "head",
        "key_hash",
        "method",
        "path",
        "route",
        "upstream_head",
    )

    def __init__(self, head: RequestHead, route: str, by_model: ByModel | None = None) -> None:
        """Where the body's model decides, `by_model`, the `route` holds until that is known."""
        self.head = head
        self.route = route
        self.by_model = by_model
        self.method = _told(head.method, _METHOD_TOLD_MAX)
        self.path = _told(head.target.partition(b"?")[0], _PATH_TOLD_MAX)
        self.key_hash = _key_hash(head)
        self.attempt = attempt_in(head)
        self.upstream_head: UpstreamHead | None = None  # where it depends on nothing else


def _told(text: bytes, most: int) -> str:
    told = text.decode("latin-1")
    return told if len(told) <= most else f"{told[:most]}..."


class Heads:
    """Reads request heads, and remembers those that recur."""

    def __init__(
        self, fields_max: int, route_of: Callable[[RequestHead], tuple[str, ByModel | None]]
    ) -> None:
        """`fields_max` is `limits.head_fields`."""
        self._fields_max = fields_max
        self._route_of = route_of
        self._kept: dict[bytes, Recurring] = {}

    def read(self, data: bytes) -> tuple[Recurring, int | None]:
        """Read a whole head: what recurs, and the length of this request's body.

        Raises `BadMessageError`.
        """
        field = _LENGTH_FIELDS[0]
        at = data.find(field)
        if at < 0:
            field = _LENGTH_FIELDS[1]
            at = data.find(field)
        if at < 0:
            recurring = self._kept.get(data) or self._learn(data, data)
            return recurring, recurring.head.content_length
        # The first line of that name ends before the digits, so that no two heads share a key.
        start = at + len(field)
        end = data.find(b"\r", start)
        digits = data[start:end]
        if not digits.isdigit() or digits.startswith(b"0") or len(digits) > _DIGITS_MAX:
            recurring = self._read_anew(data)
            return recurring, recurring.head.content_length
        key = data[:start] + data[end:]
        return self._kept.get(key) or self._learn(data, key), int(digits)

    def _learn(self, data: bytes, key: bytes) -> Recurring:
        recurring = self._read_anew(data)
        if len(data) <= _HEAD_MAX and _UNIQUE.isdisjoint(recurring.head.special):
            if len(self._kept) >= _KEPT_MAX:
                self._kept.clear()
            self._kept[key] = recurring
        return recurring

    def _read_anew(self, data: bytes) -> Recurring:
        head = parse_request_head(data)
        if len(head.lines) > self._fields_max:
            raise BadMessageError(f"more than {self._fields_max} fields (limits.head_fields)", 431)
        return Recurring(head, *self._route_of(head))


def _key_hash(head: RequestHead) -> str:
    """Whose API key a request brings, as a hash: nothing else ever sees the key. "" without one."""
    if b"authorization" in head.special:
        key = head.value(b"authorization")
    elif b"x-api-key" in head.special:
        key = head.value(b"x-api-key")
    else:
        return ""
    return "key-" + hashlib.blake2b(key, digest_size=6).hexdigest()
