"""Who gets in, who must go for it, and who counts as one?"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sidecar.proxy.config import Limits
from sidecar.proxy.door import Door, address_group
from sidecar.proxy.refusals import ProxyReason


@dataclass
class Guest:
    """A connection that waits for a request."""

    door: Door
    group: str
    deadline_s: float
    proven: bool = False
    gone: str = ""

    def give_way(self, limit: str) -> None:
        self.gone = limit
        self.door.leave(self.group)


class House:
    """A door with its guests, and a clock."""

    def __init__(self, **limits: int) -> None:
        self.now_s = 0.0
        self.door = Door(Limits(**limits), lambda: self.now_s)
        self.door.waiting.append(self._waiting)
        self.guests: list[Guest] = []
        self.asked = 0

    def _waiting(self) -> list[Guest]:
        self.asked += 1
        return [guest for guest in self.guests if not guest.gone]

    def waits(self, group: str, deadline_s: float, *, proven: bool = False) -> Guest:
        assert self.door.enter(group) is None
        guest = Guest(self.door, group, deadline_s, proven)
        self.guests.append(guest)
        return guest

    def works(self, group: str, count: int = 1) -> None:
        for _ in range(count):
            assert self.door.enter(group) is None

    @property
    def gone(self) -> list[Guest]:
        return [guest for guest in self.guests if guest.gone]


def test_up_to_the_limit_everybody_gets_in() -> None:
    """One more is refused while all are at work, and let in when one has left."""
    house = House(max_connections=3)
    house.works("a", 3)
    refusal = house.door.enter("b")
    assert refusal is not None
    assert refusal.reason is ProxyReason.TOO_MANY_CONNECTIONS
    assert refusal.message == "3 connections are open (limits.max_connections)"
    house.door.leave("a")
    assert house.door.enter("b") is None


def test_one_address_has_a_limit_of_its_own() -> None:
    """Over it one more is refused; others get in, and so do unix sockets, which have no address."""
    house = House(max_connections_per_address=2)
    house.works("a", 2)
    refusal = house.door.enter("a")
    assert refusal is not None
    assert refusal.message == ("2 connections are open from a (limits.max_connections_per_address)")
    house.works("b", 2)
    house.works("", 10)
    house.door.leave("a")
    house.works("a")


def test_a_newcomer_takes_the_place_of_whoever_waits() -> None:
    """Who brought a request before stays longest; else who would be closed first goes first."""
    house = House(max_connections=4)
    served = house.waits("a", 1.0, proven=True)
    late, early, middle = (house.waits("a", deadline_s) for deadline_s in (9.0, 3.0, 5.0))
    order = []
    for _ in range(4):
        house.works("b")
        order.append(next(guest for guest in house.gone if guest not in order))
    assert order == [early, middle, late, served]
    assert early.gone == "limits.max_connections"
    assert house.door.enter("b") is not None


def test_an_address_makes_room_for_itself() -> None:
    """At its own limit the connections of others stay, however long they have waited."""
    house = House(max_connections_per_address=2)
    other = house.waits("b", 1.0)
    own = house.waits("a", 2.0)
    house.works("a", 2)
    assert own.gone == "limits.max_connections_per_address"
    assert not other.gone


def test_room_is_made_for_several_at_once() -> None:
    """So that not all connections are looked at for each newcomer of a storm."""
    house = House(max_connections=320)
    for number in range(320):
        house.waits("a", float(number))
    house.works("b", 21)
    assert house.asked == 1
    assert len(house.gone) == 21
    house.works("b")
    assert house.asked == 2


def test_where_nobody_waits_it_is_not_looked_again_for_a_moment() -> None:
    """A storm at a full door costs little: newcomers are refused without a search."""
    house = House(max_connections=1)
    house.works("a")
    for _ in range(1000):
        assert house.door.enter("b") is not None
    assert house.asked == 1
    house.now_s += 0.2
    assert house.door.enter("b") is not None
    assert house.asked == 2


def test_only_some_are_told_at_the_same_time() -> None:
    """Those who are turned away take no more open files than that."""
    house = House(max_connections=1000)
    assert [house.door.begin_telling() for _ in range(65)] == [True] * 64 + [False]
    house.door.end_telling()
    assert house.door.begin_telling()
    small = House(max_connections=8)
    assert [small.door.begin_telling() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("address", "bits", "group"),
    [
        ("192.0.2.1", 64, "192.0.2.1"),
        ("::ffff:192.0.2.1", 64, "192.0.2.1"),
        ("::FFFF:C000:201", 64, "192.0.2.1"),
        ("::ffff:192.0.2.1", 128, "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", 64, "2001:db8:1:3::/64"),
        ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6"),
        ("2001:db8:1:2:3:4:5:6", 48, "2001:db8:1::/48"),
        ("::1", 64, "::/64"),
        ("fe80::1%eth0", 64, "fe80::/64"),
        ("fe80::1%eth0", 128, "fe80::1"),
        ("", 64, ""),
    ],
)
def test_who_counts_as_one(address: str, bits: int, group: str) -> None:
    """An IPv4 address in either spelling is one; of IPv6 so much of it as is set."""
    assert address_group(address, bits) == group
    assert Door(Limits(ipv6_prefix_bits=bits)).group_of(address) == group
