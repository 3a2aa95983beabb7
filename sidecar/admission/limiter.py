"""How many are in flight, and who is next? Slots, and the queue in front of them.

First come, first served, no overtaking: a newcomer takes a free slot only when nobody waits, and
a freed slot goes to whoever waits longest. Lowering the limit revokes nothing; raising it wakes
as many at once (after trio's CapacityLimiter).
"""

from __future__ import annotations

from collections import OrderedDict

from sidecar.admission.answers import Ticket

# Weight of the newest slot time in the running mean: the last ten or so decide (a guess).
_MEAN_WEIGHT = 0.2

# Until a first exchange has ended nothing is known of slot times: a middling LLM answer (a guess).
_FIRST_SLOT_S = 5.0


class Limiter:
    """Slots and the queue for one class of routes."""

    def __init__(self, limit: int, max_waiting: int) -> None:
        self.limit = limit
        self.max_waiting = max_waiting
        self.in_flight = 0
        self.mean_slot_s = _FIRST_SLOT_S
        self._given_back = 0
        self._waiting: OrderedDict[int, Ticket] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return len(self._waiting)

    @property
    def tickets(self) -> list[Ticket]:
        """Who waits, longest first."""
        return list(self._waiting.values())

    @property
    def oldest(self) -> Ticket | None:
        """Who has waited longest."""
        return next(iter(self._waiting.values()), None)

    @property
    def has_room(self) -> bool:
        """Whether a newcomer could get a slot or a place in the queue."""
        return self.has_slot or self.waiting < self.max_waiting

    @property
    def has_slot(self) -> bool:
        """Whether a newcomer could go at once."""
        return self.in_flight < self.limit and not self._waiting

    @property
    def someone_waits(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def take(self) -> None:
        """Take a slot for a newcomer, who has seen that `has_slot`."""
        self.in_flight += 1

    def enqueue(self, ticket: Ticket) -> bool:
        """Give a newcomer the last place in the queue, if it has one left."""
        if self.waiting >= self.max_waiting:
            return False
        self._waiting[ticket.number] = ticket
        return True

    def give_back(self, held_s: float) -> None:
        """A slot is free again after `held_s` seconds; `next` says whose it is."""
        self.in_flight -= 1
        self._given_back += 1
        # The first observations count fully: the guess must not outlive them.
        weight = max(_MEAN_WEIGHT, 1 / self._given_back)
        self.mean_slot_s += weight * (held_s - self.mean_slot_s)

    def untake(self) -> None:
        """A slot was taken but not used: as if it had never been."""
        self.in_flight -= 1

    def next(self) -> Ticket | None:
        """Hand a free slot to whoever waits longest; None when there is none of either."""
        if self.in_flight >= self.limit or not self._waiting:
            return None
        self.in_flight += 1
        return self._waiting.popitem(last=False)[1]

    def remove(self, ticket: Ticket) -> None:
        """Take a ticket out of the queue, wherever it stands."""
        del self._waiting[ticket.number]

    def wait_estimate_s(self) -> float:
        """How long someone who came now would wait: (ahead + 1) x mean slot time / limit."""
        return (self.waiting + 1) * self.mean_slot_s / max(1, self.limit)
