"""Is there reason to open a closed circuit? Failures in a row, and shares of a trailing window."""

from __future__ import annotations

from typing import NamedTuple

from sidecar.admission.answers import TransitionReason
from sidecar.admission.config import BreakerConfig
from sidecar.admission.outcome import OutcomeLabel, Report, Verdict
from sidecar.admission.window import Window, WindowCounts

_FAILED_CALLS = frozenset({Verdict.FAILURE, Verdict.OVERLOAD})


class Trip(NamedTuple):
    """Why the circuit opens: by which rule, and what the last straw was."""

    reason: TransitionReason
    detail: str


class Evidence:
    """What was heard of the backend since the circuit closed."""

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self._in_row: set[int] = set()  # the logical requests that these were attempts at
        self._window = Window()

    def clear(self) -> None:
        """Start anew."""
        self._start_row_anew()
        self._window.clear()

    def _start_row_anew(self) -> None:
        self.failures = 0
        self._in_row.clear()

    def counts(self, now_s: float, config: BreakerConfig) -> WindowCounts:
        """What lies in the window; nothing where no ratio is configured."""
        return self._window.counts(now_s, config.window_s)

    def hear(
        self,
        verdict: Verdict,
        label: OutcomeLabel,
        report: Report,
        now_s: float,
        config: BreakerConfig,
    ) -> Trip | None:
        """Take one result down; says whether, and why, the circuit opens by it."""
        if verdict is Verdict.NEUTRAL:
            return None
        trip = None
        if config.looks_at_ratios:
            trip = self._count_call(verdict, label, report, now_s, config)
        if verdict is Verdict.SUCCESS:
            self._start_row_anew()
        elif verdict is Verdict.FAILURE and self._lengthens_row(report):
            self.failures += 1
            if self.failures >= config.failure_threshold:
                return Trip(TransitionReason.CONSECUTIVE_FAILURES, label.value)
        return trip

    def _lengthens_row(self, report: Report) -> bool:
        """Whether a failure is one more in a row. SDKs repeat what failed; that says no more.

        Only what is in the row is remembered, so never more than `failure_threshold` requests;
        and of each only a hash, because a client chooses how long its name is.
        """
        if not report.attempt_of:
            return True
        name = hash(report.attempt_of)
        if report.is_retry and name in self._in_row:
            return False
        self._in_row.add(name)
        return True

    def _count_call(
        self,
        verdict: Verdict,
        label: OutcomeLabel,
        report: Report,
        now_s: float,
        config: BreakerConfig,
    ) -> Trip | None:
        """Count a call in the window. Only one that is bad itself opens: a success never does."""
        failed = verdict in _FAILED_CALLS
        slow = verdict is Verdict.SLOW or _came_late(report, config)
        calls, failures, slow_calls = self._window.add(
            now_s, config.window_s, failed=failed, slow=slow
        )
        if calls < config.min_calls:
            return None
        # Quotients, not products: 3 / 30 is 0.1, and 0.1 * 3 is not 0.3.
        if failed and config.failure_ratio is not None and failures / calls >= config.failure_ratio:
            detail = f"{failures} of {calls} calls failed, the last with {label.value}"
            return Trip(TransitionReason.FAILURE_RATIO, detail)
        if slow and config.slow_ratio is not None and slow_calls / calls >= config.slow_ratio:
            detail = f"{slow_calls} of {calls} calls were slow, the last ended with {label.value}"
            return Trip(TransitionReason.SLOW_RATIO, detail)
        return None


def _came_late(report: Report, config: BreakerConfig) -> bool:
    first_event_s, slow_call_s = report.first_event_s, config.slow_call_s
    return first_event_s is not None and slow_call_s is not None and first_event_s > slow_call_s
