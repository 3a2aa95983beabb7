"""Is one request that an SDK repeats again and again taken for one failing request?"""

from __future__ import annotations

from sidecar.admission.answers import BreakerState
from sidecar.admission.config import BreakerConfig
from sidecar.admission.outcome import Report
from tests.admission.driver import BUSY, FAILED, LEFT_MID_STREAM, OK, Driver

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def first(name: str) -> Report:
    return Report(attempt_of=name)


def again(name: str) -> Report:
    return Report(attempt_of=name, is_retry=True)


def test_repetitions_of_one_request_are_one_failure(driver: Driver) -> None:
    """One client with a request that its backend cannot serve does not lock out all others."""
    driver.exchange(FAILED, report=first("a"))
    driver.exchange(*[FAILED] * 50, report=again("a"))
    assert driver.breaker.failure_count == 1
    assert driver.state is CLOSED


def test_five_failing_requests_open_however_often_each_is_repeated(driver: Driver) -> None:
    """The fifth logical request opens at its first failure."""
    for name in "abcd":
        driver.exchange(FAILED, report=first(name))
        driver.exchange(FAILED, FAILED, report=again(name))
    assert driver.breaker.failure_count == 4
    driver.exchange(FAILED, report=first("e"))
    assert driver.state is OPEN


def test_repetitions_among_others_are_recognised(driver: Driver) -> None:
    """Clients repeat at the same time, in any order."""
    for name in "abcd":
        driver.exchange(FAILED, report=first(name))
    for name in "dacbbadc":
        driver.exchange(FAILED, report=again(name))
    assert driver.breaker.failure_count == 4


def test_a_repetition_whose_first_attempt_was_not_seen_counts_once(driver: Driver) -> None:
    """The first attempt may have been refused here, or gone to another sidecar."""
    driver.exchange(BUSY, report=first("a"))
    driver.exchange(FAILED, FAILED, FAILED, report=again("a"))
    assert driver.breaker.failure_count == 1


def test_new_requests_that_look_alike_count_each(driver: Driver) -> None:
    """Where only caller, path and length tell requests apart, first attempts are new requests."""
    driver.exchange(*[FAILED] * 4, report=first("a"))
    assert driver.breaker.failure_count == 4
    driver.exchange(FAILED, report=first("a"))
    assert driver.state is OPEN


def test_nameless_repetitions_count_each(driver: Driver) -> None:
    """What nothing identifies cannot be recognised."""
    driver.exchange(*[FAILED] * 5, report=Report(is_retry=True))
    assert driver.state is OPEN


def test_a_success_forgets_names_with_the_row(driver: Driver) -> None:
    """In a new row each request may be one failure again, and one only."""
    driver.exchange(FAILED, report=first("a"))
    driver.exchange(OK)
    driver.exchange(FAILED, FAILED, report=again("a"))
    assert driver.breaker.failure_count == 1


def test_what_leaves_the_row_leaves_the_names(driver: Driver) -> None:
    """Neither busy answers nor clients that left make a repetition count."""
    driver.exchange(FAILED, report=first("a"))
    driver.exchange(BUSY, LEFT_MID_STREAM)
    driver.exchange(FAILED, report=again("a"))
    assert driver.breaker.failure_count == 1


def test_a_repetition_is_a_probe_like_any_other(driver: Driver) -> None:
    """While half-open there is no row: a failed probe re-opens."""
    driver.fail(4)
    driver.exchange(FAILED, report=first("a"))
    driver.half_open()
    driver.exchange(FAILED, report=again("a"))
    assert driver.state is OPEN
    driver.half_open()
    driver.exchange(OK, report=again("a"))
    assert driver.state is CLOSED
    driver.exchange(FAILED, report=again("a"))
    assert driver.breaker.failure_count == 1, "names of the outage are forgotten"


def test_repetitions_are_calls_in_the_window() -> None:
    """A ratio looks at what the backend was asked, whoever asked and how often."""
    driver = Driver(breaker=BreakerConfig(failure_ratio=0.9, min_calls=10))
    driver.exchange(*[FAILED] * 9, report=again("a"))
    assert driver.breaker.window_calls == 9
    driver.exchange(FAILED, report=again("a"))
    assert driver.state is OPEN


def test_names_need_no_more_memory_than_the_row() -> None:
    """A client that invents names without end is forgotten with its failures."""
    driver = Driver(breaker=BreakerConfig(failure_threshold=3))
    for number in range(1_000):
        driver.exchange(FAILED, FAILED, report=again(f"{number}" * 1_000))
        driver.exchange(OK)
    breaker = driver.guard._breaker
    assert breaker is not None
    assert len(breaker._evidence._in_row) == 0
    driver.exchange(FAILED, report=again("a"))
    assert len(breaker._evidence._in_row) == 1
