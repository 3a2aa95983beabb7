"""What does each mode do to newcomers, to those who wait, to probes and to counts, and when set?"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sidecar.admission.answers import BreakerState, Permit, Reason, TransitionReason
from sidecar.admission.config import BreakerConfig, BreakerMode
from tests.admission.driver import FAILED, OK, Driver, granted, turned_away

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
ENFORCE, OBSERVE = BreakerMode.ENFORCE, BreakerMode.OBSERVE
DISABLED, FORCED_OPEN = BreakerMode.DISABLED, BreakerMode.FORCED_OPEN

BY_HAND = TransitionReason.OPERATOR


@dataclass(frozen=True)
class Mode:
    """What a mode does while the backend fails."""

    lets_in: bool  # newcomers, while the backend is failing
    counts: bool
    opens: bool
    would_refuse: int  # of the one newcomer


MODES = {
    ENFORCE: Mode(lets_in=False, counts=True, opens=True, would_refuse=0),
    OBSERVE: Mode(lets_in=True, counts=True, opens=True, would_refuse=1),
    DISABLED: Mode(lets_in=True, counts=False, opens=False, would_refuse=0),
    # Exchanges that were running when it was set are heard, so that the page shows the truth.
    FORCED_OPEN: Mode(lets_in=False, counts=True, opens=True, would_refuse=0),
}


def failing_under(mode: BreakerMode) -> Driver:
    """Six exchanges are under way, a mode is set, and five of them fail."""
    driver = Driver(slots=6)
    driver.set_mode(OBSERVE if mode is ENFORCE else ENFORCE)
    running = [driver.permit() for _ in range(6)]
    driver.set_mode(mode)
    for permit in running[:5]:
        driver.settle(permit, FAILED)
    return driver


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_counts_and_refuses_as_documented(mode: BreakerMode) -> None:
    """The fifth failure opens, where failures count; newcomers pass, where nobody is refused."""
    expected, driver = MODES[mode], failing_under(mode)
    assert driver.breaker.failure_count == (5 if expected.counts else 0)
    assert driver.state is (OPEN if expected.opens else CLOSED)
    assert isinstance(driver.ask(), Permit) == expected.lets_in
    assert driver.breaker.would_refuse == expected.would_refuse


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_leaves_those_who_wait_or_refuses_them_at_once(mode: BreakerMode) -> None:
    """Only a breaker that refuses newcomers refuses those who wait, and then all of them."""
    driver = Driver(slots=1)
    running = driver.permit()
    waiting = [driver.ticket(), driver.ticket()]
    told = driver.set_mode(mode)
    driver.reconfigure(breaker=BreakerConfig(mode=mode, failure_threshold=1))
    told += driver.settle(running, FAILED)
    if MODES[mode].lets_in:
        assert [permit.number for permit in granted(told)] == [waiting[0].number]
        assert driver.seen.tickets == (waiting[1],)
    else:
        assert [answer.ticket for answer in told] == waiting
        assert {no.reason for no in turned_away(told)} == {Reason.CIRCUIT_OPEN}


@pytest.mark.parametrize("mode", [ENFORCE, OBSERVE])
def test_probes_are_the_same_whether_they_are_enforced_or_observed(mode: BreakerMode) -> None:
    """`observe` tells truly what `enforce` would do: it has probes, deadlines and recoveries."""
    driver = Driver(breaker=BreakerConfig(mode=mode))
    driver.half_open()
    assert driver.permit().passed.probe
    driver.wait(60)
    assert driver.state is OPEN
    driver.half_open()
    driver.exchange(FAILED)
    assert driver.state is OPEN
    driver.half_open()
    driver.exchange(OK)
    assert driver.state is CLOSED


def test_a_probe_under_way_decides_although_forced_open(driver: Driver) -> None:
    """What was sent is heard; but nobody else passes, whatever it says."""
    driver.half_open()
    probe = driver.permit()
    driver.set_mode(FORCED_OPEN)
    driver.settle(probe, OK)
    assert driver.state is CLOSED
    assert driver.refused().reason is Reason.CIRCUIT_OPEN


def test_a_probe_under_way_is_late_once_disabled(driver: Driver) -> None:
    """Disabling closes; what the probe says then is of the time before."""
    driver.half_open()
    probe = driver.permit()
    driver.set_mode(DISABLED)
    driver.settle(probe, FAILED)
    assert driver.state is CLOSED
    assert driver.breaker.probes_in_flight == 0
    assert driver.breaker.failure_count == 0


@pytest.mark.parametrize("before", MODES)
@pytest.mark.parametrize("after", MODES)
def test_every_mode_can_be_set_at_run_time(before: BreakerMode, after: BreakerMode) -> None:
    """From any mode to any other: `enforce` and `disabled` start from nothing, others go on."""
    driver = failing_under(before)
    was, transitions = driver.breaker, len(driver.transitions)
    driver.set_mode(after)
    now = driver.breaker
    assert now.mode is after
    if after is not before and after in (ENFORCE, DISABLED):
        assert (now.state, now.failure_count, now.trip_reason) == (CLOSED, 0, "")
        by_hand = [(CLOSED, BY_HAND)] if was.state is OPEN else []
        assert driver.steps[transitions:] == by_hand
    else:
        assert (now.state, now.failure_count) == (was.state, was.failure_count)
        assert now.trip_reason == was.trip_reason
        assert len(driver.transitions) == transitions
    open_now = now.state is OPEN and after is ENFORCE
    assert isinstance(driver.ask(), Permit) == (after is not FORCED_OPEN and not open_now)
