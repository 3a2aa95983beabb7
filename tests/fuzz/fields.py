"""Which fields does a message have behind the sidecar? Judged from outside, by names and values.

All others must be there as they were sent, in their order, and nothing may be there that nobody
sent: that is what header injection and response splitting would look like.
"""

from __future__ import annotations

from collections.abc import Callable

from sidecar.proxy.config import Forwarded
from sidecar.proxy.wire.heads import ABSOLUTE_FORM
from tests.proxy.readings import Fields, Read

# RFC 9110, 7.6.1: for one hop only.
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"http2-settings"}
)
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
# docs/conformance.md: what Connection may not name.
_LIVED_BY = frozenset(
    {b"authorization", b"content-type", b"cookie", b"host", b"x-api-key", b"x-request-id"}
)
_OF_REQUESTS = _HOP_BY_HOP | _FRAMING | {b"host", b"via", b"x-request-id", b"expect"}
_OF_RESPONSES = _HOP_BY_HOP | _FRAMING | {b"via", b"x-request-id", b"date"}
_COUNTED_DOWN = frozenset({b"OPTIONS", b"TRACE"})

_AUTHORITY = b"127.0.0.1:18789"  # of the backend that is configured when nothing is
CLIENT_ADDRESS = b"192.0.2.1"


def assert_request_fields(read: Read, sent: Fields, arrived: Fields, forwarded: Forwarded) -> None:
    """The request `read`, as it was sent, arrived with the fields that it may have."""
    special = _OF_REQUESTS
    if read.method in _COUNTED_DOWN:
        special |= {b"max-forwards"}
        assert [int(value) for value in _values(arrived, b"max-forwards")] == [
            int(value) - 1 for value in _values(sent, b"max-forwards")
        ]
    _assert_others_cross(sent, arrived, lambda name: name in special or _tells_forwarding(name))
    _assert_via(sent, arrived)
    assert len(_values(arrived, b"x-request-id")) == 1
    (host,) = _values(arrived, b"host")
    absolute = ABSOLUTE_FORM.fullmatch(read.target)
    hosts = [absolute[1]] if absolute else _values(sent, b"host") or [_AUTHORITY]
    assert host == hosts[0]
    assert set(_values(arrived, b"expect")) <= set(_values(sent, b"expect"))
    hops = {name: value for name, value in arrived if name in _HOP_BY_HOP}
    upgrade = hops.pop(b"upgrade", None)
    if upgrade is not None:
        assert upgrade in _values(sent, b"upgrade")
        assert hops == {b"connection": b"Upgrade"}
    else:
        assert hops in ({}, {b"te": b"trailers", b"connection": b"TE"})
    _assert_forwarding(sent, arrived, forwarded)


def _assert_forwarding(sent: Fields, arrived: Fields, forwarded: Forwarded) -> None:
    told = [(name, value) for name, value in arrived if _tells_forwarding(name)]
    if forwarded is Forwarded.OFF:
        assert not told
        return
    (addresses,) = _values(told, b"x-forwarded-for")
    if forwarded is Forwarded.REBUILD:
        assert addresses == CLIENT_ADDRESS
        names = [name for name, _ in told]
        assert len(names) == len(set(names))
        assert set(names) <= {
            b"x-forwarded-for", b"forwarded", b"x-forwarded-proto", b"x-forwarded-host",
        }  # fmt: skip
    else:
        chain = [*_values(sent, b"x-forwarded-for"), CLIENT_ADDRESS]
        assert addresses == b", ".join(chain)


def assert_response_fields(sent: Fields, arrived: Fields, *, may_be_framed: bool) -> None:
    """An answer reached the client with the fields that it may have."""
    _assert_others_cross(sent, arrived, _OF_RESPONSES.__contains__)
    _assert_via(sent, arrived)
    for name in (b"x-request-id", b"date"):
        values = _values(sent, name)
        assert _values(arrived, name) == values if values else len(_values(arrived, name)) == 1
    for name in _HOP_BY_HOP - {b"connection"}:
        assert not _values(arrived, name)
    assert set(_values(arrived, b"connection")) <= {b"close", b"keep-alive"}
    assert len([name for name, _ in arrived if name in _FRAMING]) <= may_be_framed


def assert_interim_fields(sent: Fields, arrived: Fields) -> None:
    """A 1xx reached the client with the fields that it may have."""
    special = _HOP_BY_HOP | _FRAMING
    _assert_others_cross(sent, arrived, special.__contains__)
    assert not [name for name, _ in arrived if name in special]


def _assert_others_cross(
    sent: Fields, arrived: Fields, is_special: Callable[[bytes], bool]
) -> None:
    """All but the special ones are there as they were sent, save what Connection named."""
    named = {
        token.strip(b" \t")
        for value in _values(sent, b"connection")
        for token in value.lower().split(b",")
    } - _LIVED_BY
    assert [pair for pair in arrived if not is_special(pair[0])] == [
        pair for pair in sent if not is_special(pair[0]) and pair[0] not in named
    ]


def _assert_via(sent: Fields, arrived: Fields) -> None:
    *earlier, own = _values(arrived, b"via")
    assert own in (b"1.0 openclaw-sidecar", b"1.1 openclaw-sidecar")
    assert earlier in ([], _values(sent, b"via"))


def _tells_forwarding(name: bytes) -> bool:
    plain = name.replace(b"_", b"-")
    return plain.startswith(b"x-forwarded-") or plain in (b"forwarded", b"x-real-ip")


def _values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for key, value in fields if key == name]
