"""How long does the circuit stay open? As configured, longer each time, or as the backend asks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admission.answers import BreakerState, Permit
from sidecar.admission.config import BreakerConfig, BreakerMode
from sidecar.admission.outcome import Outcome, Report
from tests.admission.driver import BUSY, FAILED, LOADING, OK, Driver

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN

# Doubles from 10 s on, up to a minute and a half.
DOUBLING = BreakerConfig(open_s=10.0, open_backoff=2.0, open_max_s=90.0)

# What `random` returns at its two ends: no jitter, and (nearly) a fifth.
LEAST, MOST = 0.0, 0.999_999


def asks_for(seconds: float) -> Report:
    """The backend's answer said `Retry-After`."""
    return Report(retry_after_s=seconds)


def reopened(driver: Driver) -> float:
    """Let one more probe fail; returns how long the circuit is open then."""
    driver.half_open()
    driver.exchange(FAILED)
    return driver.breaker.open_remaining_s


# -- growth -----------------------------------------------------------------------------------


def test_by_default_the_open_time_does_not_grow(driver: Driver) -> None:
    """Each time `open_s` to the moment, whatever chance says."""
    driver.random = MOST
    driver.open()
    assert [reopened(driver) for _ in range(5)] == [60.0] * 5


def test_the_open_time_may_grow_each_time_a_probe_fails() -> None:
    """A backend that is down for long is asked less and less often, up to a bound."""
    driver = Driver(breaker=DOUBLING)
    driver.open()
    assert driver.breaker.open_remaining_s == 10.0
    assert [reopened(driver) for _ in range(5)] == [20.0, 40.0, 80.0, 90.0, 90.0]


def test_a_probe_that_times_out_is_one_that_failed() -> None:
    """A hung backend is asked less and less often, too."""
    driver = Driver(breaker=DOUBLING)
    driver.half_open()
    driver.permit()
    driver.wait(60)
    assert driver.state is OPEN
    assert driver.breaker.open_remaining_s == 20.0


def test_a_grown_open_time_is_up_to_a_fifth_shorter_by_chance() -> None:
    """Sidecars in front of one backend drift apart; none is later than the bound."""
    driver = Driver(breaker=DOUBLING)
    driver.random = MOST
    driver.open()
    assert driver.breaker.open_remaining_s == 10.0, "the first opening is as configured"
    times = [reopened(driver) for _ in range(4)]
    assert times == pytest.approx([16.0, 32.0, 64.0, 72.0], rel=1e-5)


def test_growth_never_makes_the_open_time_shorter() -> None:
    """A factor near 1 does not turn jitter into impatience."""
    driver = Driver(breaker=BreakerConfig(open_s=10.0, open_backoff=1.01))
    driver.random = MOST
    driver.open()
    assert reopened(driver) == 10.0


def test_after_a_recovery_growth_starts_anew() -> None:
    """A new outage is not made to pay for the one before."""
    driver = Driver(breaker=DOUBLING)
    driver.open()
    reopened(driver)
    reopened(driver)
    driver.half_open()
    driver.exchange(OK)
    driver.open()
    assert driver.breaker.open_remaining_s == 10.0
    assert reopened(driver) == 20.0


def test_growth_has_no_end_that_breaks() -> None:
    """After a thousand failed probes the circuit is still open for its bound."""
    driver = Driver(breaker=BreakerConfig(open_s=1.0, open_backoff=10.0, open_max_s=2.0))
    driver.open()
    assert [reopened(driver) for _ in range(1_000)] == [2.0] * 1_000


def test_each_opening_tells_how_long_it_is() -> None:
    """The log line of an opening names the time that clients are kept away."""
    driver = Driver(breaker=DOUBLING)
    driver.open()
    reopened(driver)
    assert [step.cooldown_s for step in driver.transitions if step.after is OPEN] == [10.0, 20.0]


# -- Retry-After ------------------------------------------------------------------------------


def test_retry_after_is_a_floor_for_the_open_time(driver: Driver) -> None:
    """A backend that asks for two minutes gets them."""
    driver.fail(4)
    driver.settle(driver.permit(), FAILED, asks_for(120))
    assert driver.breaker.open_remaining_s == 120
    assert driver.transitions[-1].cooldown_s == 120
    assert driver.refused().retry_after_s >= 120


def test_a_shorter_retry_after_changes_nothing(driver: Driver) -> None:
    """The open time is never shorter than `open_s`."""
    driver.fail(4)
    driver.settle(driver.permit(), FAILED, asks_for(1))
    assert driver.breaker.open_remaining_s == 60


def test_nobody_is_kept_out_for_more_than_five_minutes_by_retry_after(driver: Driver) -> None:
    """A quota of one caller for the rest of the day is no open time for all."""
    driver.fail(4)
    driver.settle(driver.permit(), FAILED, asks_for(86_400))
    assert driver.breaker.open_remaining_s == 300


def test_a_failed_probe_may_name_the_time(driver: Driver) -> None:
    """A probe that is told to come back in 90 s is the last for so long."""
    driver.half_open()
    driver.exchange(BUSY, report=asks_for(90))
    assert driver.breaker.open_remaining_s == 90


def test_what_was_asked_for_shortly_before_counts_too(driver: Driver) -> None:
    """The last straw need not repeat what an answer had said a moment ago."""
    driver.exchange(BUSY, report=asks_for(100))
    driver.wait(10)
    driver.exchange(BUSY, report=asks_for(20))
    driver.fail(5)
    assert driver.breaker.open_remaining_s == 90


def test_a_success_takes_back_what_was_asked_for(driver: Driver) -> None:
    """A limit that only one caller had hit keeps nobody out of a later outage for longer."""
    driver.exchange(BUSY, report=asks_for(300))
    driver.exchange(OK)
    driver.fail(5)
    assert driver.breaker.open_remaining_s == 60


