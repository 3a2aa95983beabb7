"""In which condition is the backend, by its own words? Loading its model, restarting, or neither.

Neither is a failure. It is told by the answers to requests, and over with the next success of a
request sent after that, or some time later.
"""

from __future__ import annotations

from sidecar.admission.outcome import Condition, Outcome, OutcomeLabel, Verdict

_LASTS_S = {
    # OpenClaw refuses connections for 8 to 30 s between its last answer and its next (measured).
    Condition.RESTARTING: 30.0,
    # When nobody has asked for a minute, nobody knows (a guess).
    Condition.WARMING: 60.0,
}

_IT_SERVES = frozenset({Verdict.SUCCESS, Verdict.ANSWERED})


class BackendCondition:
    """What the backend last said of itself, and when."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what it said."""
        self._condition = Condition.NORMAL
        self._told_s = 0.0
        self._until_s = 0.0

    def hear(self, outcome: Outcome, granted_s: float, now_s: float) -> None:
        """Hear how an exchange went that had its slot since `granted_s`."""
        if outcome.condition is not Condition.NORMAL:
            self._condition = outcome.condition
            self._told_s = now_s
            self._until_s = now_s + _LASTS_S[outcome.condition]
        elif outcome.verdict in _IT_SERVES:
            self.hear_success(granted_s)

    def hear_success(self, granted_s: float) -> None:
        """It serves. A backend that restarts ends what it had begun: that is no proof."""
        if granted_s >= self._told_s:
            self._condition = Condition.NORMAL

    @property
    def is_normal(self) -> bool:
        """Whether it has said nothing that a success has not ended."""
        return self._condition is Condition.NORMAL

    def now(self, now_s: float) -> Condition:
        """In which condition the backend is."""
        return self._condition if now_s < self._until_s else Condition.NORMAL

    def excuses(self, outcome: Outcome, now_s: float) -> bool:
        """Whether it had said that it would do this: nobody listens while it restarts."""
        return (
            outcome.label is OutcomeLabel.CONNECT_FAILED and self.now(now_s) is Condition.RESTARTING
        )
