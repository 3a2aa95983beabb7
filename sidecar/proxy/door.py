"""Who may connect, and who must go for it? Counts client connections, overall and by address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network
from time import monotonic
from typing import Protocol

from sidecar.proxy.config import Limits
from sidecar.proxy.refusals import ProxyReason, Refusal

# Where all places are taken, so many of those who wait are closed at once (nginx: an eighth). To
# find them all connections are looked at, which must not be done for each newcomer in a storm.
_MADE_ROOM_SHARE = 16

# Nobody who waits was found: how long not to look again.
_LOOK_AGAIN_S = 0.1

# Who is turned away is told why, and that takes an open file for a moment: as many at once as this,
# or a quarter of the places if that is less. In a storm the others are cut off without a word.
_TOLD_AT_ONCE = 64


class Waiting(Protocol):
    """A connection that nobody would miss much: no request has arrived on it."""

    @property
    def group(self) -> str:
        """Whom it counts for."""

    @property
    def deadline_s(self) -> float:
        """When it would be closed anyhow, in the event loop's time."""

    @property
    def proven(self) -> bool:
        """Whether it has brought a request before."""

    def give_way(self, limit: str) -> None:
        """Close, because of the limit of that name, and leave the door at once."""


class Door:
    """Lets connections in up to the limits, and out again.

    Where a limit is reached, a newcomer takes the place of connections that wait for a request:
    those first that never brought one, and of these those whose time is nearly over. So who only
    connects, or does not end its head, drives out its own kind.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._by_group: Counter[str] = Counter()
        self._count = 0
        self._told = 0
        self._told_at_once = min(_TOLD_AT_ONCE, max(1, limits.max_connections // 4))
        self._look_again_s = 0.0
        self.waiting: list[Callable[[], Iterable[Waiting]]] = []
        """Ask these for the connections that wait."""

    def group_of(self, address: str) -> str:
        """Whom a connection from `address` counts for; "" for unix sockets, which have none."""
        return address_group(address, self._limits.ipv6_prefix_bits)

    def enter(self, group: str) -> Refusal | None:
        """Count one more connection, or say why not."""
        limits = self._limits
        own = self._by_group[group] if group else 0
        if own >= limits.max_connections_per_address:
            limit = "limits.max_connections_per_address"
            if not self._make_room(group, limit):
                return _too_many(f"{own} connections are open from {group} ({limit})")
        if self._count >= limits.max_connections:
            limit = "limits.max_connections"
            if not self._make_room("", limit):
                return _too_many(f"{self._count} connections are open ({limit})")
        if group:
            self._by_group[group] += 1
        self._count += 1
        return None

    def leave(self, group: str) -> None:
        """One that was let in is gone."""
        self._count -= 1
        if group:
            self._by_group[group] -= 1
            if not self._by_group[group]:
                del self._by_group[group]

    def _make_room(self, group: str, limit: str) -> bool:
        """Close some that wait, of this group or ("") of all; returns whether there were any."""
        now_s = self._clock()
        if now_s < self._look_again_s:
            return False
        waiting = [one for ask in self.waiting for one in ask() if not group or one.group == group]
        waiting.sort(key=lambda one: (one.proven, one.deadline_s))
        for one in waiting[: 1 + len(waiting) // _MADE_ROOM_SHARE]:
            one.give_way(limit)
        if not waiting:
            self._look_again_s = now_s + _LOOK_AGAIN_S
        return bool(waiting)

    # -- telling those who are turned away ------------------------------------------------------

    def begin_telling(self) -> bool:
        """Whether one who is turned away may be told why; then `end_telling` must follow."""
        if self._told >= self._told_at_once:
            return False
        self._told += 1
        return True

    def end_telling(self) -> None:
        """One who was told is gone."""
        self._told -= 1


def _too_many(message: str) -> Refusal:
    return Refusal.of(ProxyReason.TOO_MANY_CONNECTIONS, message)


@lru_cache(maxsize=4096)
def address_group(address: str, ipv6_prefix_bits: int) -> str:
    """Whom `address` counts for: an IPv4 address for itself, an IPv6 address for its network.

    Who has IPv6 has a whole /64 at least (RFC 6177), and so 2^64 addresses to come from. An IPv4
    address written as IPv6 (RFC 4291, 2.5.5.2) is the IPv4 address.
    """
    if ":" not in address:
        return address
    ip = IPv6Address(address.partition("%")[0])  # without the zone of a link-local address
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    if ipv6_prefix_bits == 128:
        return str(ip)
    return str(IPv6Network((ip, ipv6_prefix_bits), strict=False))
