"""Who finds out whether the backend is back? The places of probes while half-open."""

from __future__ import annotations

from sidecar.admission.answers import Blocked

# A running probe is decided within seconds where the backend is well. Telling the others to
# come back only after the whole `probe_s` would keep them away long after recovery (a guess).
_PROBE_RETRY_S = 5.0

# Whoever holds probes back says so anew at least this often; nobody can forget them for ever.
_HOLD_MAX_S = 300.0


class Probes:
    """Undecided probes, each with a deadline, and whether more may be sent now."""

    def __init__(self) -> None:
        self._admitted = 0
        self._deadlines: dict[int, float] = {}  # by probe number
        self._held_until_s = 0.0

    def take(self, deadline_s: float) -> int:
        """Take a place; returns the probe's number, which is never 0."""
        self._admitted += 1
        self._deadlines[self._admitted] = deadline_s
        return self._admitted

    def free(self, number: int) -> None:
        """The probe is decided, or will never be sent: its place is free again."""
        self._deadlines.pop(number, None)

    def clear(self) -> None:
        """The circuit has changed its state: whatever these probes say is late."""
        self._deadlines.clear()

    @property
    def in_flight(self) -> int:
        """How many are undecided."""
        return len(self._deadlines)

    def overdue(self, now_s: float) -> bool:
        """Whether one should have been decided by now."""
        return bool(self._deadlines) and now_s >= min(self._deadlines.values())

    def hold(self, now_s: float, until_s: float) -> None:
        """Send none before `until_s`; a later call may say earlier."""
        self._held_until_s = min(until_s, now_s + _HOLD_MAX_S)

    def release(self) -> None:
        """No more probes are needed, so none is held back."""
        self._held_until_s = 0.0

    def held_s(self, now_s: float) -> float:
        """For how long none is sent."""
        return max(0.0, self._held_until_s - now_s)

    def blocked(self, now_s: float, places: int) -> Blocked | None:
        """Why no further probe may be sent, if so."""
        if len(self._deadlines) >= places:
            remaining_s = max(0.0, min(self._deadlines.values()) - now_s)
            return Blocked(probing=True, remaining_s=min(remaining_s, _PROBE_RETRY_S))
        held_s = self.held_s(now_s)
        return Blocked(probing=True, remaining_s=held_s, held=True) if held_s else None
