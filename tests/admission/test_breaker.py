"""When does the circuit open, whom does it let try, and what closes it again?"""

from __future__ import annotations

import pytest

from sidecar.admission.answers import (
    BreakerState,
    Permit,
    Reason,
    Ticket,
    Transition,
    TransitionReason,
)
from sidecar.admission.config import BreakerConfig, BreakerMode, QueueConfig
from sidecar.admission.outcome import Outcome, OutcomeLabel, Verdict
from tests.admission.driver import (
    BAD_REQUEST,
    BUSY,
    CUT,
    FAILED,
    LEFT_MID_STREAM,
    LEFT_WITH_NOTHING,
    OK,
    Driver,
    granted,
    turned_away,
)

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN

TRIPPED = (OPEN, TransitionReason.CONSECUTIVE_FAILURES)
TIME_OVER = (HALF_OPEN, TransitionReason.OPEN_TIME_OVER)
RECOVERED = (CLOSED, TransitionReason.PROBE_SUCCEEDED)
STILL_BAD = (OPEN, TransitionReason.PROBE_FAILED)
NO_ANSWER = (OPEN, TransitionReason.PROBE_TIMEOUT)
BY_HAND = (CLOSED, TransitionReason.OPERATOR)


# -- closed -> open ---------------------------------------------------------------------------


def test_the_fifth_failure_in_a_row_opens_the_circuit(driver: Driver) -> None:
    """Four failures in a row still let requests pass; the fifth opens."""
    driver.fail(4)
    assert driver.state is CLOSED
    driver.fail(1)
    assert driver.state is OPEN
    assert driver.refused().reason is Reason.CIRCUIT_OPEN


@pytest.mark.parametrize("threshold", [1, 2, 7])
def test_as_many_failures_as_configured_open_the_circuit(threshold: int) -> None:
    """`breaker.failure_threshold` is the number of the failure that opens."""
    driver = Driver(breaker=BreakerConfig(failure_threshold=threshold))
    driver.fail(threshold - 1)
    assert driver.state is CLOSED
    driver.fail(1)
    assert driver.state is OPEN


def test_a_success_starts_the_count_anew(driver: Driver) -> None:
    """Only failures in a row count: one success forgets four failures."""
    driver.fail(4)
    driver.exchange(OK)
    assert driver.breaker.failure_count == 0
    driver.fail(4)
    assert driver.state is CLOSED
    driver.fail(1)
    assert driver.state is OPEN


@pytest.mark.parametrize("outcome", [BUSY, BAD_REQUEST, LEFT_MID_STREAM, LEFT_WITH_NOTHING])
def test_what_says_nothing_about_health_leaves_the_count(driver: Driver, outcome: Outcome) -> None:
    """A busy backend, a bad request and a client that left neither add failures nor forgive them.

    As many of them as one likes do not open; between failures they do not interrupt the row.
    """
    for _ in range(20):
        driver.exchange(outcome)
    assert driver.breaker.failure_count == 0
    driver.fail(4)
    driver.exchange(outcome)
    assert driver.breaker.failure_count == 4
    driver.fail(1)
    assert driver.state is OPEN


def test_failures_count_in_the_order_in_which_exchanges_end(driver: Driver) -> None:
    """A row of failures is one of endings, whenever the exchanges began."""
    driver.fail(4)
    early, late = driver.permit(), driver.permit()
    driver.settle(late, OK)
    driver.settle(early, FAILED)
    assert driver.state is CLOSED
    assert driver.breaker.failure_count == 1


def test_a_first_event_alone_says_nothing_while_closed(driver: Driver) -> None:
    """While the circuit is closed an answer counts once, at its end: it may still be cut."""
    driver.fail(4)
    permit = driver.permit()
    assert driver.first_event(permit) == []
    assert driver.breaker.failure_count == 4
    driver.settle(permit, CUT)
    assert driver.state is OPEN


