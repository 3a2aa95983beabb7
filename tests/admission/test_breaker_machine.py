"""Does the breaker obey its table under any sequence of requests, results, waits and orders?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.admission.answers import BreakerState, Pass, Transition, TransitionReason
from sidecar.admission.breaker import Blocked, Breaker
from sidecar.admission.config import BreakerConfig, BreakerMode
from sidecar.admission.outcome import Verdict

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN

# Whole seconds, so that deadlines are often met to the moment. 10 and 7 are the times below.
STEPS_S = st.sampled_from([0.0, 0.0, 1.0, 3.0, 6.0, 7.0, 10.0])

CONFIGS = st.builds(
    BreakerConfig,
    mode=st.sampled_from(BreakerMode),
    failure_threshold=st.integers(1, 3),
    open_s=st.sampled_from([3.0, 10.0]),
    probes=st.integers(1, 3),
    probe_successes=st.integers(1, 3),
    probe_s=st.sampled_from([1.0, 7.0]),
)

# The table of states, written down a second time: what may follow what, and why.
TABLE = {
    (CLOSED, OPEN, TransitionReason.CONSECUTIVE_FAILURES),
    (OPEN, HALF_OPEN, TransitionReason.OPEN_TIME_OVER),
    (HALF_OPEN, CLOSED, TransitionReason.PROBE_SUCCEEDED),
    (HALF_OPEN, OPEN, TransitionReason.PROBE_FAILED),
    (HALF_OPEN, OPEN, TransitionReason.PROBE_TIMEOUT),
    (OPEN, CLOSED, TransitionReason.OPERATOR),
    (HALF_OPEN, CLOSED, TransitionReason.OPERATOR),
}


@dataclass(eq=False)
class Sent:
    """One request that was let through."""

    passed: Pass
    era: int  # how many transitions there had been when it was let through
    deadline_s: float
    heard: bool = False  # a probe's success, before its end


@dataclass
class Model:
    """The breaker as its documentation tells it: a history, and what follows from it.

    It keeps no counters: what counts is read off what was heard since the last transition.
    """

    config: BreakerConfig
    mode: BreakerMode
    state: BreakerState = CLOSED
    era: int = 0
    since_s: float = 0.0
    open_s: float = 0.0  # of the running open time
    heard: list[Verdict] = field(default_factory=list)  # since the last transition
    probes: list[Sent] = field(default_factory=list)  # undecided, of this era
    failure_count: int = 0  # at the last trip
    late: int = 0
    would_refuse: int = 0
    steps: list[tuple[BreakerState, TransitionReason]] = field(default_factory=list)

    def enter(self, state: BreakerState, reason: TransitionReason, now_s: float) -> None:
        self.failure_count = 0 if state is CLOSED else self.failures
        self.state, self.era, self.since_s = state, self.era + 1, now_s
        self.open_s = self.config.open_s
        self.heard, self.probes = [], []
        self.steps.append((state, reason))

    @property
    def failures(self) -> int:
        if self.state is not CLOSED:
            return self.failure_count
        row = 0
        for verdict in reversed(self.heard):
            if verdict is Verdict.SUCCESS:
                break
            row += verdict is Verdict.FAILURE
        return row

    def tick(self, now_s: float) -> None:
        if self.state is OPEN and now_s - self.since_s >= self.open_s:
            self.enter(HALF_OPEN, TransitionReason.OPEN_TIME_OVER, now_s)
        elif self.state is HALF_OPEN and any(now_s >= sent.deadline_s for sent in self.probes):
            self.enter(OPEN, TransitionReason.PROBE_TIMEOUT, now_s)

    def objects(self) -> bool:
        """Whether the state alone would refuse a newcomer."""
        full = len(self.probes) >= self.config.probes
        return self.state is OPEN or (self.state is HALF_OPEN and full)

    def hear(self, sent: Sent, verdict: Verdict, now_s: float) -> None:
        self.tick(now_s)
        if sent.era != self.era:
            self.late += 1
            return
        if self.state is CLOSED and self.mode is not BreakerMode.DISABLED:
            self.heard.append(verdict)
            if self.failures >= self.config.failure_threshold and verdict is Verdict.FAILURE:
                self.enter(OPEN, TransitionReason.CONSECUTIVE_FAILURES, now_s)
        elif self.state is HALF_OPEN and sent.passed.probe:
            self.heard.append(verdict)
            self.forget(sent)
            if verdict in (Verdict.FAILURE, Verdict.OVERLOAD):
                self.enter(OPEN, TransitionReason.PROBE_FAILED, now_s)
            elif (
                verdict is Verdict.SUCCESS
                and self.heard.count(Verdict.SUCCESS) >= self.config.probe_successes
            ):
                self.enter(CLOSED, TransitionReason.PROBE_SUCCEEDED, now_s)

    def forget(self, sent: Sent) -> None:
        self.probes = [other for other in self.probes if other is not sent]

    def reset(self, now_s: float) -> None:
        if self.state is CLOSED:
            self.heard = []
        else:
            self.enter(CLOSED, TransitionReason.OPERATOR, now_s)

    def set_mode(self, mode: BreakerMode, now_s: float) -> None:
        if mode is not self.mode:
            self.mode = mode
            if mode in (BreakerMode.ENFORCE, BreakerMode.DISABLED):
                self.reset(now_s)


class BreakerMachine(RuleBasedStateMachine):
    """Drives a breaker and the model of it side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.transitions: list[Transition] = []
        self.sent: list[Sent] = []

    @initialize(config=CONFIGS, enforce=st.booleans())
    def begin(self, config: BreakerConfig, enforce: bool) -> None:
        if enforce:  # what matters most is tried most
            config = replace(config, mode=BreakerMode.ENFORCE)
        self.breaker = Breaker(config, self.transitions.append, "inference")
        self.model = Model(config, config.mode)

    # -- what may happen ------------------------------------------------------------------

    @rule(seconds=STEPS_S, ticked=st.booleans())
    def time_passes(self, seconds: float, ticked: bool) -> None:
        self.now_s += seconds
        if ticked:
            self.breaker.advance(self.now_s)
            self.model.tick(self.now_s)

    @precondition(lambda self: self.model.state is CLOSED)
    @rule()
    def an_outage_begins_and_its_open_time_passes(self) -> None:
        """A short way to where most can go wrong."""
        for _ in range(self.model.config.failure_threshold):
            if isinstance(self.ask(), Pass):
                self.hear(self.sent.pop(), Verdict.FAILURE)
        if self.model.state is OPEN:
            self.now_s += self.model.open_s

    @rule(times=st.integers(1, 3))
    def requests_ask(self, times: int) -> None:
        for _ in range(times):
            self.ask()

    def ask(self) -> Pass | Blocked:
        looked = self.breaker.blocks(self.now_s)
        answer = self.breaker.admit(self.now_s)
        assert (looked is None) == isinstance(answer, Pass), "looking and asking agree"
        if isinstance(answer, Blocked):
            assert looked == answer
        self.check_answer(answer)
        return answer

    def check_answer(self, answer: Pass | Blocked, *, counted: bool = False) -> None:
        model = self.model
        model.tick(self.now_s)
        objects = model.objects()
        refused = model.mode is BreakerMode.FORCED_OPEN or (
            model.mode is BreakerMode.ENFORCE and objects
        )
        assert isinstance(answer, Blocked) == refused
        if isinstance(answer, Blocked):
            self.check_blocked(answer)
            return
        model.would_refuse += objects and not counted
        assert answer.generation == self.breaker.generation
        assert bool(answer.probe) == (model.state is HALF_OPEN and not objects)
        sent = Sent(answer, model.era, self.now_s + model.config.probe_s)
        if answer.probe:
            assert answer.probe not in {other.passed.probe for other in self.sent}, "never reused"
            model.probes.append(sent)
        self.sent.append(sent)

    def check_blocked(self, blocked: Blocked) -> None:
        model = self.model
        if model.mode is BreakerMode.FORCED_OPEN:
            assert blocked == Blocked(probing=False, remaining_s=model.config.open_s)
        elif model.state is OPEN:
            remaining_s = model.since_s + model.open_s - self.now_s
            assert blocked == Blocked(probing=False, remaining_s=remaining_s)
            assert remaining_s > 0
        else:
            first_s = min(sent.deadline_s for sent in model.probes) - self.now_s
            assert blocked == Blocked(probing=True, remaining_s=min(5.0, first_s))
            assert first_s > 0

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), verdict=st.sampled_from(Verdict), probe=st.booleans())
    def a_request_ends(self, data: st.DataObject, verdict: Verdict, probe: bool) -> None:
        """An undecided probe where there is one and `probe` asks for it, else any, often late."""
        sent = self.pick(data, self.model.probes if probe else ())
        if sent.heard and verdict is not Verdict.FAILURE:
            return  # it was heard at its first event; the guard does not tell twice
        self.hear(sent, verdict)

    @precondition(lambda self: self.model.probes)
    @rule(data=st.data(), seconds=STEPS_S)
    def a_probe_begins_to_answer(self, data: st.DataObject, seconds: float) -> None:
        sent = self.pick(data, self.model.probes)
        self.now_s += seconds  # it may have become late
        self.hear(sent, Verdict.SUCCESS)
        sent.heard = True
        self.sent.append(sent)  # its end is still to come

    def hear(self, sent: Sent, verdict: Verdict) -> None:
        self.breaker.record(sent.passed, verdict, self.now_s, verdict.value)
        self.model.hear(sent, verdict, self.now_s)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), probe=st.booleans())
    def a_waiting_request_gives_up(self, data: st.DataObject, probe: bool) -> None:
        sent = self.pick(data, self.model.probes if probe else ())
        self.breaker.give_up(sent.passed)
        self.model.forget(sent)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def a_waiting_request_gets_its_slot(self, data: st.DataObject) -> None:
        """The breaker is asked again: the same generation passes as it is."""
        sent = self.pick(data)
        answer = self.breaker.readmit(sent.passed, self.now_s)
        self.model.tick(self.now_s)
        if sent.era == self.model.era:
            assert answer == sent.passed
            self.sent.append(sent)
        else:
            self.check_answer(answer, counted=sent.passed.observed)

    def pick(self, data: st.DataObject, among: Sequence[Sent] = ()) -> Sent:
        """Take one out of those `among` which it should be, or else of all."""
        sent = data.draw(st.sampled_from(among or self.sent))
        self.sent.remove(sent)
        return sent

    @rule(what=st.none() | st.sampled_from(BreakerMode) | CONFIGS)
    def an_operator_intervenes(self, what: BreakerMode | BreakerConfig | None) -> None:
        """One rule for reset, mode and new numbers, so that the others come more often."""
        if what is None:
            self.breaker.reset(self.now_s)
            self.model.reset(self.now_s)
        elif isinstance(what, BreakerMode):
            self.breaker.set_mode(what, self.now_s)
            self.model.set_mode(what, self.now_s)
        else:
            config = replace(what, mode=self.model.mode)
            self.breaker.reconfigure(config, self.now_s)
            self.model.config = config

    @precondition(lambda self: self.model.mode is BreakerMode.ENFORCE)
    @rule()
    def time_leads_out(self) -> None:
        """Whatever state it is in, without any result: before long somebody is let through."""
        config = self.model.config
        for _ in range(3):
            if isinstance(self.ask(), Pass):
                return
            # The numbers may have been greater when the running times began.
            self.now_s += max(config.open_s, config.probe_s, 10.0)
        raise AssertionError("wedged")

    # -- what must hold -------------------------------------------------------------------

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        model, seen = self.model, self.breaker.snapshot(self.now_s)
        is_open = model.state is OPEN
        remaining_s = max(0.0, model.since_s + model.open_s - self.now_s) if is_open else 0.0
        assert seen.state is model.state
        assert seen.mode is model.mode
        assert seen.generation == model.era
        assert seen.failure_count == model.failures
        assert seen.failure_threshold == model.config.failure_threshold
        assert seen.open_remaining_s == remaining_s
        assert seen.open_for_s == (self.now_s - model.since_s if is_open else 0.0)
        assert bool(seen.trip_reason) == (model.state is not CLOSED)
        assert seen.probes_in_flight == len(model.probes)
        assert seen.late_results == model.late
        assert seen.would_refuse == model.would_refuse
        assert self.breaker.is_open == (
            model.mode is BreakerMode.FORCED_OPEN or (model.mode is BreakerMode.ENFORCE and is_open)
        )

    @invariant()
    def observers_were_told_everything_once(self) -> None:
        assert [(step.after, step.reason) for step in self.transitions] == self.model.steps
        before = CLOSED
        for step in self.transitions:
            assert step.before is before
            assert (step.before, step.after, step.reason) in TABLE
            assert (step.cooldown_s > 0) == (step.after is OPEN)
            assert step.failure_count > 0
            before = step.after


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=300)
TestBreakerMachine.__doc__ = (
    "Nothing that may happen brings the breaker out of its documented states."
)
