"""When is a refused client told to come back?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admission.answers import Reason, Rejection
from sidecar.admission.config import BreakerConfig, BreakerMode, QueueConfig
from tests.admission.driver import FAILED, OK, Driver, turned_away

# What `random` returns at its two ends: jitter of 10 % and of (nearly) 20 %.
LEAST, MOST = 0.0, 0.999_999

MANY_SLOTS = st.integers(1, 50)


def full_queue(slots: int, waiting: int, slot_s: float | None = None) -> Driver:
    """Every slot and every place taken; exchanges have taken `slot_s` so far."""
    driver = Driver(slots=slots, queue=QueueConfig(max_waiting=waiting))
    if slot_s is not None:
        for _ in range(100):  # enough for the running mean to arrive
            permit = driver.permit()
            driver.now_s += slot_s
            driver.settle(permit, OK)
    for _ in range(slots):
        driver.permit()
    for _ in range(waiting):
        driver.ticket()
    return driver


def retry_s(driver: Driver, random: float) -> float:
    driver.random = random
    return driver.refused().retry_after_s


@pytest.mark.parametrize(
    ("slots", "waiting", "slot_s", "honest_s"),
    [(3, 5, 4.0, 8.0), (1, 0, 2.0, 2.0), (2, 9, 10.0, 50.0), (4, 3, 8.0, 8.0)],
)
def test_a_full_queue_names_its_honest_wait(
    slots: int, waiting: int, slot_s: float, honest_s: float
) -> None:
    """(Ahead + 1) x mean slot time / limit, and 10 to 20 % on top so that not all come at once."""
    driver = full_queue(slots, waiting, slot_s)
    assert retry_s(driver, LEAST) == pytest.approx(honest_s * 1.1)
    assert retry_s(driver, 0.5) == pytest.approx(honest_s * 1.15)
    assert retry_s(driver, MOST) == pytest.approx(min(60, honest_s * 1.2), rel=1e-5)


def test_before_the_first_answer_a_middling_slot_time_is_assumed() -> None:
    """Nothing is known yet: five seconds for each slot, as LLM answers go."""
    driver = full_queue(slots=1, waiting=1)
    assert driver.seen.mean_slot_s == 5
    assert retry_s(driver, LEAST) == pytest.approx(11)


def test_the_last_ten_or_so_slot_times_decide() -> None:
    """A backend that has become slow is noticed soon, and one odd answer is not overrated."""
    driver = Driver()
    for _ in range(5):
        driver.exchange(OK)
    for _ in range(10):
        permit = driver.permit()
        driver.now_s += 100
        driver.settle(permit)
    assert 85 < driver.seen.mean_slot_s < 95
    driver.exchange(OK)
    assert driver.seen.mean_slot_s > 70


def test_the_guess_does_not_outlive_the_first_answer() -> None:
    """Once one slot time is known, nobody is told to wait by what was assumed before."""
    driver = Driver()
    permit = driver.permit()
    driver.now_s += 0.05
    driver.settle(permit)
    assert driver.seen.mean_slot_s == pytest.approx(0.05)


def test_the_slot_time_begins_with_the_slot() -> None:
    """Time spent waiting is not time that the backend took."""
    driver = Driver(slots=1)
    running = driver.permit()
    driver.ticket()
    driver.now_s += 5
    [answer] = driver.settle(running)
    driver.now_s += 5
    assert not isinstance(answer.result, Rejection)
    driver.settle(answer.result)
    assert driver.seen.mean_slot_s == 5


@given(
    slots=MANY_SLOTS,
    waiting=st.integers(0, 40),
    mean_slot_s=st.floats(0, 1e6),
    random=st.floats(0, 1, exclude_max=True),
)
def test_a_full_queue_never_asks_for_less_than_1_s_or_more_than_60_s(
    slots: int, waiting: int, mean_slot_s: float, random: float
) -> None:
    """SDKs believe up to a minute, and less than a second is no wait at all."""
    driver = full_queue(slots, waiting)
    driver.guard._limiter.mean_slot_s = mean_slot_s
    honest_s = (waiting + 1) * mean_slot_s / slots
    told_s = retry_s(driver, random)
    assert 1 <= told_s <= 60
    assert told_s >= min(60, honest_s)
    assert told_s <= max(1, honest_s * 1.2)


def test_a_queue_time_out_names_the_honest_wait_too() -> None:
    """Who waited in vain is told what the queue looks like without it."""
    driver = full_queue(slots=2, waiting=3, slot_s=4)
    rejection = driver.guard.expire(driver.seen.tickets[0], driver.now_s + 30)
    assert rejection is not None
    assert rejection.retry_after_s == pytest.approx((2 + 1) * 4 / 2 * 1.1)


@pytest.mark.parametrize("waited_s", [0.0, 0.5, 20.0, 50.0])
def test_an_open_circuit_names_the_time_until_the_next_probe(
    driver: Driver, waited_s: float
) -> None:
    """What remains of the open time, and 10 to 20 % on top: nobody comes back too early."""
    driver.open()
    driver.wait(waited_s)
    assert retry_s(driver, LEAST) == pytest.approx((60 - waited_s) * 1.1)
    assert retry_s(driver, MOST) == pytest.approx((60 - waited_s) * 1.2, rel=1e-5)


def test_a_long_open_time_is_told_in_full() -> None:
    """An hour is an hour: a client that came after a minute would only be refused again."""
    driver = Driver(breaker=BreakerConfig(open_s=3600))
    driver.open()
    assert retry_s(driver, LEAST) == pytest.approx(3960)


def test_the_last_moment_of_the_open_time_is_a_second(driver: Driver) -> None:
    """Retry-After is never below one second."""
    driver.open()
    driver.wait(59.99)
    assert retry_s(driver, MOST) == 1


def test_others_are_told_to_come_back_soon_while_a_probe_runs(driver: Driver) -> None:
    """A probe is decided within seconds, usually; they are not kept away for all of `probe_s`."""
    driver.half_open()
    driver.permit()
    assert retry_s(driver, LEAST) == pytest.approx(5.5)
    driver.wait(58)
    assert retry_s(driver, LEAST) == pytest.approx(2.2)
    driver.wait(1.5)
    rejection = driver.refused()
    assert (rejection.reason, rejection.retry_after_s) == (Reason.PROBING, 1)


def test_probing_looks_at_the_probe_that_is_decided_first() -> None:
    """With several probes, a place comes free with the earliest deadline."""
    driver = Driver(breaker=BreakerConfig(probes=2, probe_s=10))
    driver.half_open()
    driver.permit()
    driver.wait(7)
    driver.permit()
    assert retry_s(driver, LEAST) == pytest.approx(3.3)


def test_a_probe_that_is_due_is_never_awaited_backwards(driver: Driver) -> None:
    """Whatever the clock says, nobody is told to come back in the past."""
    driver.set_mode(BreakerMode.FORCED_OPEN)
    driver.reconfigure(breaker=BreakerConfig(mode=BreakerMode.FORCED_OPEN, open_s=0.001))
    assert retry_s(driver, MOST) == 1


def test_draining_says_one_second(driver: Driver) -> None:
    """Another instance can be asked almost at once."""
    driver.guard.drain()
    assert retry_s(driver, MOST) == 1


def test_those_refused_together_are_not_told_the_same(driver: Driver) -> None:
    """Each refusal has a jitter of its own, so that they do not all come back at once."""
    driver.fail(4)
    running = driver.permit()
    driver.reconfigure(slots=1)
    for _ in range(3):
        driver.ticket()
    draws = iter([0.1, 0.5, 0.9])
    driver.guard._random = lambda: next(draws)
    told = [no.retry_after_s for no in turned_away(driver.settle(running, FAILED))]
    assert told == pytest.approx([66.6, 69, 71.4])