def test_waiting_requests_are_refused_at_once_when_the_circuit_opens(driver: Driver) -> None:
    """Who waits does not hammer a dead backend later, but hears now when to come back."""
    driver.fail(4)
    running = [driver.permit() for _ in range(3)]
    waiting = [driver.ticket() for _ in range(4)]
    driver.now_s += 7
    answers = driver.settle(running[0], FAILED)
    assert [answer.ticket for answer in answers] == waiting
    rejections = turned_away(answers)
    assert {rejection.reason for rejection in rejections} == {Reason.CIRCUIT_OPEN}
    assert [rejection.retry_after_s for rejection in rejections] == pytest.approx([66] * 4)
    assert driver.seen.waiting == 0
    assert driver.seen.in_flight == 2


# -- open -------------------------------------------------------------------------------------


def test_open_lasts_open_s_to_the_moment(driver: Driver) -> None:
    """For 60 s everybody is refused, then the next request may try."""
    driver.open()
    driver.wait(59.999)
    assert driver.refused().reason is Reason.CIRCUIT_OPEN
    driver.wait(0.001)
    assert driver.state is HALF_OPEN
    assert driver.permit().passed.probe


def test_time_needs_no_tick_to_pass(driver: Driver) -> None:
    """Whoever asks after the open time probes, even if nothing else happened meanwhile."""
    driver.open()
    driver.now_s += 60
    assert driver.permit().passed.probe
    assert driver.steps == [TRIPPED, TIME_OVER]


def test_asking_again_and_again_does_not_prolong_the_open_time(driver: Driver) -> None:
    """Impatient clients cannot keep the circuit open."""
    driver.open()
    for _ in range(59):
        driver.wait(1)
        assert driver.refused().reason is Reason.CIRCUIT_OPEN
    driver.wait(1)
    assert isinstance(driver.ask(), Permit)


def test_results_that_come_while_open_do_not_prolong_the_open_time(driver: Driver) -> None:
    """Requests that were under way when the circuit opened may fail without consequence."""
    running = [driver.permit(), driver.permit()]
    driver.open()
    driver.wait(30)
    for permit in running:
        driver.settle(permit, FAILED)
    assert driver.breaker.open_remaining_s == 30
    assert driver.breaker.late_results == 2


# -- half-open --------------------------------------------------------------------------------


def test_half_open_admits_one_probe_and_refuses_the_others(driver: Driver) -> None:
    """A backend that may just be starting gets one request, not all of them."""
    driver.half_open()
    probe = driver.permit()
    assert probe.passed.probe
    for _ in range(10):
        rejection = driver.refused()
        assert rejection.reason is Reason.PROBING
    assert driver.seen.in_flight == 1


def test_half_open_admits_as_many_probes_as_configured() -> None:
    """`breaker.probes` may try at a time; a place that comes free is used again."""
    driver = Driver(breaker=BreakerConfig(probes=2, probe_successes=5))
    driver.half_open()
    first, second = driver.permit(), driver.permit()
    assert first.passed.probe != second.passed.probe
    assert driver.reason() is Reason.PROBING
    driver.settle(first, OK)
    assert driver.permit().passed.probe
    assert driver.reason() is Reason.PROBING


def test_looking_takes_no_probe_place(driver: Driver) -> None:
    """Asking whether one would be refused leaves the probe to those who really ask."""
    driver.half_open()
    for _ in range(5):
        assert driver.reason() is None
    assert driver.permit().passed.probe


def test_a_probe_succeeds_at_its_first_event(driver: Driver) -> None:
    """Recovery does not take as long as a generation: the first token closes the circuit."""
    driver.half_open()
    probe = driver.permit()
    driver.wait(3)
    assert driver.first_event(probe) == []
    assert driver.state is CLOSED
    assert not driver.permit().passed.probe
    assert driver.steps == [TRIPPED, TIME_OVER, RECOVERED]


