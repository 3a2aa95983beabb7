"""Is what `/status`, the page and the gauges show true?"""

from __future__ import annotations

import pytest

from sidecar.admission.answers import BreakerState
from sidecar.admission.breaker import BreakerSnapshot
from sidecar.admission.config import BreakerConfig, BreakerMode, QueueConfig
from tests.admission.driver import FAILED, OK, Driver


def test_a_new_guard_shows_its_configuration_and_no_past() -> None:
    """At the start everything is at zero, closed, and as configured."""
    driver = Driver(
        slots=7,
        queue=QueueConfig(max_waiting=9, max_bytes=11),
        breaker=BreakerConfig(failure_threshold=4, mode=BreakerMode.OBSERVE),
    )
    seen = driver.seen
    assert (seen.name, seen.limit, seen.max_waiting, seen.max_bytes) == ("inference", 7, 9, 11)
    assert (seen.in_flight, seen.waiting, seen.held_bytes, seen.oldest_wait_s) == (0, 0, 0, 0)
    assert (seen.draining, seen.permits, seen.tickets) == (False, (), ())
    assert seen.breaker == BreakerSnapshot(
        state=BreakerState.CLOSED,
        mode=BreakerMode.OBSERVE,
        generation=0,
        failure_count=0,
        failure_threshold=4,
        open_remaining_s=0.0,
        open_for_s=0.0,
        trip_reason="",
        probes_in_flight=0,
        late_results=0,
        would_refuse=0,
    )


def test_who_runs_and_who_waits_is_shown_in_order(driver: Driver) -> None:
    """Every exchange in flight and every waiting request can be seen, the oldest first."""
    running = [driver.permit() for _ in range(3)]
    waiting = [driver.ticket()]
    driver.now_s += 4
    waiting.append(driver.ticket())
    driver.now_s += 1
    seen = driver.seen
    assert seen.permits == tuple(running)
    assert seen.tickets == tuple(waiting)
    assert seen.oldest_wait_s == 5
    assert [permit.subject.request_id for permit in seen.permits] == ["r-1", "r-2", "r-3"]
    driver.guard.leave(waiting[0], driver.now_s)
    assert driver.seen.oldest_wait_s == 1
    driver.settle(running[1])
    assert [permit.number for permit in driver.seen.permits] == [1, 3, 5]


def test_an_open_circuit_shows_since_when_until_when_and_why(driver: Driver) -> None:
    """An operator sees how long it has been open, how long it will be, and what opened it."""
    driver.open()
    driver.wait(20)
    seen = driver.breaker
    assert seen.state is BreakerState.OPEN
    assert (seen.open_for_s, seen.open_remaining_s) == (20, 40)
    assert (seen.failure_count, seen.failure_threshold) == (5, 5)
    assert seen.trip_reason == "server_error"
    assert seen.generation == 1


def test_half_open_shows_its_probes_and_no_open_time(driver: Driver) -> None:
    """While it probes it is not open; what opened it is still shown."""
    driver.half_open()
    assert driver.breaker.probes_in_flight == 0
    driver.permit()
    driver.wait(1)
    seen = driver.breaker
    assert seen.state is BreakerState.HALF_OPEN
    assert (seen.open_for_s, seen.open_remaining_s) == (0, 0)
    assert seen.probes_in_flight == 1
    assert seen.trip_reason == "server_error"


def test_a_closed_circuit_shows_no_old_reason(driver: Driver) -> None:
    """After a recovery nothing of the outage is left but the generation."""
    driver.half_open()
    driver.exchange(OK)
    seen = driver.breaker
    assert (seen.state, seen.trip_reason, seen.failure_count) == (BreakerState.CLOSED, "", 0)
    assert (seen.probes_in_flight, seen.generation) == (0, 3)


def test_looking_changes_nothing(driver: Driver) -> None:
    """A scrape moves no state: what time brings is decided by traffic and the tick."""
    driver.open()
    driver.now_s += 1_000
    first, second = driver.seen, driver.seen
    assert first == second
    assert first.breaker is not None
    assert first.breaker.state is BreakerState.OPEN
    assert first.breaker.open_remaining_s == 0
    assert len(driver.transitions) == 1


def test_what_was_seen_stays_as_it_was_seen(driver: Driver) -> None:
    """A snapshot is of one moment, whatever happens after it."""
    permit = driver.permit()
    seen = driver.seen
    driver.settle(permit, FAILED)
    driver.fail(4)
    assert (seen.in_flight, len(seen.permits)) == (1, 1)
    assert seen.breaker is not None
    assert seen.breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("mode", list(BreakerMode))
def test_the_mode_is_shown(driver: Driver, mode: BreakerMode) -> None:
    """Nobody forgets an override: it is on every snapshot."""
    driver.set_mode(mode)
    assert driver.breaker.mode is mode
