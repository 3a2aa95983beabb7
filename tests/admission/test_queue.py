"""Who gets a slot, who waits for one, and who is turned away?"""

from __future__ import annotations

import pytest

from sidecar.admission.answers import Permit, Reason, Rejection, Ticket, TicketState
from sidecar.admission.config import QueueConfig
from sidecar.admission.guard import PermitAlreadySettledError
from sidecar.admission.limiter import Limiter
from tests.admission.driver import FAILED, LEFT_WITH_NOTHING, OK, Driver, granted, turned_away

# -- slots ------------------------------------------------------------------------------------


def test_three_run_and_the_fourth_waits(driver: Driver) -> None:
    """At most `max_concurrent` exchanges are in flight; a newcomer beyond waits its turn."""
    for _ in range(3):
        assert driver.permit().waited_s == 0
    driver.ticket()
    assert driver.seen.in_flight == 3
    assert driver.seen.waiting == 1


def test_a_slot_is_held_until_it_is_settled(driver: Driver) -> None:
    """Neither time nor the first event frees a slot; only the end of the exchange does."""
    permits = [driver.permit() for _ in range(3)]
    driver.first_event(permits[0])
    driver.wait(10_000)
    assert driver.seen.in_flight == 3
    driver.settle(permits[0])
    assert driver.seen.in_flight == 2


def test_a_freed_slot_is_handed_to_the_first_who_waits(driver: Driver) -> None:
    """First come, first served: the slot goes from hand to hand, in order of arrival."""
    running = [driver.permit() for _ in range(3)]
    tickets = [driver.ticket() for _ in range(5)]
    for expected in tickets:
        driver.now_s += 2
        [answer] = driver.settle(running.pop(0))
        assert answer.ticket is expected
        permit = answer.result
        assert isinstance(permit, Permit)
        assert (permit.number, permit.subject) == (expected.number, expected.subject)
        assert permit.granted_s == driver.now_s
        assert permit.waited_s == driver.now_s - expected.since_s
        running.append(permit)


def test_a_newcomer_overtakes_nobody(driver: Driver) -> None:
    """Whoever asks in the moment after a slot came free finds it already given away."""
    running = [driver.permit() for _ in range(3)]
    driver.ticket()
    driver.ticket()
    driver.settle(running[0])
    newcomer = driver.ticket()
    assert driver.seen.in_flight == 3
    driver.settle(running[1])
    assert driver.seen.tickets == (newcomer,)


def test_one_answer_frees_one_slot(driver: Driver) -> None:
    """A settled exchange lets one waiting request in, not all of them."""
    running = [driver.permit() for _ in range(3)]
    for _ in range(5):
        driver.ticket()
    assert len(driver.settle(running[0])) == 1
    assert driver.seen.waiting == 4


def test_every_failure_gives_its_slot_back_too(driver: Driver) -> None:
    """However an exchange ends, its slot is free again."""
    for outcome in (FAILED, LEFT_WITH_NOTHING, OK):
        driver.exchange(outcome)
    assert driver.seen.in_flight == 0


def test_settling_twice_is_refused_and_changes_nothing(driver: Driver) -> None:
    """A caller's bug cannot create a slot that does not exist."""
    permit = driver.permit()
    driver.permit()
    driver.settle(permit)
    before = driver.seen
    with pytest.raises(PermitAlreadySettledError, match="inference permit 1"):
        driver.settle(permit, FAILED)
    assert driver.seen == before


# -- bounds -----------------------------------------------------------------------------------


def test_whoever_comes_to_a_full_queue_is_refused_at_once() -> None:
    """`queue.max_waiting` is the number that may wait; the next one need not."""
    driver = Driver(slots=1, queue=QueueConfig(max_waiting=2))
    running = driver.permit()
    driver.ticket()
    assert driver.reason() is None
    driver.ticket()
    assert driver.reason() is Reason.QUEUE_FULL
    rejection = driver.refused()
    assert rejection.reason is Reason.QUEUE_FULL
    assert rejection.message == (
        "no room in the queue: 2 already wait for 1 slots (queue.max_waiting, max_concurrent)"
    )
    driver.settle(running)
    driver.ticket()


def test_a_queue_of_nothing_lets_run_and_refuses() -> None:
    """With `queue.max_waiting` 0 there is a slot or there is not."""
    driver = Driver(slots=2, queue=QueueConfig(max_waiting=0))
    first = driver.permit()
    driver.permit()
    assert driver.refused().reason is Reason.QUEUE_FULL
    driver.settle(first)
    driver.permit()


def test_bodies_of_those_who_wait_are_bounded() -> None:
    """`queue.max_bytes` of body may be held for those who wait, not a byte more."""
    driver = Driver(slots=1, queue=QueueConfig(max_bytes=100))
    driver.permit()
    driver.ticket(body_bytes=60)
    assert driver.seen.held_bytes == 60
    answer = driver.ask(body_bytes=41)
    assert isinstance(answer, Rejection)
    assert answer.reason is Reason.QUEUE_FULL
    assert "queue.max_bytes" in answer.message
    driver.ticket(body_bytes=40)
    assert driver.seen.held_bytes == 100
    driver.ticket(body_bytes=0)