def test_a_probe_with_a_plain_answer_succeeds_at_its_end(driver: Driver) -> None:
    """An answer that shows no event on its way closes the circuit when it is complete."""
    driver.half_open()
    driver.exchange(OK)
    assert driver.state is CLOSED


def test_only_the_first_event_of_a_probe_counts() -> None:
    """One long answer is one success, however many events it has."""
    driver = Driver(breaker=BreakerConfig(probe_successes=2))
    driver.half_open()
    probe = driver.permit()
    for _ in range(5):
        driver.first_event(probe)
    driver.settle(probe, OK)
    assert driver.state is HALF_OPEN


def test_as_many_successes_as_configured_close_the_circuit() -> None:
    """`breaker.probe_successes` probes must succeed before everybody may pass again."""
    driver = Driver(breaker=BreakerConfig(probe_successes=3))
    driver.half_open()
    driver.exchange(OK)
    driver.exchange(OK)
    assert driver.state is HALF_OPEN
    driver.exchange(OK)
    assert driver.state is CLOSED


def test_successes_of_an_earlier_half_open_time_are_forgotten() -> None:
    """A probe that fails sends the count of successes back to nothing."""
    driver = Driver(breaker=BreakerConfig(probe_successes=2))
    driver.half_open()
    driver.exchange(OK)
    driver.exchange(FAILED)
    driver.half_open()
    driver.exchange(OK)
    assert driver.state is HALF_OPEN
    driver.exchange(OK)
    assert driver.state is CLOSED


def test_a_probe_that_fails_after_its_success_does_not_undo_it(driver: Driver) -> None:
    """Once the first token closed the circuit, the end of that answer is late news."""
    driver.half_open()
    probe = driver.permit()
    driver.first_event(probe)
    driver.settle(probe, CUT)
    assert driver.state is CLOSED
    assert driver.breaker.failure_count == 0
    assert driver.breaker.late_results == 1


def test_a_probe_that_ends_well_after_its_success_is_not_late(driver: Driver) -> None:
    """An ordinary recovery shows no late result."""
    driver.half_open()
    probe = driver.permit()
    driver.first_event(probe)
    driver.settle(probe, OK)
    assert driver.breaker.late_results == 0


def test_a_probe_cut_short_reopens_while_others_are_still_awaited() -> None:
    """With several successes required, a probe that began well and broke off is a failure."""
    driver = Driver(breaker=BreakerConfig(probe_successes=2))
    driver.half_open()
    probe = driver.permit()
    driver.first_event(probe)
    assert driver.state is HALF_OPEN
    driver.settle(probe, CUT)
    assert driver.state is OPEN


@pytest.mark.parametrize("outcome", [FAILED, BUSY, CUT])
def test_a_failed_or_overloaded_probe_reopens_for_the_whole_time(
    driver: Driver, outcome: Outcome
) -> None:
    """A backend that answers a probe with an error or with "busy" has not recovered."""
    driver.half_open()
    probe = driver.permit()
    driver.now_s += 12
    driver.settle(probe, outcome)
    assert driver.state is OPEN
    assert driver.breaker.open_remaining_s == 60
    assert driver.steps[-1] == STILL_BAD


@pytest.mark.parametrize("outcome", [BAD_REQUEST, LEFT_WITH_NOTHING])
def test_a_probe_that_says_nothing_frees_its_place(driver: Driver, outcome: Outcome) -> None:
    """A bad request or a client that left decides nothing: the next request probes."""
    driver.half_open()
    driver.exchange(outcome)
    assert driver.state is HALF_OPEN
    assert driver.breaker.probes_in_flight == 0
    assert driver.permit().passed.probe


def test_a_client_that_leaves_after_an_event_makes_its_probe_a_success(driver: Driver) -> None:
    """The backend answered; that the client hung up is not its fault."""
    driver.half_open()
    driver.exchange(LEFT_MID_STREAM)
    assert driver.state is CLOSED


