"""Does each row of the table "What counts" mean what it says, in the row, window and as a probe?"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sidecar.admission.answers import BreakerState
from sidecar.admission.config import BreakerConfig
from sidecar.admission.outcome import NO_REPORT, Ending, Outcome, Report, Said, outcome_of
from tests.admission.driver import FAILED, OK, RESTARTING, Driver

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN

SLOW_CALL_S = 10.0
# Bounds that nothing here reaches: each row is looked at, not what many of them lead to.
NEVER_OPENS = BreakerConfig(
    failure_threshold=100,
    failure_ratio=1.0,
    slow_ratio=1.0,
    slow_call_s=SLOW_CALL_S,
    min_calls=1000,
)


def answer(status: int, said: Said = Said.NOTHING) -> Outcome:
    return outcome_of(Ending.COMPLETED, status, got_event=True, said=said)


def broken(ending: Ending, status: int | None = None) -> Outcome:
    return outcome_of(ending, status, got_event=status is not None)


@dataclass(frozen=True)
class Row:
    """One row: `in_a_row` is what becomes of two failures in a row by it."""

    outcome: Outcome
    in_a_row: int
    window: tuple[int, int, int]  # calls, failures, slow
    probe: BreakerState  # what a half-open circuit becomes
    took_s: float = 1.0
    report: Report = NO_REPORT


def failure(outcome: Outcome) -> Row:
    return Row(outcome, 3, (1, 1, 0), OPEN)


def overload(outcome: Outcome) -> Row:
    return Row(outcome, 2, (1, 1, 0), OPEN)


def neutral(outcome: Outcome, took_s: float = 1.0) -> Row:
    return Row(outcome, 2, (0, 0, 0), HALF_OPEN, took_s)


LEFT = outcome_of(Ending.CLIENT_GONE, 200, got_event=True, said=Said.UNFINISHED)
LEFT_WITH_NOTHING = outcome_of(Ending.CLIENT_GONE, 200, got_event=False, said=Said.UNFINISHED)
LEFT_BEFORE_THE_HEAD = outcome_of(Ending.CLIENT_GONE, None, got_event=False)

TABLE = {
    "whole answer": Row(answer(200), 0, (1, 0, 0), CLOSED),
    "whole stream": Row(answer(200, Said.FINISHED), 0, (1, 0, 0), CLOSED),
    "redirect": Row(answer(302), 0, (1, 0, 0), CLOSED),
    "cannot connect": failure(broken(Ending.CONNECT_FAILED)),
    "cannot connect in time": failure(broken(Ending.CONNECT_TIMEOUT)),
    "TLS error": failure(broken(Ending.TLS_FAILED)),
    "reset before the head": failure(broken(Ending.RESET)),
    "no HTTP": failure(broken(Ending.BAD_RESPONSE)),
    "500": failure(answer(500)),
    "502": failure(answer(502)),
    "504": failure(answer(504)),
    "503 that loads": neutral(answer(503, Said.LOADING)),
    "429": overload(answer(429)),
    "529": overload(answer(529)),
    "other 503": overload(answer(503)),
    "503 that is busy": overload(answer(503, Said.BUSY)),
    "no first event in time": failure(broken(Ending.FIRST_EVENT_TIMEOUT)),
    "no first event behind the head": failure(
        outcome_of(Ending.FIRST_EVENT_TIMEOUT, 200, got_event=False, said=Said.UNFINISHED)
    ),
    "stalled": failure(broken(Ending.STALL_TIMEOUT, 200)),
    "cut": failure(broken(Ending.CUT, 200)),
    "no terminal marker": failure(answer(200, Said.UNFINISHED)),
    "error event": failure(answer(200, Said.FAILED)),
    "error event of load": overload(answer(200, Said.BUSY)),
    "4xx that is the backend's": failure(answer(400, Said.FAILED)),
    "restarting": neutral(answer(503, Said.RESTARTING)),
    "400": neutral(answer(400)),
    "401": neutral(answer(401)),
    "404": neutral(answer(404)),
    "501": neutral(answer(501)),
    "client left after an event": Row(LEFT, 2, (1, 0, 0), CLOSED),
    "client left with nothing, soon": neutral(LEFT_WITH_NOTHING),
    "client left with nothing, in time": neutral(LEFT_WITH_NOTHING, SLOW_CALL_S),
    "client left with nothing, late": Row(LEFT_WITH_NOTHING, 2, (1, 0, 1), OPEN, SLOW_CALL_S + 1),
    "client left before the head": neutral(LEFT_BEFORE_THE_HEAD),
    "client left before the head, late": Row(LEFT_BEFORE_THE_HEAD, 2, (1, 0, 1), OPEN, 11.0),
    "slow answer": Row(answer(200), 0, (1, 0, 1), CLOSED, 20.0, Report(first_event_s=10.5)),
    "slow and cut": Row(
        broken(Ending.CUT, 200), 3, (1, 1, 1), OPEN, 20.0, Report(first_event_s=10.5)
    ),
    "client left after a slow event": Row(
        LEFT, 2, (1, 0, 1), CLOSED, 20.0, Report(first_event_s=10.5)
    ),
    "just quick enough": Row(answer(200), 0, (1, 0, 0), CLOSED, 20.0, Report(first_event_s=10.0)),
    "too long an answer": neutral(broken(Ending.TOTAL_TIMEOUT, 200), 3600.0),
    "malformed upload": neutral(broken(Ending.CLIENT_BODY)),
    "shutdown": neutral(broken(Ending.ABORTED, 200)),
    "our own bug": neutral(broken(Ending.INTERNAL_ERROR, 200)),
}


def settled(driver: Driver, row: Row) -> None:
    permit = driver.permit()
    driver.now_s += row.took_s
    driver.settle(permit, row.outcome, row.report)


@pytest.mark.parametrize("name", TABLE)
def test_while_closed_a_result_counts_as_the_table_says(name: str) -> None:
    """Each result lengthens, ends or leaves the row of failures, and is a call in the window."""
    row = TABLE[name]
    driver = Driver(breaker=NEVER_OPENS)
    driver.fail(2)
    driver.wait(1_000)  # the window has forgotten them
    settled(driver, row)
    seen = driver.breaker
    assert seen.failure_count == row.in_a_row
    assert (seen.window_calls, seen.window_failures, seen.window_slow) == row.window
    assert driver.state is CLOSED


@pytest.mark.parametrize("name", TABLE)
def test_as_a_probe_a_result_decides_as_the_table_says(name: str) -> None:
    """A probe closes the circuit, opens it again, or leaves its place to the next request."""
    row = TABLE[name]
    driver = Driver(breaker=BreakerConfig(slow_call_s=SLOW_CALL_S, probe_s=10_000.0))
    driver.half_open()
    settled(driver, row)
    assert driver.state is row.probe
    assert driver.breaker.probes_in_flight == 0
    if row.probe is HALF_OPEN:
        assert driver.permit().passed.probe, "keep probing"


@pytest.mark.parametrize("name", TABLE)
def test_a_late_result_changes_nothing_whatever_it_is(name: str) -> None:
    """What was sent before the outage tells nothing about the time after it."""
    row = TABLE[name]
    driver = Driver(breaker=NEVER_OPENS)
    old = driver.permit()
    driver.reconfigure(breaker=BreakerConfig(failure_threshold=1))
    driver.half_open()
    driver.exchange(OK)
    driver.reconfigure(breaker=NEVER_OPENS)
    driver.exchange(RESTARTING, FAILED)
    before = driver.breaker
    driver.now_s += 12.0
    driver.settle(old, row.outcome, row.report)
    after = driver.breaker
    assert after.late_results == before.late_results + 1
    assert (after.state, after.generation) == (before.state, before.generation)
    assert after.failure_count == before.failure_count
    assert after.condition is before.condition
    assert (after.window_calls, after.window_failures) == (1, 1)


def test_without_slow_calls_a_patient_client_that_leaves_says_nothing(driver: Driver) -> None:
    """Nothing is slow while `breaker.slow_call_s` is off."""
    driver.half_open()
    settled(driver, neutral(LEFT_WITH_NOTHING, 59.0))
    assert driver.state is HALF_OPEN


def test_a_stalled_client_is_no_slow_backend() -> None:
    """A client that took nothing for `timers.write_stall_s` was not waiting for the backend."""
    driver = Driver(breaker=BreakerConfig(slow_call_s=SLOW_CALL_S))
    driver.half_open()
    stalled = outcome_of(Ending.CLIENT_STALLED, 200, got_event=False)
    settled(driver, neutral(stalled, 59.0))
    assert driver.state is HALF_OPEN
