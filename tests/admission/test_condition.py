"""Is a backend that loads its model, or restarts, told from one that is broken?"""

from __future__ import annotations

import pytest

from sidecar.admission.answers import BreakerState
from sidecar.admission.config import BreakerConfig, BreakerMode
from sidecar.admission.outcome import Condition, Ending, Outcome, outcome_of
from tests.admission.driver import (
    BAD_REQUEST,
    BUSY,
    CUT,
    FAILED,
    LEFT_MID_STREAM,
    LEFT_WITH_NOTHING,
    LOADING,
    NOBODY_LISTENS,
    OK,
    RESTARTING,
    Driver,
)

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
NORMAL = Condition.NORMAL

TOLD = [(LOADING, Condition.WARMING, 60.0), (RESTARTING, Condition.RESTARTING, 30.0)]


@pytest.mark.parametrize(("outcome", "condition", "lasts_s"), TOLD)
def test_what_the_backend_says_is_shown_and_no_failure(
    driver: Driver, outcome: Outcome, condition: Condition, lasts_s: float
) -> None:
    """However many requests come too early: the circuit stays closed, and one sees why."""
    driver.fail(4)
    for _ in range(50):
        driver.exchange(outcome)
        driver.wait(1)
    assert driver.state is CLOSED
    assert driver.breaker.failure_count == 4
    assert driver.breaker.condition is condition
    driver.wait(lasts_s - 1.001)
    assert driver.breaker.condition is condition
    driver.wait(0.001)
    assert driver.breaker.condition is NORMAL, "nobody has said so for a while"


@pytest.mark.parametrize(("outcome", "condition", "lasts_s"), TOLD)
@pytest.mark.parametrize("success", [OK, LEFT_MID_STREAM])
def test_the_next_success_ends_it(
    driver: Driver, outcome: Outcome, condition: Condition, lasts_s: float, success: Outcome
) -> None:
    """A backend that answers is neither loading nor away."""
    del lasts_s
    driver.exchange(outcome)
    driver.wait(1)
    driver.exchange(FAILED, BUSY, BAD_REQUEST, CUT, LEFT_WITH_NOTHING)
    assert driver.breaker.condition is condition, "these do not answer it"
    driver.exchange(success)
    assert driver.breaker.condition is NORMAL


def test_what_a_restarting_backend_still_ends_is_no_end_of_the_restart(driver: Driver) -> None:
    """OpenClaw lets running work finish while it drains; then it is away nevertheless."""
    running = driver.permit()
    driver.wait(1)
    driver.exchange(RESTARTING)
    driver.wait(5)
    driver.exchange(RESTARTING)
    driver.settle(running, OK)
    assert driver.breaker.condition is Condition.RESTARTING
    driver.exchange(*[NOBODY_LISTENS] * 20)
    assert driver.state is CLOSED
    driver.exchange(OK)
    assert driver.breaker.condition is NORMAL, "this one was sent after the restart was told"


def test_nobody_listening_is_no_failure_for_half_a_minute_after_it_was_announced(
    driver: Driver,
) -> None:
    """A restart is no reason for a minute of open circuit; a backend that stays away is."""
    driver.exchange(RESTARTING)
    driver.wait(29.999)
    driver.exchange(*[NOBODY_LISTENS] * 20)
    assert driver.state is CLOSED
    assert driver.breaker.failure_count == 0
    driver.wait(0.001)
    driver.exchange(*[NOBODY_LISTENS] * 4)
    assert driver.state is CLOSED
    driver.exchange(NOBODY_LISTENS)
    assert driver.state is OPEN


@pytest.mark.parametrize(
    "outcome",
    [
        outcome_of(Ending.RESET, None, got_event=False),
        outcome_of(Ending.CONNECT_TIMEOUT, None, got_event=False),
        outcome_of(Ending.TLS_FAILED, None, got_event=False),
        FAILED,
        CUT,
    ],
)
def test_a_restart_excuses_nothing_but_that_nobody_listens(
    driver: Driver, outcome: Outcome
) -> None:
    """What was not announced is a failure as ever."""
    driver.exchange(RESTARTING)
    driver.exchange(*[outcome] * 5)
    assert driver.state is OPEN