def test_a_client_that_leaves_after_an_event_is_no_success_while_closed(driver: Driver) -> None:
    """Outside of probes, a client that left mid-stream forgives no failures."""
    driver.fail(4)
    driver.exchange(LEFT_MID_STREAM)
    assert driver.breaker.failure_count == 4


def test_a_probe_that_never_ends_reopens_at_its_deadline(driver: Driver) -> None:
    """A hung backend cannot wedge the circuit half-open: after `probe_s` the probe has failed."""
    driver.half_open()
    probe = driver.permit()
    driver.wait(59.999)
    assert driver.state is HALF_OPEN
    driver.wait(0.001)
    assert driver.state is OPEN
    assert driver.steps[-1] == NO_ANSWER
    driver.half_open()
    assert driver.permit().passed.probe
    assert not probe.settled


def test_an_event_that_comes_after_the_probe_deadline_is_late(driver: Driver) -> None:
    """What a probe says after its time is counted, and changes nothing."""
    driver.half_open()
    probe = driver.permit()
    driver.now_s += 60
    driver.first_event(probe)
    assert driver.state is OPEN
    assert driver.breaker.late_results == 1


def test_a_success_ends_the_probe_deadline() -> None:
    """A long answer that has begun is not timed out as a probe."""
    driver = Driver(breaker=BreakerConfig(probe_successes=2))
    driver.half_open()
    driver.first_event(driver.permit())
    driver.wait(1_000)
    assert driver.state is HALF_OPEN


def test_the_earliest_probe_deadline_counts() -> None:
    """A shorter `probe_s` set while a probe runs holds for every later probe."""
    driver = Driver(breaker=BreakerConfig(probes=2, probe_s=3600))
    driver.half_open()
    driver.permit()
    driver.reconfigure(breaker=BreakerConfig(probes=2, probe_s=10))
    driver.permit()
    driver.wait(10)
    assert driver.state is OPEN


def test_probe_attempts_go_on_for_as_long_as_the_outage_lasts(driver: Driver) -> None:
    """Open, probe, open again: each time for `open_s`, until the backend is back."""
    driver.open()
    for _ in range(5):
        driver.half_open()
        driver.exchange(FAILED)
        assert driver.state is OPEN
    driver.half_open()
    driver.exchange(OK)
    assert driver.state is CLOSED


# -- a probe without a slot -------------------------------------------------------------------


def hung_and_half_open() -> tuple[Driver, list[Permit]]:
    """All slots held by requests from before the outage, and the open time over."""
    driver = Driver(slots=2, breaker=BreakerConfig(failure_threshold=1))
    hung = [driver.permit()]
    failing = driver.permit()
    driver.settle(failing, FAILED)
    driver.reconfigure(slots=1)
    driver.half_open()
    return driver, hung


def test_a_probe_waits_for_a_slot_that_an_old_request_holds() -> None:
    """Half-open does not exceed the limit: the probe is the first to get the next slot."""
    driver, [hung] = hung_and_half_open()
    ticket = driver.ticket()
    assert ticket.passed.probe
    assert driver.refused().reason is Reason.PROBING
    [probe] = granted(driver.settle(hung, OK))
    assert probe.number == ticket.number
    assert probe.passed == ticket.passed
    driver.first_event(probe)
    assert driver.state is CLOSED


def test_a_probe_that_gets_no_slot_in_time_reopens_and_is_told() -> None:
    """Hung requests cannot wedge half-open either: the probe's deadline counts while it waits."""
    driver, _ = hung_and_half_open()
    ticket = driver.ticket()
    [answer] = driver.wait(60)
    assert answer.ticket is ticket
    assert turned_away([answer])[0].reason is Reason.CIRCUIT_OPEN
    assert driver.steps[-1] == NO_ANSWER


