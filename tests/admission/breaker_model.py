"""What would a breaker be that keeps a diary instead of counters? The model for the state machine.

Deliberately simple and slow: everything is read off what was heard since the last transition. It
shares no code with the breaker but the names of things.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sidecar.admission.answers import Blocked, BreakerState, Pass, TransitionReason
from sidecar.admission.config import BreakerConfig, BreakerMode
from sidecar.admission.outcome import Condition, Outcome, Report, Verdict
from tests.admission.driver import (
    BAD_REQUEST,
    BUSY,
    FAILED,
    LEFT_MID_STREAM,
    LEFT_WITH_NOTHING,
    LOADING,
    NOBODY_LISTENS,
    OK,
    RESTARTING,
)

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN

# What each of these means, as the documentation has it; two depend on more than themselves.
VERDICTS = {
    OK: Verdict.SUCCESS,
    FAILED: Verdict.FAILURE,
    BUSY: Verdict.OVERLOAD,
    BAD_REQUEST: Verdict.NEUTRAL,
    LEFT_MID_STREAM: Verdict.ANSWERED,
    LEFT_WITH_NOTHING: Verdict.NEUTRAL,  # slow, when it had waited for long
    LOADING: Verdict.NEUTRAL,
    RESTARTING: Verdict.NEUTRAL,
    NOBODY_LISTENS: Verdict.FAILURE,  # neutral, when a restart was announced
}
_CONDITIONS = {LOADING: (Condition.WARMING, 60.0), RESTARTING: (Condition.RESTARTING, 30.0)}
_BAD_CALLS = (Verdict.FAILURE, Verdict.OVERLOAD)
_GOOD = (Verdict.SUCCESS, Verdict.ANSWERED)


@dataclass(eq=False)
class Sent:
    """One request that was let through."""

    passed: Pass
    era: int  # how many transitions there had been when it was let through
    granted_s: float
    deadline_s: float
    heard: bool = False  # a probe's success, before its end


@dataclass(frozen=True)
class Entry:
    """A result in the diary."""

    at_s: float
    verdict: Verdict
    report: Report
    in_window: bool
    slow: bool


@dataclass(frozen=True)
class Word:
    """What a backend said of itself until when, or (None) that it served a request of `since_s`."""

    condition: Condition | None
    since_s: float
    until_s: float = 0.0


@dataclass
class Model:
    """The breaker as its documentation tells it: a history, and what follows from it."""

    config: BreakerConfig
    mode: BreakerMode
    random: float
    state: BreakerState = CLOSED
    era: int = 0
    since_s: float = 0.0
    open_until_s: float = 0.0
    held_until_s: float = 0.0
    recovered_s: float | None = None
    tripped_by: str = ""
    diary: list[Entry] = field(default_factory=list)  # since it closed, until it opens
    successes: int = 0  # of probes, while half-open
    probes: list[Sent] = field(default_factory=list)  # undecided, of this era
    words: list[Word] = field(default_factory=list)
    named: list[float] = field(default_factory=list)  # moments that the backend asked to wait for
    late: int = 0
    would_refuse: int = 0
    steps: list[tuple[BreakerState, TransitionReason]] = field(default_factory=list)

    # -- transitions ----------------------------------------------------------------------

    def enter(self, state: BreakerState, reason: TransitionReason, now_s: float) -> None:
        self.state, self.era, self.since_s = state, self.era + 1, now_s
        self.steps.append((state, reason))
        self.successes, self.probes, self.recovered_s = 0, [], None
        if state is OPEN:
            self.tripped_by = reason.value
            self.open_until_s = max([now_s + self.open_s(), *self.named])
        elif state is CLOSED:
            self.start_anew()
            self.recovered_s = now_s if reason is TransitionReason.PROBE_SUCCEEDED else None

    def start_anew(self) -> None:
        self.diary, self.named, self.tripped_by = [], [], ""
        self.held_until_s, self.recovered_s = 0.0, None

    def open_s(self) -> float:
        """How long this opening lasts by itself: the n-th in a row without a recovery."""
        config, again = self.config, 0
        for state, _ in reversed(self.steps[:-1]):
            if state is CLOSED:
                break
            again += state is OPEN
        grown_s = config.open_s
        for _ in range(again):
            grown_s = min(grown_s * config.open_backoff, config.open_max_s)
        jitter = 0.2 * self.random if again and config.open_backoff > 1 else 0.0
        return max(config.open_s, grown_s * (1 - jitter))

    def tick(self, now_s: float) -> None:
        if self.state is OPEN and now_s >= self.open_until_s:
            self.enter(HALF_OPEN, TransitionReason.OPEN_TIME_OVER, now_s)
        elif self.state is HALF_OPEN and any(now_s >= sent.deadline_s for sent in self.probes):
            self.enter(OPEN, TransitionReason.PROBE_TIMEOUT, now_s)

    # -- what follows from the history ----------------------------------------------------

    @property
    def failures(self) -> int:
        return self.row_until(len(self.diary))

    def row_until(self, end: int) -> int:
        """Failures in a row among the first `end` entries; each logical request once."""
        row = 0
        names: set[str] = set()
        for entry in self.diary[:end]:
            if entry.verdict is Verdict.SUCCESS:
                row = 0
                names.clear()
            elif entry.verdict is Verdict.FAILURE:
                name = entry.report.attempt_of
                row += not (name and entry.report.is_retry and name in names)
                names.add(name)
        return row

    def window(self, now_s: float) -> tuple[int, int, int]:
        """Calls, failures, slow ones."""
        inside = [
            entry
            for entry in self.diary
            if entry.in_window and now_s - entry.at_s < self.config.window_s
        ]
        failures = [entry for entry in inside if entry.verdict in _BAD_CALLS]
        return len(inside), len(failures), sum(entry.slow for entry in inside)

    def condition(self, now_s: float) -> Condition:
        told = Word(Condition.NORMAL, 0.0)
        for word in self.words:
            if word.condition is not None:
                told = word
            elif word.since_s >= told.since_s:
                told = Word(Condition.NORMAL, 0.0)
        assert told.condition is not None
        return told.condition if now_s < told.until_s else Condition.NORMAL

    def objection(self, now_s: float) -> Blocked | None:
        """Why the state alone would refuse a newcomer."""
        if self.state is OPEN:
            return Blocked(probing=False, remaining_s=self.open_until_s - now_s)
        if self.state is CLOSED:
            return None
        if len(self.probes) >= self.config.probes:
            first_s = min(sent.deadline_s for sent in self.probes) - now_s
            return Blocked(probing=True, remaining_s=min(5.0, first_s))
        if now_s < self.held_until_s:
            return Blocked(probing=True, remaining_s=self.held_until_s - now_s, held=True)
        return None

    def limit(self, full: int, now_s: float) -> int:
        """One slot at a recovery, and one more each `ramp_s / (full - 1)`."""
        since_s, ramp_s = self.recovered_s, self.config.ramp_s
        if since_s is None or self.mode is not BreakerMode.ENFORCE:
            return full
        return 1 + sum(now_s >= since_s + ramp_s * step / (full - 1) for step in range(1, full))

    # -- hearing --------------------------------------------------------------------------

    def hear(self, sent: Sent, outcome: Outcome, report: Report, now_s: float) -> None:
        self.tick(now_s)
        current = sent.era == self.era
        self.late += not current
        listens = self.mode is not BreakerMode.DISABLED if current else self.state is OPEN
        if listens and report.retry_after_s is not None and not sent.passed.observed:
            self.named.append(now_s + min(300.0, report.retry_after_s))
            if self.state is OPEN:
                self.open_until_s = max(self.open_until_s, self.named[-1])
        if current and listens:
            verdict = self.verdict(sent, outcome, now_s)
            self.note_words(sent, outcome, now_s)
            if sent.passed.probe:
                self.decide(sent, verdict, now_s)
            elif self.state is CLOSED:
                self.note(verdict, report, now_s)

    def verdict(self, sent: Sent, outcome: Outcome, now_s: float) -> Verdict:
        slow_call_s = self.config.slow_call_s
        if outcome is NOBODY_LISTENS and self.condition(now_s) is Condition.RESTARTING:
            return Verdict.NEUTRAL
        if outcome is LEFT_WITH_NOTHING and slow_call_s and now_s - sent.granted_s > slow_call_s:
            return Verdict.SLOW
        return VERDICTS[outcome]

    def note_words(self, sent: Sent, outcome: Outcome, now_s: float) -> None:
        if outcome in _CONDITIONS:
            condition, lasts_s = _CONDITIONS[outcome]
            self.words.append(Word(condition, now_s, now_s + lasts_s))
        elif VERDICTS[outcome] in _GOOD:
            self.words.append(Word(None, sent.granted_s))

    def note(self, verdict: Verdict, report: Report, now_s: float) -> None:
        """A result while closed; it may be the last straw."""
        config, slow_call_s = self.config, self.config.slow_call_s
        late = slow_call_s is not None and (report.first_event_s or 0) > slow_call_s
        looked_at = config.failure_ratio is not None or config.slow_ratio is not None
        entry = Entry(
            now_s,
            verdict,
            report,
            in_window=looked_at and verdict is not Verdict.NEUTRAL,
            slow=verdict is Verdict.SLOW or late,
        )
        self.diary.append(entry)
        if verdict is Verdict.SUCCESS:
            self.named = []
        reason = self.straw(entry, now_s)
        if reason is not None:
            self.enter(OPEN, reason, now_s)

    def straw(self, entry: Entry, now_s: float) -> TransitionReason | None:
        config = self.config
        one_more = self.failures > self.row_until(len(self.diary) - 1)
        if one_more and self.failures >= config.failure_threshold:
            return TransitionReason.CONSECUTIVE_FAILURES
        calls, failures, slow = self.window(now_s)
        if not entry.in_window or calls < config.min_calls:
            return None
        bad = entry.verdict in _BAD_CALLS
        if bad and config.failure_ratio is not None and failures / calls >= config.failure_ratio:
            return TransitionReason.FAILURE_RATIO
        if entry.slow and config.slow_ratio is not None and slow / calls >= config.slow_ratio:
            return TransitionReason.SLOW_RATIO
        return None

    def hear_first_event(self, sent: Sent, now_s: float) -> None:
        self.tick(now_s)
        if sent.era != self.era:
            self.late += 1
            return
        self.words.append(Word(None, sent.granted_s))
        self.decide(sent, Verdict.SUCCESS, now_s)

    def decide(self, sent: Sent, verdict: Verdict, now_s: float) -> None:
        """A probe's result."""
        self.forget(sent)
        if verdict in _GOOD:
            self.successes += 1
            if self.successes >= self.config.probe_successes:
                self.enter(CLOSED, TransitionReason.PROBE_SUCCEEDED, now_s)
        elif verdict is not Verdict.NEUTRAL:
            self.enter(OPEN, TransitionReason.PROBE_FAILED, now_s)

    def forget(self, sent: Sent) -> None:
        self.probes = [other for other in self.probes if other is not sent]

    # -- operators ------------------------------------------------------------------------

    def reset(self, now_s: float) -> None:
        self.words = []
        if self.state is CLOSED:
            self.start_anew()
        else:
            self.enter(CLOSED, TransitionReason.OPERATOR, now_s)

    def set_mode(self, mode: BreakerMode, now_s: float) -> None:
        if mode is not self.mode:
            self.mode = mode
            if mode in (BreakerMode.ENFORCE, BreakerMode.DISABLED):
                self.reset(now_s)
