"""Does the breaker obey its tables under any sequence of requests, results, waits and orders?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.admission.answers import Blocked, BreakerState, Pass, Transition, TransitionReason
from sidecar.admission.breaker import Breaker
from sidecar.admission.config import BreakerConfig, BreakerMode
from sidecar.admission.outcome import Outcome, Report
from tests.admission.breaker_model import VERDICTS, Model, Sent
from tests.admission.driver import FAILED, OK

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN

# Whole seconds, so that deadlines are often met to the moment. They are the times below.
STEPS_S = st.sampled_from([0.0, 0.0, 1.0, 3.0, 6.0, 7.0, 10.0, 30.0])

SHORTEST_OPEN_S, LONGEST_OPEN_S = 3.0, 300.0

CONFIGS = st.builds(
    BreakerConfig,
    mode=st.sampled_from(BreakerMode),
    failure_threshold=st.integers(1, 3) | st.just(100),
    open_s=st.sampled_from([SHORTEST_OPEN_S, 10.0]),
    probes=st.integers(1, 3),
    probe_successes=st.integers(1, 3),
    probe_s=st.sampled_from([1.0, 7.0]),
    failure_ratio=st.sampled_from([None, None, 0.5, 1.0]),
    slow_ratio=st.sampled_from([None, 0.5]),
    slow_call_s=st.sampled_from([None, 3.0]),
    window_s=st.just(10.0),  # what a shorter one has forgotten, a longer one does not bring back
    min_calls=st.integers(1, 4),
    open_backoff=st.sampled_from([1.0, 2.0]),
    open_max_s=st.just(35.0),
    ramp_s=st.sampled_from([0.0, 7.0]),
)

REPORTS = st.builds(
    Report,
    retry_after_s=st.sampled_from([None, None, None, 1.0, 20.0, 9999.0]),
    first_event_s=st.sampled_from([None, 3.0, 4.0]),
    attempt_of=st.sampled_from(["", "", "a", "b"]),
    is_retry=st.booleans(),
)

OUTCOMES = st.sampled_from(list(VERDICTS))

# What comes of a request, how many seconds after the one before. Successes and failures are what
# rows and ratios are made of, so they come more often.
RESULTS = st.tuples(
    st.sampled_from([0.0, 0.0, 0.0, 3.0, 7.0]), st.sampled_from([OK, FAILED]) | OUTCOMES, REPORTS
)

# For how long a backend that says it is not ready is held back: not at all, a while, "for ever".
HOLDS_S = st.sampled_from([0.0, 6.0, 1e9])

SLOTS = 5

# The table of states, written down a second time: what may follow what, and why.
TABLE = {
    (CLOSED, OPEN, TransitionReason.CONSECUTIVE_FAILURES),
    (CLOSED, OPEN, TransitionReason.FAILURE_RATIO),
    (CLOSED, OPEN, TransitionReason.SLOW_RATIO),
    (OPEN, HALF_OPEN, TransitionReason.OPEN_TIME_OVER),
    (HALF_OPEN, CLOSED, TransitionReason.PROBE_SUCCEEDED),
    (HALF_OPEN, OPEN, TransitionReason.PROBE_FAILED),
    (HALF_OPEN, OPEN, TransitionReason.PROBE_TIMEOUT),
    (OPEN, CLOSED, TransitionReason.OPERATOR),
    (HALF_OPEN, CLOSED, TransitionReason.OPERATOR),
}


class BreakerMachine(RuleBasedStateMachine):
    """Drives a breaker and the model of it side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.random = 0.0
        self.transitions: list[Transition] = []
        self.sent: list[Sent] = []
        self.last_generation = 0
        self.most_probes = 0  # more than configured only when that was lowered meanwhile

    @initialize(config=CONFIGS, enforce=st.booleans(), random=st.sampled_from([0.0, 0.5, 0.99]))
    def begin(self, config: BreakerConfig, enforce: bool, random: float) -> None:
        if enforce:  # what matters most is tried most
            config = replace(config, mode=BreakerMode.ENFORCE)
        self.random = random
        self.breaker = Breaker(config, self.transitions.append, "inference", lambda: self.random)
        self.model = Model(config, config.mode, random)

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
        for _ in range(min(5, self.model.config.failure_threshold)):
            if isinstance(self.ask(), Pass):
                self.hear(self.sent.pop(), FAILED)
        if self.model.state is OPEN:
            self.now_s = self.model.open_until_s

    @rule(results=st.lists(RESULTS, max_size=8))
    def traffic_flows(self, results: list[tuple[float, Outcome, Report]]) -> None:
        """Requests that are answered at once, seconds apart."""
        for seconds, outcome, report in results:
            self.now_s += seconds
            if isinstance(self.ask(), Pass):
                self.hear(self.sent.pop(), outcome, report)
                self.it_is_what_the_model_says()

    @rule(times=st.integers(1, 3))
    def requests_ask(self, times: int) -> None:
        for _ in range(times):
            self.ask()

    def ask(self) -> Pass | Blocked:
        wanted = self.breaker.wants_probe(self.now_s)
        looked = self.breaker.blocks(self.now_s)
        answer = self.breaker.admit(self.now_s)
        assert (looked is None) == isinstance(answer, Pass), "looking and asking agree"
        if isinstance(answer, Blocked):
            assert looked == answer
        assert wanted == (isinstance(answer, Pass) and answer.probe > 0)
        self.check_answer(answer)
        return answer

    def check_answer(self, answer: Pass | Blocked, *, counted: bool = False) -> None:
        model = self.model
        model.tick(self.now_s)
        objection = model.objection(self.now_s)
        if model.mode is BreakerMode.FORCED_OPEN:
            assert answer == Blocked(probing=False, remaining_s=model.config.open_s)
        elif model.mode is BreakerMode.ENFORCE and objection is not None:
            assert answer == objection
            assert answer.remaining_s > 0
        else:
            assert isinstance(answer, Pass)
            model.would_refuse += objection is not None and not counted
            self.let_through(answer, observed=objection is not None)

    def let_through(self, passed: Pass, *, observed: bool) -> None:
        model = self.model
        assert passed.generation == self.breaker.generation
        assert passed.observed == observed
        assert bool(passed.probe) == (model.state is HALF_OPEN and not observed)
        deadline_s = self.now_s + model.config.probe_s
        sent = Sent(passed, model.era, self.now_s, deadline_s)
        if passed.probe:
            assert passed.probe not in {other.passed.probe for other in self.sent}, "never reused"
            model.probes.append(sent)
        self.sent.append(sent)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), outcome=OUTCOMES, report=REPORTS, probe=st.booleans())
    def a_request_ends(
        self, data: st.DataObject, outcome: Outcome, report: Report, probe: bool
    ) -> None:
        """An undecided probe where there is one and `probe` asks for it, else any, often late."""
        sent = self.pick(data, self.model.probes if probe else ())
        if not sent.heard or outcome is FAILED:  # else the guard does not tell twice
            self.hear(sent, outcome, report)

    @precondition(lambda self: self.model.probes)
    @rule(data=st.data(), seconds=STEPS_S)
    def a_probe_begins_to_answer(self, data: st.DataObject, seconds: float) -> None:
        sent = self.pick(data, self.model.probes)
        self.now_s += seconds  # it may have become late
        self.breaker.first_event(sent.passed, self.now_s, sent.granted_s)
        self.model.hear_first_event(sent, self.now_s)
        sent.heard = True
        self.sent.append(sent)  # its end is still to come

    def hear(self, sent: Sent, outcome: Outcome, report: Report = Report()) -> None:  # noqa: B008
        self.breaker.record(sent.passed, outcome, self.now_s, sent.granted_s, report)
        self.model.hear(sent, outcome, report, self.now_s)

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
            sent.granted_s = self.now_s
            self.sent.append(sent)
        else:
            self.check_answer(answer, counted=sent.passed.observed)

    def pick(self, data: st.DataObject, among: Sequence[Sent] = ()) -> Sent:
        """Take one out of those `among` which it should be, or else of all."""
        sent = data.draw(st.sampled_from(among or self.sent))
        self.sent.remove(sent)
        return sent

    @rule(what=st.none() | st.sampled_from(BreakerMode) | CONFIGS | HOLDS_S)
    def somebody_intervenes(self, what: BreakerMode | BreakerConfig | float | None) -> None:
        """One rule for reset, mode, new numbers and `not ready`: the others come more often."""
        if what is None:
            self.breaker.reset(self.now_s)
            self.model.reset(self.now_s)
        elif isinstance(what, BreakerMode):
            self.breaker.set_mode(what, self.now_s)
            self.model.set_mode(what, self.now_s)
        elif isinstance(what, BreakerConfig):
            config = replace(what, mode=self.model.mode)
            self.breaker.reconfigure(config, self.now_s)
            self.model.config = config
        else:
            self.breaker.hold_probes(self.now_s, self.now_s + what)
            self.model.held_until_s = self.now_s + min(what, 300.0)

    @precondition(lambda self: self.model.mode is BreakerMode.ENFORCE)
    @rule()
    def time_leads_out(self) -> None:
        """Whatever state it is in, without any result: before long somebody is let through."""
        for _ in range(3):
            if isinstance(self.ask(), Pass):
                return
            self.now_s += LONGEST_OPEN_S  # longer than anything else may last
        raise AssertionError("wedged")

    def teardown(self) -> None:
        """After any story some successes close the circuit again."""
        if not hasattr(self, "breaker"):
            return
        if self.model.mode is BreakerMode.FORCED_OPEN:
            self.somebody_intervenes(BreakerMode.OBSERVE)
        for _ in range(self.model.config.probe_successes + 4):
            if self.model.state is CLOSED:
                break
            if isinstance(self.ask(), Pass) and self.sent[-1].passed.probe:
                self.hear(self.sent.pop(), OK)
            else:
                self.now_s += LONGEST_OPEN_S
        self.it_is_what_the_model_says()
        assert self.breaker.snapshot(self.now_s).state is CLOSED

    # -- what must hold -------------------------------------------------------------------

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        model, seen = self.model, self.breaker.snapshot(self.now_s)
        is_open = model.state is OPEN
        assert seen.state is model.state
        assert seen.mode is model.mode
        assert seen.generation == model.era
        assert seen.failure_count == model.failures
        assert seen.failure_threshold == model.config.failure_threshold
        assert seen.open_remaining_s == max(0.0, is_open * (model.open_until_s - self.now_s))
        assert seen.open_for_s == (self.now_s - model.since_s if is_open else 0.0)
        assert bool(seen.trip_reason) == (model.state is not CLOSED)
        assert seen.tripped_by == model.tripped_by
        assert seen.probes_in_flight == len(model.probes)
        assert seen.probe_hold_s == max(0.0, model.held_until_s - self.now_s)
        assert seen.late_results == model.late
        assert seen.would_refuse == model.would_refuse
        assert seen.condition is model.condition(self.now_s)
        assert (seen.window_calls, seen.window_failures, seen.window_slow) == model.window(
            self.now_s
        )
        assert self.breaker.is_open == (
            model.mode is BreakerMode.FORCED_OPEN or (model.mode is BreakerMode.ENFORCE and is_open)
        )

    @invariant()
    def the_limit_is_what_the_model_says(self) -> None:
        limit = self.model.limit(SLOTS, self.now_s)
        assert self.breaker.limit(SLOTS, self.now_s) == limit
        rises_s = self.breaker.limit_rises_s(SLOTS, self.now_s)
        assert (rises_s is None) == (limit == SLOTS)
        if rises_s is not None:
            assert self.model.limit(SLOTS, rises_s) == limit + 1

    @invariant()
    def observers_were_told_everything_once(self) -> None:
        assert [(step.after, step.reason) for step in self.transitions] == self.model.steps
        before = CLOSED
        for step in self.transitions:
            assert step.before is before
            assert (step.before, step.after, step.reason) in TABLE
            assert (step.cooldown_s > 0) == (step.after is OPEN)
            before = step.after

    @invariant()
    def generations_only_grow(self) -> None:
        assert self.breaker.generation == len(self.transitions) >= self.last_generation
        self.last_generation = self.breaker.generation

    @invariant()
    def open_times_keep_their_bounds(self) -> None:
        for step in self.transitions:
            if step.after is OPEN:
                assert SHORTEST_OPEN_S <= step.cooldown_s <= LONGEST_OPEN_S
        if self.model.state is OPEN:
            until_s = self.now_s + self.breaker.snapshot(self.now_s).open_remaining_s
            assert all(named_s <= until_s for named_s in self.model.named if named_s > self.now_s)

    @invariant()
    def probes_keep_to_their_places(self) -> None:
        in_flight = self.breaker.snapshot(self.now_s).probes_in_flight
        self.most_probes = max(self.model.config.probes, min(self.most_probes, in_flight))
        assert in_flight <= self.most_probes


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=300)
TestBreakerMachine.__doc__ = (
    "Nothing that may happen brings the breaker out of its documented states."
)