def test_a_waiting_probe_whose_time_is_over_is_never_sent() -> None:
    """A slot that comes free too late goes to nobody while the circuit is open."""
    driver, [hung] = hung_and_half_open()
    driver.ticket()
    driver.now_s += 60
    assert driver.refused().reason is Reason.CIRCUIT_OPEN  # this is when the deadline is seen
    answers = driver.settle(hung, OK)
    assert [rejection.reason for rejection in turned_away(answers)] == [Reason.CIRCUIT_OPEN]
    assert driver.seen.in_flight == 0


def test_probes_that_waited_in_vain_are_refused_even_when_a_slot_comes_free() -> None:
    """The slot of a probe that had succeeded long before is not given to one whose time is over."""
    driver = Driver(
        slots=1, breaker=BreakerConfig(failure_threshold=1, probes=2, probe_successes=3)
    )
    driver.half_open()
    streaming = driver.permit()
    driver.first_event(streaming)
    waiting = [driver.ticket(), driver.ticket()]
    driver.now_s += 60
    answers = driver.settle(streaming, OK)
    assert [answer.ticket for answer in answers] == waiting
    assert {no.reason for no in turned_away(answers)} == {Reason.CIRCUIT_OPEN}
    assert driver.seen.in_flight == 0
    assert driver.state is OPEN


def test_a_waiting_request_becomes_the_probe_when_the_circuit_has_moved_on() -> None:
    """Who waited through a change is judged by what is now, not by what was when it came."""
    driver, [hung] = hung_and_half_open()
    ticket = driver.ticket()
    driver.now_s += 60
    driver.refused()  # the waiting probe's deadline is seen: open again
    driver.now_s += 60  # and that open time is over too, before the next tick
    [probe] = granted(driver.settle(hung, OK))
    assert probe.number == ticket.number
    assert probe.passed.probe
    assert probe.passed != ticket.passed
    assert driver.breaker.probes_in_flight == 1


@pytest.mark.parametrize("ending", ["leaves", "expires"])
def test_a_waiting_probe_that_gives_up_frees_its_place(ending: str) -> None:
    """A probe that was never sent decides nothing: the next request probes."""
    driver, _ = hung_and_half_open()
    ticket = driver.ticket()
    if ending == "leaves":
        driver.guard.leave(ticket, driver.now_s)
    else:
        assert driver.guard.expire(ticket, driver.now_s) is not None
    assert driver.state is HALF_OPEN
    assert driver.breaker.probes_in_flight == 0
    assert driver.ticket().passed.probe


def test_a_probe_that_gives_up_late_is_no_late_result() -> None:
    """Late results are results: a request that was never sent is none."""
    driver, _ = hung_and_half_open()
    ticket = driver.ticket()
    driver.now_s += 60
    driver.refused()
    driver.guard.leave(ticket, driver.now_s)
    assert driver.breaker.late_results == 0


def test_a_full_queue_costs_no_probe_place() -> None:
    """A request that finds no room is refused for that, and the probe's place stays free."""
    driver, [hung] = hung_and_half_open()
    driver.reconfigure(queue=QueueConfig(max_waiting=0))
    assert driver.refused().reason is Reason.QUEUE_FULL
    assert driver.breaker.probes_in_flight == 0
    driver.settle(hung, OK)
    assert driver.permit().passed.probe


def test_a_body_without_room_costs_no_probe_place() -> None:
    """Nor does one whose body would exceed the bytes that may wait."""
    driver, _ = hung_and_half_open()
    driver.reconfigure(queue=QueueConfig(max_bytes=10))
    answer = driver.ask(body_bytes=11)
    assert not isinstance(answer, Ticket)
    assert driver.breaker.probes_in_flight == 0
    assert driver.ticket(body_bytes=10).passed.probe


# -- generations ------------------------------------------------------------------------------


def test_late_failures_do_not_reopen_a_closed_breaker(driver: Driver) -> None:
    """A request sent before the outage cannot undo the recovery after it."""
    driver.reconfigure(slots=20)
    old = [driver.permit() for _ in range(10)]
    driver.half_open()
    driver.exchange(OK)
    for permit in old:
        driver.settle(permit, FAILED)
    assert driver.state is CLOSED
    assert driver.breaker.failure_count == 0
    assert driver.breaker.late_results == 10


