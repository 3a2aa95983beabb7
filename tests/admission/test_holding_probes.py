"""Does a backend that says it is not ready get its probe later, and never its circuit closed?"""

from __future__ import annotations

import pytest

from sidecar.admission.answers import BreakerState, Permit, Reason
from sidecar.admission.config import BreakerConfig, BreakerMode
from tests.admission.driver import FAILED, OK, Driver, granted

HALF_OPEN = BreakerState.HALF_OPEN


def held(driver: Driver, seconds: float) -> None:
    driver.guard.hold_probes(driver.now_s, driver.now_s + seconds)


def wanted(driver: Driver) -> bool:
    return driver.guard.wants_probe(driver.now_s)


def test_a_probe_is_wanted_exactly_when_the_next_request_would_be_one(driver: Driver) -> None:
    """Only then is it worth asking a backend whether it is ready."""
    assert not wanted(driver), "closed"
    driver.open()
    assert not wanted(driver), "open"
    driver.now_s += 60
    assert wanted(driver), "its time is over, though nobody has asked yet"
    probe = driver.permit()
    assert not wanted(driver), "one is under way"
    driver.settle(probe, OK)
    assert not wanted(driver), "closed again"


def test_no_probe_is_sent_while_the_backend_is_not_ready(driver: Driver) -> None:
    """Requests are refused with the time after which it is asked again."""
    driver.half_open()
    held(driver, 20)
    assert not wanted(driver)
    driver.wait(5)
    rejection = driver.refused()
    assert rejection.reason is Reason.PROBING
    assert rejection.retry_after_s == pytest.approx(15 * 1.1)
    assert "not ready" in rejection.message
    assert driver.breaker.probe_hold_s == 15
    driver.wait(14.999)
    assert driver.reason() is Reason.PROBING
    driver.wait(0.001)
    assert wanted(driver)
    assert driver.permit().passed.probe


def test_ready_never_closes_the_circuit(driver: Driver) -> None:
    """Letting go makes room for a probe; only an answered request closes."""
    driver.half_open()
    held(driver, 20)
    held(driver, 0)
    assert driver.state is HALF_OPEN
    assert driver.breaker.probe_hold_s == 0
    assert driver.permit().passed.probe
    assert driver.state is HALF_OPEN


def test_it_may_be_held_before_its_time(driver: Driver) -> None:
    """Whoever finds the backend not ready while the circuit is open saves it the first probe."""
    driver.open()
    driver.wait(55)
    held(driver, 10)
    assert driver.refused().reason is Reason.CIRCUIT_OPEN
    driver.wait(5)
    assert driver.state is HALF_OPEN
    assert driver.refused().reason is Reason.PROBING
    driver.wait(5)
    assert driver.permit().passed.probe


def test_a_probe_that_is_under_way_goes_on(driver: Driver) -> None:
    """What was sent already decides."""
    driver.half_open()
    probe = driver.permit()
    held(driver, 30)
    driver.settle(probe, OK)
    assert driver.state is BreakerState.CLOSED
    assert driver.breaker.probe_hold_s == 0, "nothing is left to hold"
    driver.half_open()
    assert driver.permit().passed.probe


def test_a_probe_that_waits_for_a_slot_goes_on() -> None:
    """It has its place already."""
    driver = Driver(slots=1, breaker=BreakerConfig(failure_threshold=1))
    driver.open()
    driver.set_mode(BreakerMode.OBSERVE)
    running = driver.permit()
    driver.wait(60)
    ticket = driver.ticket()
    assert ticket.passed.probe
    held(driver, 30)
    [permit] = granted(driver.settle(running, OK))
    assert permit.passed.probe


def test_holding_ends_by_itself(driver: Driver) -> None:
    """Whoever holds for ever and is forgotten cannot wedge half-open: five minutes at most."""
    driver.half_open()
    held(driver, 1e9)
    driver.wait(299.999)
    assert driver.reason() is Reason.PROBING
    driver.wait(0.001)
    assert driver.permit().passed.probe


def test_a_closed_circuit_is_not_held(driver: Driver) -> None:
    """Readiness says nothing while requests succeed."""
    held(driver, 100)
    assert isinstance(driver.ask(), Permit)


@pytest.mark.parametrize("mode", [BreakerMode.OBSERVE, BreakerMode.DISABLED])
def test_a_breaker_that_may_not_refuse_holds_nobody(driver: Driver, mode: BreakerMode) -> None:
    """In `observe` and `disabled` requests pass, probes or not."""
    driver.set_mode(mode)
    driver.fail(5)
    driver.wait(60)
    held(driver, 100)
    before = driver.breaker.would_refuse
    permit = driver.permit()
    assert not permit.passed.probe
    assert driver.breaker.would_refuse - before == (mode is BreakerMode.OBSERVE)


def test_forced_open_wants_no_probe(driver: Driver) -> None:
    """Nobody is let through, so nobody need ask."""
    driver.half_open()
    driver.set_mode(BreakerMode.FORCED_OPEN)
    assert not wanted(driver)


def test_a_class_without_a_breaker_wants_none() -> None:
    """There is nothing to find out."""
    driver = Driver(breaker=None)
    driver.exchange(*[FAILED] * 10)
    held(driver, 100)
    assert not wanted(driver)
    assert isinstance(driver.ask(), Permit)
