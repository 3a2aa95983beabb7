"""Is the backend well enough to be asked? The circuit breaker: closed, open, half-open.

    state      who may pass              leaves by
    ---------  ------------------------  --------------------------------------------------
    closed     everybody                 `failure_threshold` failures in a row       -> open
                                         `failure_ratio` or `slow_ratio` of a window -> open
    open       nobody                    its time (see `open_time`)                  -> half-open
    half-open  `probes` at a time        `probe_successes` probes succeed            -> closed
                                         a probe fails, or outlives `probe_s`        -> open

    verdict    failures in a row         in the window    a probe
    ---------  ------------------------  ---------------  ---------------------------------
    success    start anew                a call           succeeds
    answered   -                         a call           succeeds
    failure    one more                  a failed call    fails
    overload   -                         a failed call    fails
    slow       -                         a slow call      fails
    neutral    -                         -                frees its place for the next request

Each change starts a new *generation*. A result that was admitted under another generation is
late: it changes nothing and is counted, so that answers from before an outage can neither close
nor re-open the circuit after it. All times are monotonic seconds, given by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.admission.answers import (
    Blocked,
    BreakerState,
    Pass,
    Transition,
    TransitionReason,
)
from sidecar.admission.condition import BackendCondition
from sidecar.admission.config import BreakerConfig, BreakerMode
from sidecar.admission.evidence import Evidence
from sidecar.admission.open_time import OpenTime
from sidecar.admission.outcome import (
    NO_REPORT,
    Condition,
    Outcome,
    OutcomeLabel,
    Report,
    Verdict,
)
from sidecar.admission.probes import Probes
from sidecar.admission.ramp import Ramp

_PROBE_SUCCEEDS = frozenset({Verdict.SUCCESS, Verdict.ANSWERED})
_PROBE_FAILS = frozenset({Verdict.FAILURE, Verdict.OVERLOAD, Verdict.SLOW})


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """What there is to know about a breaker at one moment.

    `failure_count` is in a row; `window_*` lie in the trailing window, and are 0 where no ratio is
    configured. `tripped_by` is the kind of transition that opened it, `trip_reason` the last straw.
    `probe_hold_s` is for how long no probe is sent, because the backend says that it is not ready.
    """

    state: BreakerState
    mode: BreakerMode
    generation: int
    failure_count: int
    failure_threshold: int
    open_remaining_s: float
    open_for_s: float
    trip_reason: str
    probes_in_flight: int
    late_results: int
    would_refuse: int
    tripped_by: str = ""
    condition: Condition = Condition.NORMAL
    window_calls: int = 0
    window_failures: int = 0
    window_slow: int = 0
    probe_hold_s: float = 0.0


class Breaker:
    """One circuit breaker. Synchronous: every call is atomic between two awaits."""

    def __init__(
        self,
        config: BreakerConfig,
        on_transition: Callable[[Transition], None],
        guard: str,
        random: Callable[[], float],
    ) -> None:
        """`random` returns floats in [0, 1) and is used for jitter only."""
        self._config = config
        self._guard = guard
        self._on_transition = on_transition
        self._mode = config.mode
        self._state = BreakerState.CLOSED
        self.generation = 0
        self._ordinary = Pass(0)  # one for all ordinary requests of this generation
        self._evidence = Evidence()  # while closed; then what opened it
        self._condition = BackendCondition()
        self._open_time = OpenTime(random)
        self._probes = Probes()
        self._ramp = Ramp()
        self._successes = 0  # of probes, while half-open
        self._entered_s = 0.0
        self._open_until_s = 0.0
        self._tripped_by = ""
        self._trip_reason = ""
        # Closed, and nothing is remembered that a success could change: see `record`.
        self._at_rest = False
        self.late_results = 0
        self.would_refuse = 0  # requests that `observe` let pass and `enforce` would not have

    # -- asking ---------------------------------------------------------------------------

    def blocks(self, now_s: float) -> Blocked | None:
        """Say whether a request would be refused now, without admitting anything."""
        self.advance(now_s)
        if self._mode is BreakerMode.FORCED_OPEN:
            return Blocked(probing=False, remaining_s=self._config.open_s)
        if self._mode is not BreakerMode.ENFORCE:
            return None
        return self._would_block(now_s)

    def admit(self, now_s: float) -> Pass | Blocked:
        """Let one request through or say why not. A probe's place is taken at once."""
        if self._state is BreakerState.CLOSED and self._mode is not BreakerMode.FORCED_OPEN:
            return self._ordinary  # nearly always; time changes nothing about a closed circuit
        return self._admit(now_s, counted=False)

    def readmit(self, passed: Pass, now_s: float) -> Pass | Blocked:
        """Ask again for a request that waited: what let it through may be over."""
        self.advance(now_s)
        if passed.generation == self.generation:
            return passed
        return self._admit(now_s, counted=passed.observed)

    def give_up(self, passed: Pass) -> None:
        """A request that was let through will not be sent: a probe's place is free again.

        That is no result: nothing is counted, and nothing else changes.
        """
        self._probes.free(passed.probe)

    def _admit(self, now_s: float, *, counted: bool) -> Pass | Blocked:
        blocked = self.blocks(now_s)
        if blocked is not None:
            return blocked
        if self._mode is BreakerMode.OBSERVE and self._would_block(now_s) is not None:
            self.would_refuse += not counted
            return Pass(self.generation, observed=True)
        if self._state is not BreakerState.HALF_OPEN:
            return self._ordinary
        return Pass(self.generation, self._probes.take(now_s + self._config.probe_s))

    def _would_block(self, now_s: float) -> Blocked | None:
        if self._state is BreakerState.OPEN:
            return Blocked(probing=False, remaining_s=self._open_until_s - now_s)
        if self._state is BreakerState.HALF_OPEN:
            return self._probes.blocked(now_s, self._config.probes)
        return None

    # -- hearing --------------------------------------------------------------------------

    def record(
        self,
        passed: Pass,
        outcome: Outcome,
        now_s: float,
        granted_s: float,
        report: Report = NO_REPORT,
    ) -> None:
        """Hear how one request went that had its slot since `granted_s`."""
        if (
            self._at_rest
            and outcome.verdict is Verdict.SUCCESS
            and passed.generation == self.generation
        ):
            return  # nearly always: all is well, and so it was before
        self._at_rest = False
        if self._state is not BreakerState.CLOSED:
            self.advance(now_s)
        if passed.generation != self.generation:
            self._record_late(passed, report, now_s)
            return
        if self._mode is BreakerMode.DISABLED:
            return
        verdict = self._verdict(outcome, now_s, granted_s)
        self._condition.hear(outcome, granted_s, now_s)
        if report.retry_after_s is not None and not passed.observed:
            self._open_time.hear_retry_after(report.retry_after_s, now_s)
        if passed.probe:
            self._record_probe(passed.probe, verdict, now_s, outcome.label.value)
        elif self._state is BreakerState.CLOSED:
            self._record_closed(verdict, outcome.label, report, now_s)

    def first_event(self, passed: Pass, now_s: float, granted_s: float) -> None:
        """A probe's first data event arrived: a success. Recovery need not wait for the end."""
        self.advance(now_s)
        if passed.generation != self.generation:
            self.late_results += 1
            return
        self._condition.hear_success(granted_s)
        self._record_probe(passed.probe, Verdict.SUCCESS, now_s, "first event")

    def _verdict(self, outcome: Outcome, now_s: float, granted_s: float) -> Verdict:
        """What an outcome says, now that its time and the backend's condition are known."""
        if self._condition.excuses(outcome, now_s):
            return Verdict.NEUTRAL
        slow_call_s = self._config.slow_call_s
        if (
            slow_call_s is not None
            and outcome.verdict is Verdict.NEUTRAL
            and outcome.label is OutcomeLabel.CLIENT_GONE
            and now_s - granted_s > slow_call_s
        ):
            return Verdict.SLOW  # it left with nothing, and had been patient
        return outcome.verdict

    def _record_closed(
        self, verdict: Verdict, label: OutcomeLabel, report: Report, now_s: float
    ) -> None:
        if verdict is Verdict.SUCCESS:
            self._open_time.forget_retry_after()
            self._at_rest = not self._config.looks_at_ratios and self._condition.is_normal
        trip = self._evidence.hear(verdict, label, report, now_s, self._config)
        if trip is not None:
            self._enter(BreakerState.OPEN, now_s, trip.reason, trip.detail)

    def _record_probe(self, probe: int, verdict: Verdict, now_s: float, detail: str) -> None:
        # Free already where the probe succeeded at its first event and ends only now.
        self._probes.free(probe)
        if verdict in _PROBE_SUCCEEDS:
            self._successes += 1
            if self._successes >= self._config.probe_successes:
                self._enter(BreakerState.CLOSED, now_s, TransitionReason.PROBE_SUCCEEDED, detail)
        elif verdict in _PROBE_FAILS:
            self._enter(BreakerState.OPEN, now_s, TransitionReason.PROBE_FAILED, detail)
        # Neutral: its place is free again and the next request probes.

    def _record_late(self, passed: Pass, report: Report, now_s: float) -> None:
        """A late result says nothing of now; when the backend wants to be asked again, does.

        Requests that only `observe` let through do not prolong what would not have met them.
        """
        self.late_results += 1
        is_open = self._state is BreakerState.OPEN
        if is_open and report.retry_after_s is not None and not passed.observed:
            not_before_s = self._open_time.hear_retry_after(report.retry_after_s, now_s)
            self._open_until_s = max(self._open_until_s, not_before_s)

    # -- probes, and the ramp behind them -------------------------------------------------

    def wants_probe(self, now_s: float) -> bool:
        """Whether the next request would be a probe."""
        self.advance(now_s)
        is_half_open = self._state is BreakerState.HALF_OPEN
        forced = self._mode is BreakerMode.FORCED_OPEN
        return is_half_open and not forced and self._would_block(now_s) is None

    def hold_probes(self, now_s: float, until_s: float) -> None:
        """Send no probe before `until_s`, at most 5 minutes from now: the backend is not ready.

        A later call may name an earlier moment. The state, and running probes, stay as they are.
        """
        self._probes.hold(now_s, until_s)

    def limit(self, full: int, now_s: float) -> int:
        """How many of `full` slots may be used now: fewer for `ramp_s` after a recovery."""
        if self._mode is not BreakerMode.ENFORCE:
            return full
        return self._ramp.limit(now_s, self._config.ramp_s, full)

    def limit_rises_s(self, full: int, now_s: float) -> float | None:
        """When `limit` will be one more; None when it is `full`."""
        if self._mode is not BreakerMode.ENFORCE:
            return None
        return self._ramp.rises_s(now_s, self._config.ramp_s, full)

    # -- time and operators ---------------------------------------------------------------

    def advance(self, now_s: float) -> None:
        """Do what time alone does: open -> half-open, and a probe that never ends -> open."""
        if self._state is BreakerState.OPEN and now_s >= self._open_until_s:
            self._enter(BreakerState.HALF_OPEN, now_s, TransitionReason.OPEN_TIME_OVER)
        elif self._state is BreakerState.HALF_OPEN and self._probes.overdue(now_s):
            self._enter(BreakerState.OPEN, now_s, TransitionReason.PROBE_TIMEOUT)

    def set_mode(self, mode: BreakerMode, now_s: float) -> None:
        """Obey an operator. `enforce` after anything else starts from a closed circuit."""
        if mode is self._mode:
            return
        self._mode = mode
        if mode in (BreakerMode.ENFORCE, BreakerMode.DISABLED):
            self.reset(now_s)

    def reset(self, now_s: float) -> None:
        """Close the circuit and forget all that was heard, as an operator asks."""
        self._condition.clear()
        if self._state is BreakerState.CLOSED:
            self._start_anew()
        else:
            self._enter(BreakerState.CLOSED, now_s, TransitionReason.OPERATOR)

    def reconfigure(self, config: BreakerConfig, now_s: float) -> None:
        """Obey new numbers from now on. The state and the running open time stay."""
        self._config = config
        self._at_rest = False
        self.set_mode(config.mode, now_s)

    def _enter(
        self, state: BreakerState, now_s: float, reason: TransitionReason, detail: str = ""
    ) -> None:
        """The only place where the state changes."""
        before, self._state = self._state, state
        failures = self._evidence.failures
        cooldown_s = 0.0
        self.generation += 1
        self._ordinary = Pass(self.generation)
        self._entered_s = now_s
        self._successes = 0
        self._probes.clear()
        self._ramp.end()
        if state is BreakerState.OPEN:
            again = before is BreakerState.HALF_OPEN
            self._open_until_s = self._open_time.open_until_s(self._config, now_s, again=again)
            cooldown_s = self._open_until_s - now_s
            self._tripped_by, self._trip_reason = reason.value, detail or reason.value
        elif state is BreakerState.CLOSED:
            self._start_anew()
            if reason is TransitionReason.PROBE_SUCCEEDED:
                self._ramp.begin(now_s)
        self._on_transition(
            Transition(self._guard, before, state, reason, failures, cooldown_s, detail)
        )

    def _start_anew(self) -> None:
        """Closed, as if it had never been anything else."""
        self._evidence.clear()
        self._open_time.forget_retry_after()
        self._ramp.end()
        self._probes.release()
        self._tripped_by = self._trip_reason = ""

    @property
    def is_open(self) -> bool:
        """True while newcomers are refused for the backend's sake, probes aside."""
        if self._mode is BreakerMode.FORCED_OPEN:
            return True
        return self._mode is BreakerMode.ENFORCE and self._state is BreakerState.OPEN

    def snapshot(self, now_s: float) -> BreakerSnapshot:
        """Look without touching: time alone changes nothing here."""
        is_open = self._state is BreakerState.OPEN
        window = self._evidence.counts(now_s, self._config)
        return BreakerSnapshot(
            state=self._state,
            mode=self._mode,
            generation=self.generation,
            failure_count=self._evidence.failures,
            failure_threshold=self._config.failure_threshold,
            open_remaining_s=max(0.0, self._open_until_s - now_s) if is_open else 0.0,
            open_for_s=now_s - self._entered_s if is_open else 0.0,
            trip_reason=self._trip_reason,
            probes_in_flight=self._probes.in_flight,
            late_results=self.late_results,
            would_refuse=self.would_refuse,
            tripped_by=self._tripped_by,
            condition=self._condition.now(now_s),
            window_calls=window.calls,
            window_failures=window.failures,
            window_slow=window.slow,
            probe_hold_s=self._probes.held_s(now_s),
        )