def test_late_successes_do_not_close_an_open_breaker(driver: Driver) -> None:
    """An answer that began before the outage is no proof that it is over."""
    old, older = driver.permit(), driver.permit()
    driver.open()
    driver.settle(old, OK)
    assert driver.state is OPEN
    driver.half_open()
    driver.settle(older, OK)
    assert driver.state is HALF_OPEN
    assert driver.breaker.late_results == 2


def test_a_late_result_frees_nobody_elses_probe_place(driver: Driver) -> None:
    """The end of an old probe does not let a second new one through."""
    driver.half_open()
    old = driver.permit()
    driver.wait(60)
    driver.half_open()
    driver.permit()
    driver.settle(old, LEFT_WITH_NOTHING)
    assert driver.reason() is Reason.PROBING
    assert driver.breaker.probes_in_flight == 1


def test_late_successes_do_not_forgive_new_failures(driver: Driver) -> None:
    """After a recovery, only what was sent after it counts."""
    old = driver.permit()
    driver.half_open()
    driver.exchange(OK)
    driver.fail(4)
    driver.settle(old, OK)
    driver.fail(1)
    assert driver.state is OPEN


# -- operators --------------------------------------------------------------------------------


def test_forced_open_refuses_everybody_until_it_is_lifted(driver: Driver) -> None:
    """An operator can take a backend out of service, however well it is, for as long as needed."""
    running = driver.permit()
    assert driver.set_mode(BreakerMode.FORCED_OPEN) == []
    for _ in range(5):
        driver.wait(1_000)
        rejection = driver.refused()
        assert rejection.reason is Reason.CIRCUIT_OPEN
        assert rejection.retry_after_s == pytest.approx(66)
    driver.settle(running, OK)
    driver.set_mode(BreakerMode.ENFORCE)
    assert isinstance(driver.ask(), Permit)


def test_forced_open_refuses_those_who_wait_at_once(driver: Driver) -> None:
    """Nobody waits for a backend that is out of service."""
    running = [driver.permit() for _ in range(3)]
    waiting = [driver.ticket(), driver.ticket()]
    answers = driver.set_mode(BreakerMode.FORCED_OPEN)
    assert [answer.ticket for answer in answers] == waiting
    assert {no.reason for no in turned_away(answers)} == {Reason.CIRCUIT_OPEN}
    assert [driver.settle(permit) for permit in running] == [[], [], []]


def test_forced_open_gives_back_the_place_of_a_waiting_probe() -> None:
    """A probe that was refused before it was sent does not fail at its deadline."""
    driver, _ = hung_and_half_open()
    driver.ticket()
    driver.set_mode(BreakerMode.FORCED_OPEN)
    assert driver.breaker.probes_in_flight == 0
    driver.wait(1_000)
    assert driver.steps[-1] == TIME_OVER


def test_enforce_starts_from_a_closed_circuit(driver: Driver) -> None:
    """Whoever switches the breaker on again does not inherit an old verdict."""
    driver.set_mode(BreakerMode.OBSERVE)
    driver.open()
    driver.set_mode(BreakerMode.ENFORCE)
    assert driver.state is CLOSED
    assert driver.breaker.failure_count == 0
    assert driver.steps == [TRIPPED, BY_HAND]


def test_setting_the_same_mode_again_changes_nothing(driver: Driver) -> None:
    """Repeating `enforce` does not close an open circuit."""
    driver.open()
    driver.set_mode(BreakerMode.ENFORCE)
    assert driver.state is OPEN


