"""When do shares of a trailing window open the circuit? At their moment, and never before."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admission.answers import BreakerState, TransitionReason
from sidecar.admission.config import BreakerConfig, BreakerMode
from sidecar.admission.outcome import Outcome, Report
from sidecar.admission.window import Window, WindowCounts
from tests.admission.driver import (
    BAD_REQUEST,
    BUSY,
    FAILED,
    LEFT_MID_STREAM,
    LEFT_WITH_NOTHING,
    LOADING,
    OK,
    Driver,
)

CLOSED, OPEN = BreakerState.CLOSED, BreakerState.OPEN

# Half of at least 4 calls within 100 s; failures in a row alone do not open.
FAILURES = BreakerConfig(failure_threshold=1000, failure_ratio=0.5, window_s=100.0, min_calls=4)
SLOW = BreakerConfig(slow_ratio=0.5, slow_call_s=10.0, window_s=100.0, min_calls=4)

QUICK, LATE = Report(first_event_s=10.0), Report(first_event_s=10.001)


def test_a_share_of_failures_opens_the_circuit() -> None:
    """Every other call fails: never many in a row, and still an outage."""
    driver = Driver(breaker=FAILURES)
    driver.exchange(OK, FAILED, OK)
    assert driver.state is CLOSED
    driver.exchange(FAILED)
    assert driver.state is OPEN
    assert driver.steps == [(OPEN, TransitionReason.FAILURE_RATIO)]


def test_a_smaller_share_does_not() -> None:
    """Two of five are less than half, and four of nine too."""
    driver = Driver(breaker=FAILURES)
    driver.exchange(OK, OK, OK, FAILED, FAILED)
    driver.exchange(OK, OK, FAILED, FAILED)
    assert driver.breaker.window_failures / driver.breaker.window_calls == 4 / 9
    assert driver.state is CLOSED
    driver.exchange(FAILED)
    assert driver.state is OPEN


def test_a_few_calls_are_no_evidence() -> None:
    """Below `min_calls` no ratio opens: three failures of three are three failures."""
    driver = Driver(breaker=FAILURES)
    driver.exchange(FAILED, FAILED, FAILED)
    assert driver.state is CLOSED
    driver.exchange(FAILED)
    assert driver.state is OPEN


@pytest.mark.parametrize("outcome", [OK, LEFT_MID_STREAM])
def test_a_call_that_went_well_never_opens(outcome: Outcome) -> None:
    """When the last call to make up `min_calls` is a good one, the next bad one opens."""
    driver = Driver(breaker=FAILURES)
    driver.exchange(FAILED, FAILED, FAILED, outcome)
    assert driver.state is CLOSED
    driver.exchange(FAILED)
    assert driver.state is OPEN


def test_busy_counts_in_the_window() -> None:
    """A backend that answers half of all calls with "busy" gets a rest."""
    driver = Driver(breaker=FAILURES)
    driver.exchange(OK, BUSY, OK, BUSY)
    assert driver.state is OPEN
    assert driver.breaker.failure_count == 0


def test_what_says_nothing_is_no_call() -> None:
    """Bad requests, clients that left with nothing and a model that loads thin nothing out."""
    driver = Driver(breaker=FAILURES)
    driver.exchange(OK, OK, FAILED, *[BAD_REQUEST, LEFT_WITH_NOTHING, LOADING] * 10)
    assert driver.breaker.window_calls == 3
    driver.exchange(FAILED)
    assert driver.state is OPEN


def test_failures_in_a_row_open_beside_a_ratio() -> None:
    """Both are looked at; who opens first is told."""
    driver = Driver(breaker=replace(FAILURES, failure_threshold=3))
    driver.exchange(*[OK] * 50, FAILED, FAILED, FAILED)
    assert driver.steps == [(OPEN, TransitionReason.CONSECUTIVE_FAILURES)]


def test_a_result_leaves_the_window_when_it_is_as_old_as_the_window_is_long() -> None:
    """Not a moment earlier, and not a moment later."""
    driver = Driver(breaker=FAILURES)
    driver.exchange(OK, OK, OK)
    driver.now_s += 99.999
    driver.exchange(FAILED)
    assert driver.breaker.window_calls == 4
    driver.now_s += 0.001
    assert driver.breaker.window_calls == 1
    driver.exchange(FAILED, FAILED)
    assert driver.state is CLOSED, "three calls are too few"
    driver.exchange(FAILED)
    assert driver.state is OPEN


def test_old_failures_do_not_add_up_with_new_ones() -> None:
    """One failure a minute is no outage, however long that goes on."""
    driver = Driver(breaker=FAILURES)
    for _ in range(100):
        driver.exchange(FAILED)
        driver.now_s += 60
    assert driver.state is CLOSED
    assert driver.breaker.window_calls == 1


def test_calls_count_when_they_end() -> None:
    """A generation of an hour that is cut now is a failure of now."""
    driver = Driver(slots=4, breaker=FAILURES)
    long_ones = [driver.permit() for _ in range(4)]
    driver.now_s += 3600
    for permit in long_ones[:3]:
        driver.settle(permit, FAILED)
    assert driver.breaker.window_calls == 3
    driver.settle(long_ones[3], FAILED)
    assert driver.state is OPEN


def test_a_share_of_slow_calls_opens_the_circuit() -> None:
    """A backend that answers, but takes for ever to begin, is one to leave alone."""
    driver = Driver(breaker=SLOW)
    driver.exchange(OK, report=LATE)
    driver.exchange(OK, OK, report=QUICK)
    driver.exchange(OK, report=LATE)
    assert driver.steps == [(OPEN, TransitionReason.SLOW_RATIO)]


def test_as_long_as_slow_call_s_is_not_slow() -> None:
    """Later than `slow_call_s` is slow; at that moment is not."""
    driver = Driver(breaker=SLOW)
    driver.exchange(*[OK] * 20, report=QUICK)
    assert driver.breaker.window_slow == 0
    assert driver.state is CLOSED


def test_clients_that_leave_an_idle_backend_open_the_circuit() -> None:
    """All clients gave up waiting for the first word: nobody sees a time-out, and it is one."""
    driver = Driver(breaker=SLOW)
    for _ in range(4):
        assert driver.state is CLOSED
        permit = driver.permit()
        driver.now_s += 10.001
        driver.settle(permit, LEFT_WITH_NOTHING)
    assert driver.state is OPEN
    assert driver.breaker.failure_count == 0


def test_a_quick_call_never_opens_by_the_slow_ratio() -> None:
    """When the last call to make up `min_calls` is quick, the next slow one opens."""
    driver = Driver(breaker=SLOW)
    driver.exchange(OK, OK, OK, report=LATE)
    driver.exchange(OK, report=QUICK)
    assert driver.state is CLOSED
    driver.exchange(OK, report=LATE)
    assert driver.state is OPEN


def test_slow_calls_alone_do_not_fail() -> None:
    """Where only failures are looked at, slowness opens nothing; and the other way round."""
    driver = Driver(breaker=replace(FAILURES, slow_call_s=10.0))
    driver.exchange(*[OK] * 20, report=LATE)
    assert driver.breaker.window_slow == 20
    assert driver.state is CLOSED
    driver = Driver(breaker=replace(SLOW, failure_threshold=1000))
    driver.exchange(*[FAILED] * 20, report=QUICK)
    assert driver.breaker.window_failures == 20
    assert driver.state is CLOSED


def test_without_ratios_nothing_is_kept(driver: Driver) -> None:
    """By default only failures in a row count."""
    driver.exchange(OK, FAILED, BUSY)
    assert driver.breaker.window_calls == 0


def test_the_numbers_are_told() -> None:
    """Log and page say by which share the circuit opened, and what the last straw was."""
    driver = Driver(breaker=FAILURES)
    driver.exchange(OK, OK, BUSY, FAILED)
    [step] = driver.transitions
    assert step.detail == "2 of 4 calls failed, the last with server_error"
    assert driver.breaker.trip_reason == step.detail
    assert driver.breaker.tripped_by == "failure_ratio"
    driver = Driver(breaker=SLOW)
    driver.exchange(*[OK] * 4, report=LATE)
    assert driver.breaker.trip_reason == "4 of 4 calls were slow, the last ended with ok"
    assert driver.breaker.tripped_by == "slow_ratio"


def test_after_a_recovery_the_window_is_empty() -> None:
    """What opened the circuit does not open it again at the first new failure."""
    driver = Driver(breaker=FAILURES)
    driver.exchange(FAILED, FAILED, FAILED, FAILED)
    assert driver.breaker.window_calls == 4, "still to be seen while it is open"
    driver.half_open()
    driver.exchange(OK)
    assert driver.breaker.window_calls == 0
    driver.exchange(FAILED, FAILED, FAILED)
    assert driver.state is CLOSED


@pytest.mark.parametrize("how", ["reset", "disabled"])
def test_an_operator_empties_the_window(how: str) -> None:
    """Reset and `disabled` forget all failures, also those of the window."""
    driver = Driver(breaker=FAILURES)
    driver.exchange(FAILED, FAILED, FAILED)
    if how == "reset":
        driver.guard.reset(driver.now_s)
    else:
        driver.set_mode(BreakerMode.DISABLED)
        driver.exchange(FAILED)
        driver.set_mode(BreakerMode.ENFORCE)
    assert driver.breaker.window_calls == 0
    driver.exchange(FAILED, FAILED, FAILED)
    assert driver.state is CLOSED


def test_a_reload_may_shorten_the_window() -> None:
    """The new length holds at once, for what is in it already too."""
    driver = Driver(breaker=FAILURES)
    driver.exchange(FAILED, FAILED, FAILED)
    driver.now_s += 50
    driver.reconfigure(breaker=replace(FAILURES, window_s=50.0))
    assert driver.breaker.window_calls == 0
    driver.exchange(FAILED)
    assert driver.state is CLOSED


def test_a_ratio_that_is_switched_on_starts_from_nothing() -> None:
    """A reload does not open the circuit for what was before it."""
    driver = Driver(breaker=replace(FAILURES, failure_ratio=None))
    driver.exchange(*[FAILED] * 9, *[OK] * 3)
    driver.reconfigure(breaker=FAILURES)
    driver.exchange(OK)
    assert driver.breaker.window_calls == 1
    driver.exchange(FAILED, FAILED)
    assert driver.state is CLOSED
    driver.exchange(FAILED)
    assert driver.state is OPEN


@pytest.mark.parametrize(("ratio", "failures", "calls"), [(0.1, 3, 30), (0.7, 7, 10), (1.0, 6, 6)])
def test_a_ratio_is_met_to_the_call(ratio: float, failures: int, calls: int) -> None:
    """No rounding of binary fractions makes the circuit open a call too late."""
    driver = Driver(breaker=replace(FAILURES, failure_ratio=ratio, min_calls=calls))
    driver.exchange(*[OK] * (calls - failures), *[FAILED] * (failures - 1))
    assert driver.state is CLOSED
    driver.exchange(FAILED)
    assert driver.state is OPEN


# -- the window itself ------------------------------------------------------------------------

WINDOW_S = 50.0
STEP_S = WINDOW_S / 100

RESULTS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.125, 0.5, 3.0, 20.0, 49.875, 50.0, 200.0]), st.booleans()),
    max_size=60,
)


@given(RESULTS, st.sampled_from([0.0, 0.25, 10.0, 50.0]))
def test_the_window_counts_what_is_in_it(results: list[tuple[float, bool]], later: float) -> None:
    """All that is younger than the window is in it, but for one hundredth part; nothing older."""
    window, now_s = Window(), 0.0
    added: list[tuple[float, bool]] = []
    for waited_s, failed in results:
        now_s += waited_s
        added.append((now_s, failed))
        told = window.add(now_s, WINDOW_S, failed=failed, slow=not failed)
        assert told == window.counts(now_s, WINDOW_S), "asking and looking agree"
        assert told.failures + told.slow == told.calls
    now_s += later
    seen = window.counts(now_s, WINDOW_S)
    ages = [(now_s - at_s, failed) for at_s, failed in added]
    surely = [failed for age_s, failed in ages if age_s < WINDOW_S - STEP_S]
    perhaps = [failed for age_s, failed in ages if age_s < WINDOW_S]
    assert len(surely) <= seen.calls <= len(perhaps)
    assert sum(surely) <= seen.failures <= sum(perhaps)


def test_the_window_needs_no_more_memory_for_more_calls() -> None:
    """Ten thousand calls in a window are kept in a hundred steps."""
    window = Window()
    for number in range(20_000):
        window.add(number * 0.005, WINDOW_S, failed=False, slow=False)
    assert len(window._steps) <= 101
    assert 9_890 <= window.counts(100.0, WINDOW_S).calls <= 10_000


def test_looking_into_the_window_changes_nothing() -> None:
    """A scrape from the future does not empty it."""
    window = Window()
    window.add(1.0, WINDOW_S, failed=True, slow=False)
    assert window.counts(1000.0, WINDOW_S) == WindowCounts()
    assert window.counts(2.0, WINDOW_S) == WindowCounts(calls=1, failures=1)