def test_loading_does_not_excuse_that_nobody_listens(driver: Driver) -> None:
    """A server that loads its model answers; one that does not has died of it."""
    driver.exchange(LOADING)
    driver.exchange(*[NOBODY_LISTENS] * 5)
    assert driver.state is OPEN


def test_a_restart_announced_again_lasts_longer(driver: Driver) -> None:
    """Half a minute counts from the last time that it was said."""
    driver.exchange(RESTARTING)
    driver.wait(20)
    driver.exchange(RESTARTING)
    driver.wait(20)
    driver.exchange(*[NOBODY_LISTENS] * 5)
    assert driver.state is CLOSED


def test_an_announced_restart_is_no_call_in_the_window() -> None:
    """Neither the announcement nor what it excuses makes a ratio."""
    driver = Driver(breaker=BreakerConfig(failure_ratio=0.1, min_calls=1))
    driver.exchange(RESTARTING, *[NOBODY_LISTENS] * 5, LOADING)
    assert driver.breaker.window_calls == 0


@pytest.mark.parametrize(("outcome", "condition", "lasts_s"), TOLD)
def test_half_open_goes_on_probing(
    driver: Driver, outcome: Outcome, condition: Condition, lasts_s: float
) -> None:
    """A backend that will be ready soon is asked by each next request, one at a time."""
    del lasts_s
    driver.half_open()
    for _ in range(20):
        driver.exchange(outcome)
        driver.wait(1)
    if condition is Condition.RESTARTING:
        driver.exchange(*[NOBODY_LISTENS] * 5)
    assert driver.state is HALF_OPEN
    assert driver.breaker.condition is condition
    driver.exchange(OK)
    assert driver.state is CLOSED
    assert driver.breaker.condition is NORMAL


def test_a_probes_first_event_ends_it(driver: Driver) -> None:
    """The first token shows that the model is there."""
    driver.reconfigure(breaker=BreakerConfig(probe_successes=2))
    driver.half_open()
    driver.exchange(LOADING)
    driver.first_event(driver.permit())
    assert driver.state is HALF_OPEN
    assert driver.breaker.condition is NORMAL


def test_what_is_said_later_replaces_what_was_said(driver: Driver) -> None:
    """After its restart a server may load its model."""
    driver.exchange(RESTARTING)
    running = driver.permit()
    driver.wait(3)
    driver.exchange(LOADING)
    assert driver.breaker.condition is Condition.WARMING
    driver.settle(running, OK)
    assert driver.breaker.condition is Condition.WARMING, "sent before the model was asked for"
    driver.exchange(OK)
    assert driver.breaker.condition is NORMAL


def test_late_results_say_nothing_about_it(driver: Driver) -> None:
    """What was sent before an outage neither begins nor ends a condition after it."""
    driver.reconfigure(slots=9)
    old = [driver.permit() for _ in range(3)]
    driver.half_open()
    driver.settle(old[0], RESTARTING)
    assert driver.breaker.condition is NORMAL
    driver.exchange(LOADING)
    driver.settle(old[1], OK)
    driver.first_event(old[2])
    assert driver.breaker.condition is Condition.WARMING


def test_it_is_seen_while_open_too() -> None:
    """In `observe` requests still pass, and tell why nothing works."""
    driver = Driver(breaker=BreakerConfig(mode=BreakerMode.OBSERVE))
    driver.open()
    driver.exchange(LOADING)
    assert driver.breaker.condition is Condition.WARMING


def test_a_reset_forgets_it(driver: Driver) -> None:
    """An operator starts from nothing."""
    driver.exchange(RESTARTING)
    driver.guard.reset(driver.now_s)
    assert driver.breaker.condition is NORMAL
    driver.exchange(*[NOBODY_LISTENS] * 5)
    assert driver.state is OPEN


def test_disabled_does_not_listen_to_it(driver: Driver) -> None:
    """While `disabled` nothing is noted."""
    driver.set_mode(BreakerMode.DISABLED)
    driver.exchange(RESTARTING)
    assert driver.breaker.condition is NORMAL