def test_observe_refuses_nobody_and_reports_what_it_would_have(driver: Driver) -> None:
    """A breaker can be tried out: all transitions, no refusals, and a count of them."""
    driver.set_mode(BreakerMode.OBSERVE)
    driver.open()
    for _ in range(3):
        driver.exchange(FAILED)
    assert driver.breaker.would_refuse == 3
    driver.wait(60)
    probe = driver.permit()
    assert probe.passed.probe
    driver.exchange(FAILED)  # no probe: one is under way
    assert driver.breaker.would_refuse == 4
    assert driver.state is HALF_OPEN
    driver.settle(probe, OK)
    assert driver.steps == [TRIPPED, TIME_OVER, RECOVERED]


def test_observe_lets_those_who_wait_go_on_waiting(driver: Driver) -> None:
    """When the circuit opens in `observe`, the queue moves on as if it had not."""
    driver.set_mode(BreakerMode.OBSERVE)
    driver.fail(4)
    running = [driver.permit() for _ in range(3)]
    tickets = [driver.ticket(), driver.ticket()]
    [next_one] = granted(driver.settle(running[0], FAILED))
    assert driver.state is OPEN
    assert next_one.number == tickets[0].number
    assert driver.seen.tickets == (tickets[1],)


def test_observe_counts_each_request_once() -> None:
    """A request that waited through several states was still only one refusal."""
    driver = Driver(
        slots=1,
        breaker=BreakerConfig(mode=BreakerMode.OBSERVE, failure_threshold=1, probe_successes=2),
    )
    driver.open()
    running = driver.permit()
    driver.ticket()
    assert driver.breaker.would_refuse == 2
    driver.wait(60)
    driver.ticket()  # takes the probe's place
    [before] = granted(driver.settle(running, OK))
    assert not before.passed.probe
    assert driver.breaker.would_refuse == 2


def test_disabled_neither_counts_nor_refuses(driver: Driver) -> None:
    """Without a breaker in force, a failing backend is asked again and again."""
    driver.set_mode(BreakerMode.DISABLED)
    driver.fail(50)
    assert driver.state is CLOSED
    assert driver.breaker.failure_count == 0
    assert driver.transitions == []


def test_disabling_closes_an_open_circuit(driver: Driver) -> None:
    """`disabled` lets everybody pass at once, whatever was before."""
    driver.open()
    driver.set_mode(BreakerMode.DISABLED)
    assert driver.state is CLOSED
    assert isinstance(driver.ask(), Permit)


@pytest.mark.parametrize("half_open", [False, True])
def test_reset_closes_the_circuit(driver: Driver, half_open: bool) -> None:
    """An operator who knows that the backend is back need not wait."""
    driver.open()
    if half_open:
        driver.half_open()
    driver.guard.reset(driver.now_s)
    assert driver.state is CLOSED
    assert driver.breaker.failure_count == 0
    assert driver.steps[-1] == BY_HAND


def test_reset_forgets_failures_of_a_closed_circuit(driver: Driver) -> None:
    """After a reset five more failures are needed; a closed circuit does not change state."""
    driver.fail(4)
    driver.guard.reset(driver.now_s)
    driver.fail(4)
    assert driver.state is CLOSED
    assert driver.transitions == []


def test_new_numbers_hold_from_now_on(driver: Driver) -> None:
    """A reload keeps the state and the running open time; the next one obeys the new number."""
    driver.open()
    driver.wait(10)
    driver.reconfigure(breaker=BreakerConfig(open_s=5))
    assert driver.breaker.open_remaining_s == 50
    driver.half_open()
    driver.exchange(FAILED)
    assert driver.breaker.open_remaining_s == 5


def test_a_reload_notices_that_the_open_time_is_over() -> None:
    """A reload at the end of the open time refuses nobody for an outage that may be over."""
    driver, _ = hung_and_half_open()
    ticket = driver.ticket()
    driver.now_s += 60
    driver.refused()  # the waiting probe's deadline is seen: open again
    driver.now_s += 60
    [probe] = granted(driver.reconfigure(slots=2))
    assert probe.number == ticket.number
    assert probe.passed.probe
    assert driver.state is HALF_OPEN


