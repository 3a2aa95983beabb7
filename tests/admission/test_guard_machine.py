"""Does the guard lose a slot, a place or an answer under any sequence of events?"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.admission.answers import (
    Answer,
    BreakerState,
    Permit,
    Reason,
    Rejection,
    Subject,
    Ticket,
    TicketState,
    Transition,
    TransitionReason,
)
from sidecar.admission.breaker import BreakerSnapshot
from sidecar.admission.config import BreakerConfig, BreakerMode, GuardConfig, QueueConfig
from sidecar.admission.guard import Guard, GuardSnapshot, PermitAlreadySettledError
from sidecar.admission.outcome import NO_REPORT, Ending, Outcome, Report, Said, Verdict, outcome_of

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN

STEPS_S = st.sampled_from([0.0, 0.5, 3.0, 7.0, 10.0])

BREAKERS = st.builds(
    BreakerConfig,
    failure_threshold=st.integers(1, 3),
    open_s=st.sampled_from([3.0, 10.0]),
    probes=st.integers(1, 3),
    probe_successes=st.integers(1, 2),
    probe_s=st.sampled_from([3.0, 7.0]),
    failure_ratio=st.sampled_from([None, None, 0.5]),
    min_calls=st.just(3),
    window_s=st.just(10.0),
    slow_call_s=st.sampled_from([None, 5.0]),
    open_backoff=st.sampled_from([1.0, 2.0]),
    ramp_s=st.sampled_from([0.0, 10.0]),
)
REPORTS = st.builds(Report, retry_after_s=st.sampled_from([None, None, None, 2.0, 15.0]))
QUEUES = st.builds(QueueConfig, max_waiting=st.integers(0, 6), max_bytes=st.just(50))
SLOTS = st.integers(1, 4)

# What matters most is tried most.
MODES = st.just(BreakerMode.ENFORCE) | st.just(BreakerMode.OBSERVE) | st.sampled_from(BreakerMode)

FAILED = outcome_of(Ending.CONNECT_FAILED, None, got_event=False)
OK = outcome_of(Ending.COMPLETED, 200, got_event=True)
LEFT_WITH_NOTHING = outcome_of(Ending.CLIENT_GONE, None, got_event=False)

# Failures stand twice, so that circuits open often enough.
OUTCOMES = st.sampled_from(
    [
        OK,
        outcome_of(Ending.COMPLETED, 404, got_event=True),
        outcome_of(Ending.COMPLETED, 429, got_event=True),
        outcome_of(Ending.COMPLETED, 500, got_event=True),
        outcome_of(Ending.COMPLETED, 503, got_event=True, said=Said.LOADING),
        FAILED,
        outcome_of(Ending.CUT, 200, got_event=True),
        LEFT_WITH_NOTHING,
        outcome_of(Ending.CLIENT_GONE, 200, got_event=True),
        outcome_of(Ending.ABORTED, 200, got_event=True),
    ]
)


class GuardMachine(RuleBasedStateMachine):
    """Knows who waits, in which order, and who runs; believes nothing else of the guard."""

    breaker_wanted = True

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.transitions: list[Transition] = []
        self.waiting: list[Ticket] = []  # in order of arrival
        self.over: list[Ticket] = []  # answered or left
        self.running: list[Permit] = []
        self.settled: list[Permit] = []
        self.arriving_bytes = 0
        self.draining = False
        self.numbers = 0
        self.random = 0.0

    @initialize(slots=SLOTS, queue=QUEUES, breaker=BREAKERS, mode=MODES)
    def begin(
        self, slots: int, queue: QueueConfig, breaker: BreakerConfig, mode: BreakerMode
    ) -> None:
        breaker = replace(breaker, mode=mode)
        self.config = GuardConfig(slots, queue, breaker if self.breaker_wanted else None)
        self.most_running = slots  # more only when the limit was lowered meanwhile
        self.most_probes = breaker.probes
        self.tick_is_due = False
        self.guard = Guard(
            "inference",
            self.config,
            random=lambda: self.random,
            on_transition=self.transitions.append,
        )

    # -- looking --------------------------------------------------------------------------

    @property
    def seen(self) -> GuardSnapshot:
        return self.guard.snapshot(self.now_s)

    @property
    def breaker(self) -> BreakerSnapshot:
        """Where there is no breaker: what one that never decides would look like."""
        return self.seen.breaker or BreakerSnapshot(
            CLOSED, BreakerMode.DISABLED, 0, 0, 1, 0.0, 0.0, "", 0, 0, 0
        )

    @property
    def refuses_all(self) -> bool:
        breaker = self.breaker
        return breaker.mode is BreakerMode.FORCED_OPEN or (
            breaker.mode is BreakerMode.ENFORCE and breaker.state is OPEN
        )

    @property
    def limit(self) -> int:
        """How many may run in this moment; `test_breaker_machine` compares it with a model."""
        return self.seen.effective_limit

    @property
    def step_is_due(self) -> bool:
        """Time has raised the limit after a recovery, and nobody has called `advance` yet."""
        return self.guard.next_due_s(self.now_s) == self.now_s

    def decided(self, breaker: BreakerSnapshot) -> tuple[object, ...]:
        """All of a breaker that a late result may not touch."""
        return (
            breaker.state,
            breaker.generation,
            breaker.failure_count,
            breaker.trip_reason,
            breaker.probes_in_flight,
            breaker.open_remaining_s,
        )

    # -- taking answers -------------------------------------------------------------------

    def take(self, answers: list[Answer]) -> None:
        """Answers go to those who wait, in order of arrival, each once."""
        for answer in answers:
            ticket = answer.ticket
            assert ticket is self.waiting[0], "nobody is answered before who came earlier"
            self.waiting.pop(0)
            assert ticket.state is TicketState.ANSWERED
            assert ticket not in self.over
            self.over.append(ticket)
            if isinstance(answer.result, Permit):
                permit = answer.result
                assert (permit.number, permit.subject) == (ticket.number, ticket.subject)
                assert permit.waited_s == self.now_s - ticket.since_s
                self.take_permit(permit)
            else:
                self.check_told(answer.result)

    def take_permit(self, permit: Permit) -> None:
        assert not self.draining
        assert permit.granted_s == self.now_s
        assert (permit.settled, permit.judged) == (False, False)
        self.running.append(permit)
        assert len(self.running) <= self.limit, "a grant beyond the limit"
        self.check_passed(permit)

    def check_passed(self, who: Permit | Ticket) -> None:
        """Only whom the breaker would let pass in this moment gets a slot or a place."""
        breaker = self.breaker
        assert not self.refuses_all
        assert who.passed.generation == breaker.generation
        if breaker.mode is BreakerMode.ENFORCE:
            assert bool(who.passed.probe) == (breaker.state is HALF_OPEN)

    def check_told(self, rejection: Rejection) -> None:
        """What a refused request is told is true in this moment."""
        assert rejection.guard == "inference"
        assert rejection.message
        assert rejection.retry_after_s >= 1
        breaker = self.breaker
        match rejection.reason:
            case Reason.DRAINING:
                assert self.draining
            case Reason.CIRCUIT_OPEN:
                assert self.refuses_all
                if breaker.mode is BreakerMode.ENFORCE:
                    assert rejection.retry_after_s >= breaker.open_remaining_s
            case Reason.PROBING:
                assert breaker.mode is BreakerMode.ENFORCE
                assert breaker.state is HALF_OPEN
                assert breaker.probes_in_flight >= self.probes
            case Reason.QUEUE_FULL | Reason.QUEUE_TIMEOUT:
                assert rejection.retry_after_s <= 60
                assert len(self.running) >= self.limit or self.step_is_due

    @property
    def probes(self) -> int:
        return self.config.breaker.probes if self.config.breaker else 1

    def note_time_outs(self, before: int) -> None:
        """A probe's deadline seen by a newcomer: those who wait hear of it at the next tick."""
        new = self.transitions[before:]
        if any(step.reason is TransitionReason.PROBE_TIMEOUT for step in new):
            self.tick_is_due = True

    # -- requests -------------------------------------------------------------------------

    @rule(
        times=st.integers(1, 3),
        body_bytes=st.sampled_from([0, 0, 0, 10, 30]),
        random=st.floats(0, 1, exclude_max=True),
    )
    def requests_arrive(self, times: int, body_bytes: int, random: float) -> None:
        self.random = random
        for _ in range(times):
            self.arrive(body_bytes)

    def arrive(self, body_bytes: int = 0) -> Permit | Ticket | Rejection:
        heard = len(self.transitions)
        looked = self.guard.refuses(self.now_s)
        before = self.seen
        self.numbers += 1
        subject = Subject(f"r-{self.numbers}", "POST", "/v1/messages")
        answer = self.guard.ask(subject, self.now_s, body_bytes)
        self.note_time_outs(heard)
        slot = len(self.running) < self.limit and not self.waiting
        if isinstance(answer, Rejection):
            self.check_refused(answer, looked, before, body_bytes)
            return answer
        assert looked is None
        assert answer.subject == subject
        assert isinstance(answer, Permit) == slot, "a slot at once if one is free, else a place"
        if isinstance(answer, Permit):
            assert answer.waited_s == 0
            self.take_permit(answer)
        else:
            assert len(self.waiting) < self.config.queue.max_waiting
            assert answer.state is TicketState.WAITING
            assert answer.deadline_s == self.now_s + self.config.queue.timeout_s
            self.waiting.append(answer)
            self.check_passed(answer)
        return answer

    def check_refused(
        self,
        rejection: Rejection,
        looked: Rejection | None,
        before: GuardSnapshot,
        body_bytes: int,
    ) -> None:
        self.check_told(rejection)
        assert self.seen == before, "a refusal takes nothing"
        if looked is None:  # only its bytes can have been too many
            assert rejection.reason is Reason.QUEUE_FULL
            assert before.held_bytes + body_bytes > self.config.queue.max_bytes
        else:
            assert looked == rejection

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=OUTCOMES, report=REPORTS, ticked=st.booleans())
    def an_exchange_ends(
        self, data: st.DataObject, outcome: Outcome, report: Report, ticked: bool
    ) -> None:
        if ticked:
            self.tick()
        permit = data.draw(st.sampled_from(self.running))
        before = self.breaker
        late = permit.passed.generation != before.generation
        self.settle(permit, outcome, report)
        if ticked:  # time has done its part: what changed, the result did
            self.check_heard(permit, outcome, before, late=late)

    def settle(self, permit: Permit, outcome: Outcome, report: Report = NO_REPORT) -> None:
        self.running.remove(permit)
        self.settled.append(permit)
        self.take(self.guard.settle(permit, outcome, self.now_s, report))

    def check_heard(
        self, permit: Permit, outcome: Outcome, before: BreakerSnapshot, *, late: bool
    ) -> None:
        after = self.breaker
        told = not permit.judged or outcome.verdict in (Verdict.FAILURE, Verdict.OVERLOAD)
        assert after.late_results - before.late_results == (late and told and self.breaker_wanted)
        if late or not told:
            granted = after.probes_in_flight - before.probes_in_flight
            assert granted >= 0  # to those who waited, and became probes
            same = replace(after, probes_in_flight=before.probes_in_flight)
            assert after.open_remaining_s >= before.open_remaining_s, "a later Retry-After extends"
            same = replace(same, open_remaining_s=before.open_remaining_s)
            assert self.decided(same) == self.decided(before)
        elif before.state is HALF_OPEN and permit.passed.probe:
            self.check_probe(outcome, before, after)

    def check_probe(
        self, outcome: Outcome, before: BreakerSnapshot, after: BreakerSnapshot
    ) -> None:
        if outcome.verdict in (Verdict.FAILURE, Verdict.OVERLOAD):
            assert after.state is OPEN
        elif outcome.verdict in (Verdict.SUCCESS, Verdict.ANSWERED):
            assert after.state in (CLOSED, HALF_OPEN)
        elif after.state is OPEN:  # it took too long, and its client left with nothing
            assert outcome is LEFT_WITH_NOTHING
        else:
            assert after.state is HALF_OPEN
            assert after.probes_in_flight <= before.probes_in_flight

    @precondition(lambda self: self.running)
    @rule(data=st.data(), ticked=st.booleans())
    def the_first_event_arrives(self, data: st.DataObject, ticked: bool) -> None:
        if ticked:
            self.tick()
        probes = [permit for permit in self.running if permit.passed.probe]
        permit = data.draw(st.sampled_from(probes or self.running))
        before, heard_before = self.breaker, permit.judged
        self.take(self.guard.first_event(permit, self.now_s))
        assert permit in self.running
        current = permit.passed.generation == before.generation
        counts = bool(permit.passed.probe) and not heard_before
        if ticked:
            assert self.breaker.late_results - before.late_results == (counts and not current)
        if ticked and not (counts and current):
            assert self.decided(self.breaker) == self.decided(before)
        elif ticked:
            assert self.breaker.state in (CLOSED, HALF_OPEN)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), times_out=st.booleans())
    def a_wait_ends_in_vain(self, data: st.DataObject, times_out: bool) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        before = self.breaker
        if times_out:
            rejection = self.guard.expire(ticket, self.now_s)
            assert rejection is not None
            assert rejection.reason is Reason.QUEUE_TIMEOUT
            self.check_told(rejection)
        else:
            self.guard.leave(ticket, self.now_s)
        assert ticket.state is (TicketState.ANSWERED if times_out else TicketState.LEFT)
        self.gone(ticket, before)

    def gone(self, ticket: Ticket, before: BreakerSnapshot) -> None:
        """Giving up is no result: at most a probe's place has become free."""
        self.waiting.remove(ticket)
        self.over.append(ticket)
        after = self.breaker
        probing = ticket.passed.probe and ticket.passed.generation == before.generation
        assert after.probes_in_flight == before.probes_in_flight - bool(probing)
        assert replace(after, probes_in_flight=before.probes_in_flight) == before

    @precondition(lambda self: self.over or self.settled)
    @rule(data=st.data(), outcome=OUTCOMES)
    def what_is_over_is_ended_again(self, data: st.DataObject, outcome: Outcome) -> None:
        who, before = data.draw(st.sampled_from([*self.over, *self.settled])), self.seen
        if isinstance(who, Permit):
            with pytest.raises(PermitAlreadySettledError):
                self.guard.settle(who, outcome, self.now_s)
        else:
            assert isinstance(who, Ticket)
            state = who.state
            self.guard.leave(who, self.now_s)
            assert self.guard.expire(who, self.now_s) is None
            assert who.state is state
        assert self.seen == before

    @rule(count=st.sampled_from([0, 1, 20, 51]))
    def body_bytes_arrive_or_are_sent_on(self, count: int) -> None:
        before = self.seen.held_bytes
        if count == 0:
            self.guard.release_bytes(self.arriving_bytes)
            self.arriving_bytes = 0
            return
        rejection = self.guard.hold_bytes(count)
        assert (rejection is None) == (before + count <= self.config.queue.max_bytes)
        if rejection is None:
            self.arriving_bytes += count

    # -- time and operators ---------------------------------------------------------------

    @rule(seconds=STEPS_S, ticked=st.booleans())
    def time_passes(self, seconds: float, ticked: bool) -> None:
        self.now_s += seconds
        if ticked:
            self.tick()

    def tick(self) -> None:
        self.take(self.guard.advance(self.now_s))
        self.tick_is_due = False

    @precondition(lambda self: self.breaker_wanted and self.breaker.state is CLOSED)
    @rule(arriving=st.integers(1, 6), failing=st.integers(1, 4), over=st.booleans())
    def an_outage_begins(self, arriving: int, failing: int, over: bool) -> None:
        """A short way to where most can go wrong: some run, some wait, some fail, time passes."""
        for _ in range(arriving):
            self.arrive()
        for _ in range(min(failing, len(self.running))):
            self.settle(self.running[0], FAILED)
        if over:
            self.now_s += self.breaker.open_remaining_s

    @precondition(lambda self: self.breaker.mode is BreakerMode.ENFORCE and not self.draining)
    @rule(arriving=st.integers(0, 6), seconds=STEPS_S)
    def the_backend_recovers(self, arriving: int, seconds: float) -> None:
        """A short way to a ramp, and somebody waits for its steps; those who ran end."""
        for _ in range(20):
            if self.breaker.state is CLOSED and len(self.transitions) > 0:
                break
            while self.running:
                self.settle(self.running[0], outcome_of(Ending.ABORTED, None, got_event=False))
            self.now_s += self.breaker.open_remaining_s
            permit = self.arrive()
            if isinstance(permit, Permit):
                self.settle(permit, OK if permit.passed.probe else FAILED)
        for _ in range(arriving):
            self.arrive()
        self.now_s += seconds

    @precondition(lambda self: self.breaker_wanted and self.breaker.state is HALF_OPEN)
    @rule(arriving=st.integers(1, 4), begins=st.booleans())
    def probes_are_sent(self, arriving: int, begins: bool) -> None:
        for _ in range(arriving):
            answer = self.arrive()
            if begins and isinstance(answer, Permit):
                self.take(self.guard.first_event(answer, self.now_s))
                assert not answer.passed.probe or answer.judged

    @rule(slots=SLOTS, queue=QUEUES, breaker=BREAKERS)
    def a_reload_brings_new_numbers(
        self, slots: int, queue: QueueConfig, breaker: BreakerConfig
    ) -> None:
        self.config = GuardConfig(slots, queue, replace(breaker, mode=self.breaker.mode))
        self.take(self.guard.reconfigure(self.config, self.now_s))
        self.tick_is_due = False

    @precondition(lambda self: self.breaker_wanted)
    @rule(mode=st.none() | MODES)
    def an_operator_intervenes(self, mode: BreakerMode | None) -> None:
        if mode is None:
            self.take(self.guard.reset(self.now_s))
            assert self.breaker.state is CLOSED
            assert self.breaker.failure_count == 0
        else:
            self.take(self.guard.set_breaker_mode(mode, self.now_s))
            self.tick_is_due = False
            assert self.breaker.mode is mode

    @precondition(lambda self: self.numbers > 12 and not self.draining)
    @rule()
    def draining_begins(self) -> None:
        self.drain()

    def drain(self) -> None:
        self.draining = True
        before = self.breaker
        answers = self.guard.drain()
        assert len(answers) == len(self.waiting)
        self.take(answers)
        assert replace(self.breaker, probes_in_flight=before.probes_in_flight) == before

    @precondition(lambda self: not self.draining)
    @rule()
    def time_leads_out(self) -> None:
        """Nobody waits for a slot that nobody holds, and half-open never stays for good."""
        while self.running or self.step_is_due:  # whoever waits comes in
            if self.step_is_due:
                self.tick()
                continue
            self.settle(self.running[0], outcome_of(Ending.ABORTED, None, got_event=False))
        assert self.waiting == [], "slots are free"
        if self.breaker.mode is BreakerMode.FORCED_OPEN:
            assert isinstance(self.arrive(), Rejection)
            return
        for _ in range(3):
            if isinstance(self.arrive(), Permit):
                return
            self.now_s += 700.0  # longer than any of the times
        raise AssertionError("wedged")

    def teardown(self) -> None:
        """In the end everybody has been answered, and every slot and byte is back."""
        if not hasattr(self, "guard"):
            return
        self.drain()
        for permit in list(self.running):
            self.settle(permit, outcome_of(Ending.COMPLETED, 200, got_event=True))
        self.guard.release_bytes(self.arriving_bytes)
        seen = self.seen
        assert (seen.in_flight, seen.waiting, seen.held_bytes) == (0, 0, 0)
        assert (seen.permits, seen.tickets) == ((), ())
        assert self.breaker.probes_in_flight == 0
        told = [ticket.number for ticket in self.over]
        assert len(told) == len(set(told))

    # -- what must hold -------------------------------------------------------------------

    @invariant()
    def no_slot_is_lost(self) -> None:
        seen = self.seen
        assert seen.in_flight == len(self.running)
        assert sorted(map(id, seen.permits)) == sorted(map(id, self.running))

    @invariant()
    def the_limit_is_kept(self) -> None:
        """After it was lowered, what runs only gets fewer until it fits again."""
        running, limit = len(self.running), self.config.max_concurrent
        assert self.seen.limit == limit
        assert 1 <= self.limit <= limit
        self.most_running = max(limit, min(self.most_running, running))
        assert running <= max(limit, self.most_running)

    @invariant()
    def the_queue_is_who_came_and_neither_left_nor_was_answered(self) -> None:
        seen = self.seen
        assert [id(ticket) for ticket in seen.tickets] == [id(ticket) for ticket in self.waiting]
        assert {ticket.state for ticket in self.waiting} <= {TicketState.WAITING}
        assert seen.waiting == len(self.waiting)
        held = sum(ticket.held_bytes for ticket in self.waiting)
        assert seen.held_bytes == held + self.arriving_bytes

    @invariant()
    def nobody_waits_while_a_slot_is_free(self) -> None:
        """But when time has just raised the limit, and then `next_due_s` says so."""
        assert not self.waiting or len(self.running) >= self.limit or self.step_is_due

    @invariant()
    def nobody_waits_for_an_open_circuit(self) -> None:
        """Only a probe's deadline that a newcomer was first to see is told at the next tick."""
        if self.refuses_all and not self.tick_is_due:
            assert self.waiting == []

    @invariant()
    def no_probe_place_is_lost_or_used_twice(self) -> None:
        breaker = self.breaker
        holders: list[Permit | Ticket] = [permit for permit in self.running if not permit.judged]
        probing = [
            who
            for who in [*holders, *self.waiting]
            if who.passed.probe and who.passed.generation == breaker.generation
        ]
        assert breaker.probes_in_flight == len(probing)
        self.most_probes = max(self.probes, min(self.most_probes, len(probing)))
        assert len(probing) <= max(self.probes, self.most_probes)


class GuardWithoutBreakerMachine(GuardMachine):
    """The same for classes that have slots and a queue, but no breaker."""

    breaker_wanted = False


TestGuardMachine = GuardMachine.TestCase
TestGuardMachine.settings = settings(max_examples=300)
TestGuardMachine.__doc__ = "No sequence of events loses a slot, a place, an answer or the order."
TestGuardWithoutBreakerMachine = GuardWithoutBreakerMachine.TestCase
TestGuardWithoutBreakerMachine.settings = settings(max_examples=60)
TestGuardWithoutBreakerMachine.__doc__ = "Nor does one where no breaker is configured."
