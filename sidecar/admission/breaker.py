"""Is the backend well enough to be asked? The circuit breaker: closed, open, half-open.

    state      who may pass              leaves by
    ---------  ------------------------  --------------------------------------------------
    closed     everybody                 `failure_threshold` failures in a row       -> open
    open       nobody                    `open_s` seconds                            -> half-open
    half-open  `probes` at a time        `probe_successes` probes succeed            -> closed
                                         a probe fails, or outlives `probe_s`        -> open

Each change starts a new *generation*. A result that was admitted under another generation is
late: it changes nothing and is counted, so that answers from before an outage can neither close
nor re-open the circuit after it. All times are monotonic seconds, given by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.admission.answers import BreakerState, Pass, Transition, TransitionReason
from sidecar.admission.config import BreakerConfig, BreakerMode
from sidecar.admission.outcome import Verdict

# A running probe is decided within seconds where the backend is well. Telling the others to
# come back only after the whole `probe_s` would keep them away long after recovery (a guess).
_PROBE_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Blocked:
    """The breaker lets nothing through for now; `remaining_s` until it may."""

    probing: bool
    remaining_s: float


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """What there is to know about a breaker at one moment."""

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


class Breaker:
    """One circuit breaker. Synchronous: every call is atomic between two awaits."""

    def __init__(
        self,
        config: BreakerConfig,
        on_transition: Callable[[Transition], None],
        guard: str = "inference",
    ) -> None:
        self._config = config
        self._guard = guard
        self._on_transition = on_transition
        self._mode = config.mode
        self._state = BreakerState.CLOSED
        self.generation = 0
        self._ordinary = Pass(0)  # one for all ordinary requests of this generation
        self._failures = 0  # in a row, while closed
        self._successes = 0  # of probes, while half-open
        self._entered_s = 0.0
        self._open_until_s = 0.0
        self._probes_admitted = 0
        self._probe_deadlines: dict[int, float] = {}  # by probe number
        self._trip_reason = ""
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
        self._probe_deadlines.pop(passed.probe, None)

    def _admit(self, now_s: float, *, counted: bool) -> Pass | Blocked:
        blocked = self.blocks(now_s)
        if blocked is not None:
            return blocked
        if self._mode is BreakerMode.OBSERVE and self._would_block(now_s) is not None:
            self.would_refuse += not counted
            return Pass(self.generation, observed=True)
        if self._state is not BreakerState.HALF_OPEN:
            return self._ordinary
        self._probes_admitted += 1
        self._probe_deadlines[self._probes_admitted] = now_s + self._config.probe_s
        return Pass(self.generation, self._probes_admitted)

    def _would_block(self, now_s: float) -> Blocked | None:
        if self._state is BreakerState.OPEN:
            return Blocked(probing=False, remaining_s=self._open_until_s - now_s)
        if (
            self._state is BreakerState.HALF_OPEN
            and len(self._probe_deadlines) >= self._config.probes
        ):
            remaining_s = max(0.0, self._first_probe_deadline_s() - now_s)
            return Blocked(probing=True, remaining_s=min(remaining_s, _PROBE_RETRY_S))
        return None

    def _first_probe_deadline_s(self) -> float:
        return min(self._probe_deadlines.values())

    # -- hearing --------------------------------------------------------------------------

    def record(self, passed: Pass, verdict: Verdict, now_s: float, detail: str = "") -> None:
        """Hear how one request went.

        `detail` is kept as the trip reason when this result opens the circuit.
        """
        if self._state is not BreakerState.CLOSED:
            self.advance(now_s)
        if passed.generation != self.generation:
            self.late_results += 1
        elif self._state is BreakerState.HALF_OPEN and passed.probe:
            self._record_probe(passed.probe, verdict, now_s, detail)
        elif self._state is BreakerState.CLOSED and self._mode is not BreakerMode.DISABLED:
            self._record_closed(verdict, now_s, detail)

    def _record_closed(self, verdict: Verdict, now_s: float, detail: str) -> None:
        if verdict is Verdict.SUCCESS:
            self._failures = 0
        elif verdict is Verdict.FAILURE:
            self._failures += 1
            if self._failures >= self._config.failure_threshold:
                self._enter(BreakerState.OPEN, now_s, TransitionReason.CONSECUTIVE_FAILURES, detail)

    def _record_probe(self, probe: int, verdict: Verdict, now_s: float, detail: str) -> None:
        # Gone already where the probe succeeded at its first event and ends only now.
        self._probe_deadlines.pop(probe, None)
        if verdict is Verdict.SUCCESS:
            self._successes += 1
            if self._successes >= self._config.probe_successes:
                self._enter(BreakerState.CLOSED, now_s, TransitionReason.PROBE_SUCCEEDED, detail)
        elif verdict in (Verdict.FAILURE, Verdict.OVERLOAD):
            self._enter(BreakerState.OPEN, now_s, TransitionReason.PROBE_FAILED, detail)
        # Neutral: its place is free again and the next request probes.

    # -- time and operators ---------------------------------------------------------------

    def advance(self, now_s: float) -> None:
        """Do what time alone does: open -> half-open, and a probe that never ends -> open."""
        if self._state is BreakerState.OPEN and now_s >= self._open_until_s:
            self._enter(BreakerState.HALF_OPEN, now_s, TransitionReason.OPEN_TIME_OVER)
        elif (
            self._state is BreakerState.HALF_OPEN
            and self._probe_deadlines
            and now_s >= self._first_probe_deadline_s()
        ):
            self._enter(BreakerState.OPEN, now_s, TransitionReason.PROBE_TIMEOUT)

    def set_mode(self, mode: BreakerMode, now_s: float) -> None:
        """Obey an operator. `enforce` after anything else starts from a closed circuit."""
        if mode is self._mode:
            return
        self._mode = mode
        if mode in (BreakerMode.ENFORCE, BreakerMode.DISABLED):
            self.reset(now_s)

    def reset(self, now_s: float) -> None:
        """Close the circuit and forget all failures, as an operator asks."""
        if self._state is BreakerState.CLOSED:
            self._failures = 0
        else:
            self._enter(BreakerState.CLOSED, now_s, TransitionReason.OPERATOR)

    def reconfigure(self, config: BreakerConfig, now_s: float) -> None:
        """Obey new numbers from now on. The state and the running open time stay."""
        self._config = config
        self.set_mode(config.mode, now_s)

    def _enter(
        self, state: BreakerState, now_s: float, reason: TransitionReason, detail: str = ""
    ) -> None:
        """The only place where the state changes."""
        before, self._state = self._state, state
        failures = self._failures
        self.generation += 1
        self._ordinary = Pass(self.generation)
        self._entered_s = now_s
        self._successes = 0
        self._probe_deadlines.clear()
        if state is BreakerState.OPEN:
            self._open_until_s = now_s + self._config.open_s
            self._trip_reason = str(detail or reason)
        elif state is BreakerState.CLOSED:
            self._failures = 0
            self._trip_reason = ""
        cooldown_s = self._config.open_s if state is BreakerState.OPEN else 0.0
        self._on_transition(
            Transition(self._guard, before, state, reason, failures, cooldown_s, detail)
        )

    @property
    def is_open(self) -> bool:
        """True while newcomers are refused for the backend's sake, probes aside."""
        if self._mode is BreakerMode.FORCED_OPEN:
            return True
        return self._mode is BreakerMode.ENFORCE and self._state is BreakerState.OPEN

    def snapshot(self, now_s: float) -> BreakerSnapshot:
        """Look without touching: time alone changes nothing here."""
        is_open = self._state is BreakerState.OPEN
        return BreakerSnapshot(
            state=self._state,
            mode=self._mode,
            generation=self.generation,
            failure_count=self._failures,
            failure_threshold=self._config.failure_threshold,
            open_remaining_s=max(0.0, self._open_until_s - now_s) if is_open else 0.0,
            open_for_s=now_s - self._entered_s if is_open else 0.0,
            trip_reason=self._trip_reason,
            probes_in_flight=len(self._probe_deadlines),
            late_results=self.late_results,
            would_refuse=self.would_refuse,
        )