def test_a_mode_can_be_set_by_reload(driver: Driver) -> None:
    """`breaker.mode` in a new configuration is obeyed like an operator's word."""
    for _ in range(3):
        driver.permit()
    driver.ticket()
    answers = driver.reconfigure(breaker=BreakerConfig(mode=BreakerMode.FORCED_OPEN))
    assert turned_away(answers)[0].reason is Reason.CIRCUIT_OPEN


def test_a_class_without_a_breaker_never_opens() -> None:
    """Where no breaker is configured, failures have no consequence and overrides no effect."""
    driver = Driver(slots=1, breaker=None)
    for _ in range(20):
        driver.exchange(FAILED)
    running = driver.permit()
    ticket = driver.ticket()
    assert driver.set_mode(BreakerMode.FORCED_OPEN) == []
    driver.guard.reset(driver.now_s)
    assert driver.reconfigure(breaker=BreakerConfig()) == []
    assert driver.wait(1_000) == []
    assert driver.first_event(running) == []
    [permit] = granted(driver.settle(running, FAILED))
    assert permit.number == ticket.number
    assert driver.reason() is None
    driver.guard.leave(driver.ticket(), driver.now_s)
    assert driver.seen.breaker is None


# -- telling ----------------------------------------------------------------------------------


def test_observers_hear_of_every_transition_once_and_why(driver: Driver) -> None:
    """Log, metrics and page are told the state before and after, the reason and the numbers."""
    driver.open()
    driver.half_open()
    driver.exchange(BUSY)
    driver.half_open()
    driver.permit()
    driver.wait(60)
    driver.half_open()
    driver.exchange(OK)
    heard = [(step.before, step.after, step.reason) for step in driver.transitions]
    assert heard == [
        (CLOSED, *TRIPPED),
        (OPEN, *TIME_OVER),
        (HALF_OPEN, *STILL_BAD),
        (OPEN, *TIME_OVER),
        (HALF_OPEN, *NO_ANSWER),
        (OPEN, *TIME_OVER),
        (HALF_OPEN, *RECOVERED),
    ]
    assert {step.guard for step in driver.transitions} == {"inference"}
    assert [step.failure_count for step in driver.transitions] == [5] * 7
    assert [step.cooldown_s for step in driver.transitions] == [60, 0, 60, 0, 60, 0, 0]


def test_observers_hear_what_the_last_straw_was(driver: Driver) -> None:
    """The transition and the snapshot name the kind of failure that opened the circuit."""
    driver.fail(4)
    driver.exchange(Outcome(Verdict.FAILURE, OutcomeLabel.CONNECT_FAILED))
    assert driver.transitions == [
        Transition(
            "inference",
            before=CLOSED,
            after=OPEN,
            reason=TransitionReason.CONSECUTIVE_FAILURES,
            failure_count=5,
            cooldown_s=60.0,
            detail="connect_failed",
        )
    ]
    assert driver.breaker.trip_reason == "connect_failed"


def test_a_probe_without_an_answer_is_its_own_trip_reason(driver: Driver) -> None:
    """Where no failure can be named, the reason of the transition is shown."""
    driver.half_open()
    driver.permit()
    driver.wait(60)
    assert driver.breaker.trip_reason == "probe_timeout"


def test_observers_see_the_new_state_when_they_are_told() -> None:
    """An observer that looks finds what it was told, not the state before."""
    seen: list[tuple[BreakerState, BreakerState]] = []
    driver = Driver()

    def look(transition: Transition) -> None:
        seen.append((transition.after, driver.state))

    breaker = driver.guard._breaker
    assert breaker is not None
    breaker._on_transition = look
    driver.open()
    driver.half_open()
    driver.exchange(OK)
    assert [told for told, _ in seen] == [found for _, found in seen] == [OPEN, HALF_OPEN, CLOSED]