def test_a_success_of_a_probe_takes_it_back_too(driver: Driver) -> None:
    """Once recovered, the backend starts with a clean sheet."""
    driver.half_open()
    driver.exchange(LOADING, report=asks_for(300))
    driver.exchange(OK)
    driver.fail(5)
    assert driver.breaker.open_remaining_s == 60


def test_what_a_loading_backend_asks_for_keeps_no_probe_away(driver: Driver) -> None:
    """While half-open it is asked again by the next request, whatever it had said."""
    driver.half_open()
    driver.exchange(LOADING, report=asks_for(300))
    assert driver.permit().passed.probe


def test_a_later_deadline_extends_a_running_open_time(driver: Driver) -> None:
    """An answer on its way when the circuit opened may still say when to come back."""
    first, second, third = (driver.permit() for _ in range(3))
    driver.reconfigure(slots=4)
    driver.open()
    driver.wait(10)
    driver.settle(first, BUSY, asks_for(20))
    assert driver.breaker.open_remaining_s == 50, "never shorter"
    driver.settle(second, BUSY, asks_for(200))
    assert driver.breaker.open_remaining_s == 200
    driver.wait(150)
    driver.settle(third, BUSY, asks_for(3_600))
    assert driver.breaker.open_remaining_s == 300
    assert driver.breaker.late_results == 3
    assert driver.breaker.generation == 1


def test_a_late_answer_without_retry_after_extends_nothing(driver: Driver) -> None:
    """The failures of the outage itself do not make it longer."""
    old = driver.permit()
    driver.open()
    driver.wait(10)
    driver.settle(old, BUSY)
    assert driver.breaker.open_remaining_s == 50


@pytest.mark.parametrize("recovered", [False, True])
def test_a_late_deadline_does_nothing_once_the_open_time_is_over(
    driver: Driver, recovered: bool
) -> None:
    """It does not reach into half-open, and not into the next outage."""
    old = driver.permit()
    driver.half_open()
    if recovered:
        driver.exchange(OK)
    driver.settle(old, BUSY, asks_for(300))
    assert driver.state is (CLOSED if recovered else HALF_OPEN)
    assert driver.permit().passed.probe == (0 if recovered else 1)
    if recovered:
        driver.exchange(*[FAILED] * 5)
    else:
        driver.wait(60)  # the probe's deadline
    assert driver.breaker.open_remaining_s == 60


def test_observe_stays_open_only_for_as_long_as_enforce_would() -> None:
    """Requests that `enforce` would not have sent cannot prolong what is observed."""
    driver = Driver(breaker=BreakerConfig(mode=BreakerMode.OBSERVE))
    driver.open()
    observed = driver.permit()
    for _ in range(6):
        driver.wait(9)
        driver.exchange(BUSY, report=asks_for(300))
    assert driver.breaker.open_remaining_s == 6
    driver.wait(6)
    assert driver.state is HALF_OPEN
    driver.exchange(FAILED)
    driver.settle(observed, BUSY, asks_for(300))
    assert driver.breaker.late_results == 1
    assert driver.breaker.open_remaining_s == 60, "nor can those that end late"


def test_a_reset_forgets_what_was_asked_for(driver: Driver) -> None:
    """An operator who knows better starts from nothing."""
    driver.exchange(BUSY, report=asks_for(300))
    driver.guard.reset(driver.now_s)
    driver.fail(5)
    assert driver.breaker.open_remaining_s == 60


def test_disabled_does_not_listen(driver: Driver) -> None:
    """While `disabled` nothing is remembered for the time after it."""
    driver.set_mode(BreakerMode.DISABLED)
    driver.exchange(BUSY, report=asks_for(300))
    driver.set_mode(BreakerMode.OBSERVE)
    driver.fail(5)
    assert driver.breaker.open_remaining_s == 60


# -- both -------------------------------------------------------------------------------------

ASKED = st.none() | st.sampled_from([0.0, 5.0, 50.0, 299.0, 300.0, 1e9])
STORIES = st.lists(
    st.tuples(
        st.sampled_from([OK, FAILED, BUSY]), ASKED, st.floats(0, 1, exclude_max=True),
        st.sampled_from([0.0, 1.0, 30.0]),
    ),
    max_size=40,
)  # fmt: skip


@given(
    STORIES,
    st.sampled_from([1.0, 1.5, 2.0, 10.0]),
    st.sampled_from([1.0, 60.0]),
    st.sampled_from([1.0, 100.0, 600.0]),
)
def test_the_open_time_keeps_its_bounds(
    story: list[tuple[Outcome, float | None, float, float]],
    backoff: float,
    open_s: float,
    max_s: float,
) -> None:
    """Never shorter than `open_s` or what the backend asked for; never longer than the bounds."""
    config = BreakerConfig(
        failure_threshold=2, open_s=open_s, open_backoff=backoff, open_max_s=max_s
    )
    driver = Driver(breaker=config)
    for outcome, asked_s, random, later_s in story:
        driver.now_s += later_s
        driver.random = random
        permit = driver.ask()
        if not isinstance(permit, Permit):
            continue
        driver.settle(permit, outcome, Report(retry_after_s=asked_s))
        if driver.state is not OPEN:
            continue
        remaining_s = driver.breaker.open_remaining_s
        # Differences of moments around 1,000 s are exact to much less than this.
        assert remaining_s >= open_s - 1e-9
        assert remaining_s >= min(300.0, asked_s or 0.0) - 1e-9
        assert remaining_s <= max(open_s, max_s, 300.0) + 1e-9