def test_a_body_that_need_not_wait_is_not_counted() -> None:
    """A request that gets its slot at once may have any size."""
    driver = Driver(slots=1, queue=QueueConfig(max_bytes=1))
    assert isinstance(driver.ask(body_bytes=1_000_000), Permit)
    assert driver.seen.held_bytes == 0


@pytest.mark.parametrize("ending", ["granted", "refused", "left", "expired", "drained"])
def test_bytes_are_free_again_when_the_wait_is_over(ending: str) -> None:
    """No end of waiting leaks a byte of the budget."""
    driver = Driver(slots=1, queue=QueueConfig(max_bytes=100))
    driver.fail(4)
    running = driver.permit()
    ticket = driver.ticket(body_bytes=100)
    if ending == "granted":
        driver.settle(running)
    elif ending == "refused":
        driver.settle(running, FAILED)
    elif ending == "left":
        driver.guard.leave(ticket, driver.now_s)
        driver.guard.leave(ticket, driver.now_s)
    elif ending == "expired":
        driver.guard.expire(ticket, driver.now_s)
    else:
        driver.guard.drain()
    assert driver.seen.held_bytes == 0


def test_bytes_that_arrive_are_counted_until_released(driver: Driver) -> None:
    """Bodies still arriving share the budget; a refused piece is not counted."""
    driver.reconfigure(queue=QueueConfig(max_bytes=10))
    assert driver.guard.hold_bytes(7) is None
    rejection = driver.guard.hold_bytes(4)
    assert rejection is not None
    assert rejection.reason is Reason.QUEUE_FULL
    assert driver.seen.held_bytes == 7
    assert driver.guard.hold_bytes(3) is None
    driver.guard.release_bytes(10)
    assert driver.seen.held_bytes == 0


def test_the_last_place_is_the_last() -> None:
    """The queue itself says no when it is full, whatever was asked before."""
    limiter, driver = Limiter(0, max_waiting=1), Driver(slots=1)
    driver.permit()
    assert not limiter.has_slot
    assert limiter.enqueue(driver.ticket())
    assert not limiter.enqueue(driver.ticket())
    assert limiter.waiting == 1


# -- giving up --------------------------------------------------------------------------------


def test_time_in_the_queue_ends_with_a_reason(driver: Driver) -> None:
    """After `queue.timeout_s` a waiting request is told so, and how long it waited."""
    for _ in range(3):
        driver.permit()
    ticket = driver.ticket()
    assert ticket.deadline_s == driver.now_s + 30
    driver.now_s += 30
    rejection = driver.guard.expire(ticket, driver.now_s)
    assert rejection is not None
    assert rejection.reason is Reason.QUEUE_TIMEOUT
    assert rejection.message == "waited 30 s for one of 3 slots in vain (queue.timeout_s)"
    assert ticket.state is TicketState.ANSWERED
    assert driver.seen.waiting == 0
    assert driver.guard.expire(ticket, driver.now_s) is None


def test_whoever_leaves_the_queue_is_passed_over(driver: Driver) -> None:
    """A client that hangs up while it waits costs nobody a slot, and the order stays."""
    running = [driver.permit() for _ in range(3)]
    first, second, third, fourth = (driver.ticket() for _ in range(4))
    driver.guard.leave(third, driver.now_s)
    driver.guard.leave(first, driver.now_s)
    assert first.state is third.state is TicketState.LEFT
    assert driver.settle(running[0])[0].ticket is second
    assert driver.settle(running[1])[0].ticket is fourth
    assert driver.settle(running[2]) == []


def test_leaving_after_the_answer_changes_nothing(driver: Driver) -> None:
    """Granted while leaving: the ticket is answered, and its permit is what goes back."""
    driver.fail(1)
    running = [driver.permit() for _ in range(3)]
    ticket = driver.ticket()
    [permit] = granted(driver.settle(running[0]))
    before = driver.seen
    driver.guard.leave(ticket, driver.now_s)
    assert driver.guard.expire(ticket, driver.now_s) is None
    assert driver.seen == before
    assert ticket.state is TicketState.ANSWERED
    driver.settle(permit, LEFT_WITH_NOTHING)
    assert driver.seen.in_flight == 2


def test_leaving_twice_changes_nothing(driver: Driver) -> None:
    """A client can only leave once, and is never told of a time-out afterwards."""
    for _ in range(3):
        driver.permit()
    ticket, other = driver.ticket(), driver.ticket()
    driver.guard.leave(ticket, driver.now_s)
    driver.guard.leave(ticket, driver.now_s)
    assert driver.guard.expire(ticket, driver.now_s) is None
    assert ticket.state is TicketState.LEFT
    assert driver.seen.tickets == (other,)


# -- changing the numbers ---------------------------------------------------------------------


