"""Does a backend that has just recovered get its load back step by step?"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admission.answers import BreakerState, Reason
from sidecar.admission.config import BreakerConfig, BreakerMode, QueueConfig
from sidecar.admission.ramp import Ramp
from tests.admission.driver import FAILED, OK, Driver, granted, turned_away

# Five slots: one at the recovery, one more each 10 s.
RAMP = BreakerConfig(ramp_s=40.0)


def recovered(breaker: BreakerConfig = RAMP, slots: int = 5) -> Driver:
    driver = Driver(slots=slots, breaker=breaker)
    driver.half_open()
    driver.exchange(OK)
    assert driver.state is BreakerState.CLOSED
    return driver


def limits(driver: Driver, *after_s: float) -> list[int]:
    start_s = driver.now_s
    shown = []
    for seconds in after_s:
        driver.now_s = start_s + seconds
        shown.append(driver.seen.effective_limit)
    driver.now_s = start_s
    return shown


def test_after_a_recovery_the_limit_rises_from_one_to_full() -> None:
    """In equal steps, each at its moment, and all of it after `ramp_s`."""
    driver = recovered()
    steps = [0, 9.999, 10, 19.999, 20, 30, 39.999, 40, 1_000]
    assert limits(driver, *steps) == [1, 1, 2, 2, 3, 4, 4, 5, 5]
    assert driver.seen.limit == 5


def test_by_default_everybody_may_come_at_once() -> None:
    """Without `ramp_s` a recovery gives back all slots."""
    driver = recovered(BreakerConfig())
    assert driver.seen.effective_limit == 5
    for _ in range(5):
        driver.permit()


def test_nobody_gets_a_slot_before_its_step() -> None:
    """Newcomers wait while the limit is low, although slots are free."""
    driver = recovered()
    driver.permit()
    waiting = driver.ticket()
    assert driver.wait(9.999) == []
    assert driver.seen.in_flight == 1
    [permit] = granted(driver.wait(0.001))
    assert permit.number == waiting.number


def test_each_step_lets_in_whoever_waits_longest() -> None:
    """One more each time, in the order of arrival."""
    driver = recovered()
    driver.permit()
    waiting = [driver.ticket() for _ in range(6)]
    let_in = [permit.number for _ in range(4) for permit in granted(driver.wait(10))]
    assert let_in == [ticket.number for ticket in waiting[:4]]
    assert driver.seen.in_flight == 5
    assert driver.wait(1_000) == []


def test_a_step_that_nobody_waits_for_is_there_for_newcomers() -> None:
    """Time needs no tick to pass."""
    driver = recovered()
    driver.permit()
    driver.now_s += 10
    driver.permit()
    driver.ticket()


def test_a_full_queue_is_not_full_any_more_when_a_step_comes() -> None:
    """Nobody is told to come back later while there is a slot."""
    driver = recovered()
    driver.reconfigure(queue=QueueConfig(max_waiting=0))
    driver.permit()
    assert driver.reason() is Reason.QUEUE_FULL
    driver.now_s += 10
    assert driver.reason() is None


def test_newcomers_do_not_overtake_those_who_wait_for_a_step() -> None:
    """A newcomer that is first to see a step does not take it from who waits."""
    driver = recovered()
    driver.permit()
    first = driver.ticket()
    driver.now_s += 10
    driver.ticket()
    assert driver.guard.next_due_s(driver.now_s) == driver.now_s
    [permit] = granted(driver.wait(0))
    assert permit.number == first.number


def test_it_says_when_the_next_step_comes() -> None:
    """Whoever waits gets a slot at its moment, not at the next tick."""
    driver = recovered()
    assert driver.guard.next_due_s(driver.now_s) is None, "nobody waits"
    driver.permit()
    driver.ticket()
    driver.ticket()
    start_s = driver.now_s
    assert driver.guard.next_due_s(driver.now_s) == start_s + 10
    driver.now_s += 10
    assert driver.guard.next_due_s(driver.now_s) == driver.now_s, "a step is due"
    granted(driver.guard.advance(driver.now_s))
    assert driver.guard.next_due_s(driver.now_s) == start_s + 20
    driver.now_s += 3
    assert driver.guard.next_due_s(driver.now_s) == start_s + 20
    assert len(granted(driver.wait(7))) == 1
    assert driver.guard.next_due_s(driver.now_s) is None, "nobody waits any more"


def test_at_the_top_there_is_no_next_step() -> None:
    """Who waits for one of all slots waits for others to end."""
    driver = recovered()
    driver.wait(40)
    for _ in range(5):
        driver.permit()
    driver.ticket()
    assert driver.guard.next_due_s(driver.now_s) is None


def test_other_classes_have_no_steps() -> None:
    """Where there is no breaker, nothing recovers."""
    driver = Driver(slots=1, breaker=None)
    driver.permit()
    driver.ticket()
    assert driver.guard.next_due_s(driver.now_s) is None
    assert driver.seen.effective_limit == 1


def test_a_slot_that_comes_back_is_used_within_the_limit() -> None:
    """During a ramp a freed slot goes to whoever waits, as ever."""
    driver = recovered()
    running = driver.permit()
    waiting = driver.ticket()
    [permit] = granted(driver.settle(running))
    assert permit.number == waiting.number
    assert driver.seen.in_flight == 1


def test_what_runs_already_is_not_revoked() -> None:
    """A recovery with more exchanges under way than its first step lets them end."""
    driver = Driver(slots=5, breaker=RAMP)
    old = [driver.permit() for _ in range(3)]
    driver.half_open()
    probe = driver.permit()
    driver.first_event(probe)
    assert (driver.seen.in_flight, driver.seen.effective_limit) == (4, 1)
    ticket = driver.ticket()
    assert [driver.settle(permit) for permit in old] == [[], [], []]
    [permit] = granted(driver.settle(probe))
    assert permit.number == ticket.number


def test_a_new_outage_ends_the_ramp() -> None:
    """Half-open again, the full limit holds for probes; the next recovery starts at one."""
    driver = recovered(BreakerConfig(ramp_s=40.0, probes=4))
    driver.fail(5)
    driver.reconfigure(breaker=BreakerConfig(ramp_s=40.0, probes=4, probe_successes=4))
    assert driver.seen.effective_limit == 5
    driver.half_open()
    probes = [driver.permit() for _ in range(4)]
    for probe in probes:
        driver.settle(probe)
    assert driver.seen.effective_limit == 1


def test_a_reset_ends_the_ramp_and_lets_in_who_waits() -> None:
    """An operator who closes the circuit wants all slots at once."""
    driver = recovered()
    driver.permit()
    waiting = [driver.ticket(), driver.ticket()]
    permits = granted(driver.guard.reset(driver.now_s))
    assert [permit.number for permit in permits] == [ticket.number for ticket in waiting]
    assert driver.seen.effective_limit == 5


def test_closing_by_hand_has_no_ramp() -> None:
    """Whoever resets an open circuit knows that the backend is well."""
    driver = Driver(slots=5, breaker=RAMP)
    driver.open()
    driver.guard.reset(driver.now_s)
    assert driver.seen.effective_limit == 5


@pytest.mark.parametrize("mode", [BreakerMode.OBSERVE, BreakerMode.DISABLED])
def test_a_breaker_that_may_not_refuse_may_not_make_wait_either(mode: BreakerMode) -> None:
    """`observe` and `disabled` leave traffic alone: who waits for a step is let in at once."""
    driver = recovered()
    driver.permit()
    driver.ticket()
    assert len(granted(driver.set_mode(mode))) == 1
    assert driver.seen.effective_limit == 5
    assert driver.guard.next_due_s(driver.now_s) is None
    driver.permit()


def test_a_recovery_that_is_only_observed_has_no_ramp() -> None:
    """In `observe` the limit never moves."""
    driver = recovered(BreakerConfig(ramp_s=40.0, mode=BreakerMode.OBSERVE))
    for _ in range(5):
        driver.permit()
    driver.ticket()
    assert driver.guard.next_due_s(driver.now_s) is None


def test_a_reload_changes_the_ramp() -> None:
    """More slots or less time hold from now on, and wake those who wait."""
    driver = recovered()
    driver.permit()
    driver.ticket()
    driver.now_s += 5
    assert granted(driver.reconfigure(slots=9)) != [], "eight steps within 40 s"
    driver.ticket()
    assert granted(driver.reconfigure(breaker=BreakerConfig(ramp_s=0.0))) != []
    assert driver.seen.effective_limit == 9


def test_one_slot_needs_no_ramp() -> None:
    """One is full already."""
    driver = recovered(slots=1)
    driver.permit()
    driver.ticket()
    assert driver.seen.effective_limit == 1
    assert driver.guard.next_due_s(driver.now_s) is None


def test_failures_during_the_ramp_open_as_ever() -> None:
    """The first step is no safe place."""
    driver = recovered()
    driver.exchange(*[FAILED] * 4)
    running = driver.permit()
    driver.ticket()
    [rejection] = turned_away(driver.settle(running, FAILED))
    assert rejection.reason is Reason.CIRCUIT_OPEN
    assert driver.state is BreakerState.OPEN


@given(
    since_s=st.floats(0, 1e6),
    ramp_s=st.floats(0.01, 86_400),
    full=st.integers(2, 200),
    share=st.floats(0, 1),
)
def test_a_step_comes_exactly_when_it_was_announced(
    since_s: float, ramp_s: float, full: int, share: float
) -> None:
    """Whatever the numbers: waiting until the moment that was named is waiting long enough."""
    ramp = Ramp()
    ramp.begin(since_s)
    now_s = since_s + share * ramp_s
    before = ramp.limit(now_s, ramp_s, full)
    assert 1 <= before <= full
    at_s = ramp.rises_s(now_s, ramp_s, full)
    if at_s is None:
        assert before == full
        return
    assert at_s > now_s
    assert ramp.limit(at_s, ramp_s, full) > before
    assert at_s <= since_s + ramp_s * (1 + 1e-9) + 1e-9


def test_the_limit_never_falls_while_time_passes() -> None:
    """A step that was given is not taken back."""
    ramp = Ramp()
    ramp.begin(0.1)
    seen = [ramp.limit(0.1 + number / 97, 10.0, 33) for number in range(1_000)]
    assert seen[0] == 1
    assert seen[-1] == 33
    assert all(later in (earlier, earlier + 1) for earlier, later in pairwise(seen))