def test_raising_the_limit_wakes_as_many_at_once(driver: Driver) -> None:
    """Two slots more let two who wait in, in order, without anybody having to finish."""
    for _ in range(3):
        driver.permit()
    tickets = [driver.ticket() for _ in range(4)]
    answers = driver.reconfigure(slots=5)
    assert [answer.ticket for answer in answers] == tickets[:2]
    granted(answers)
    assert driver.seen.in_flight == 5
    assert driver.seen.limit == 5


def test_raising_the_limit_beyond_need_leaves_free_slots(driver: Driver) -> None:
    """When everybody is in, newcomers find what is left."""
    for _ in range(3):
        driver.permit()
    driver.ticket()
    assert len(driver.reconfigure(slots=10)) == 1
    for _ in range(6):
        driver.permit()
    driver.ticket()


def test_lowering_the_limit_revokes_nothing(driver: Driver) -> None:
    """Running exchanges finish; nobody new starts until there are fewer than the new limit."""
    running = [driver.permit() for _ in range(3)]
    tickets = [driver.ticket(), driver.ticket()]
    assert driver.reconfigure(slots=1) == []
    assert driver.seen.in_flight == 3
    assert driver.settle(running[0]) == []
    assert driver.settle(running[1]) == []
    assert driver.seen.in_flight == 1
    [permit] = granted(driver.settle(running[2]))
    assert permit.number == tickets[0].number


def test_waiting_requests_hear_of_an_open_circuit_without_any_free_slot(driver: Driver) -> None:
    """Also when the limit was lowered below what runs, nobody waits for a dead backend."""
    driver.fail(4)
    running = [driver.permit() for _ in range(3)]
    tickets = [driver.ticket(), driver.ticket()]
    driver.reconfigure(slots=1)
    answers = driver.settle(running[0], FAILED)
    assert [answer.ticket for answer in answers] == tickets
    assert {no.reason for no in turned_away(answers)} == {Reason.CIRCUIT_OPEN}


def test_a_shorter_queue_sends_nobody_away(driver: Driver) -> None:
    """Who already waits keeps its place when `queue.max_waiting` is lowered; newcomers see it."""
    for _ in range(3):
        driver.permit()
    tickets = [driver.ticket() for _ in range(3)]
    assert driver.reconfigure(queue=QueueConfig(max_waiting=1, timeout_s=5)) == []
    assert driver.seen.tickets == tuple(tickets)
    assert driver.refused().reason is Reason.QUEUE_FULL
    assert driver.seen.max_waiting == 1


def test_a_new_queue_time_holds_for_newcomers(driver: Driver) -> None:
    """`queue.timeout_s` can be changed while requests wait."""
    for _ in range(3):
        driver.permit()
    driver.reconfigure(queue=QueueConfig(timeout_s=5))
    assert driver.ticket().deadline_s == driver.now_s + 5


# -- drain ------------------------------------------------------------------------------------


def test_draining_answers_everybody_who_waits_and_lets_the_others_finish(driver: Driver) -> None:
    """On shutdown who waits is told at once, newcomers too, and running exchanges end normally."""
    running = [driver.permit() for _ in range(3)]
    tickets = [driver.ticket() for _ in range(4)]
    answers = driver.guard.drain()
    assert [answer.ticket for answer in answers] == tickets
    assert {no.reason for no in turned_away(answers)} == {Reason.DRAINING}
    assert driver.reason() is Reason.DRAINING
    assert driver.refused().reason is Reason.DRAINING
    assert driver.seen.draining
    for permit in running:
        assert driver.settle(permit) == []
    assert driver.seen.in_flight == 0
    assert driver.refused().reason is Reason.DRAINING
    assert driver.guard.drain() == []


def test_draining_says_so_even_when_the_circuit_is_open(driver: Driver) -> None:
    """A client is told the reason that will not pass: this process goes away."""
    driver.open()
    driver.guard.drain()
    assert driver.refused().reason is Reason.DRAINING


def test_a_probe_that_waits_when_draining_begins_fails_nothing() -> None:
    """The backend is not blamed for our shutdown: no probe deadline re-opens the circuit."""
    driver = Driver(slots=1)
    driver.fail(4)
    hung = driver.permit()
    driver.reconfigure(slots=2)
    driver.fail(1)
    driver.reconfigure(slots=1)
    driver.half_open()
    assert driver.ticket().passed.probe
    driver.guard.drain()
    assert driver.breaker.probes_in_flight == 0
    seen = len(driver.transitions)
    driver.wait(1_000)
    driver.settle(hung, FAILED)
    assert len(driver.transitions) == seen


def test_each_ticket_gets_a_number_of_its_own(driver: Driver) -> None:
    """Tickets and permits can be told apart by number, in order of arrival."""
    numbers = [driver.permit().number for _ in range(3)]
    numbers += [driver.ticket().number for _ in range(3)]
    assert numbers == sorted(set(numbers))
    ticket = driver.ask()
    assert isinstance(ticket, Ticket)
    assert ticket.guard == "inference"
