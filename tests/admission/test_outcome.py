"""What does the end of an exchange say about the backend?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admission.outcome import Ending, Outcome, OutcomeLabel, Verdict, outcome_of

ANY_STATUS = st.none() | st.integers(100, 999)


def verdict(ending: Ending, status: int | None = None) -> Verdict:
    return outcome_of(ending, status, got_event=False).verdict


@pytest.mark.parametrize("status", [101, 200, 204, 206, 301, 304, 399])
def test_an_answer_below_400_is_a_success(status: int) -> None:
    """The backend did what it was asked, redirects and upgrades included."""
    outcome = outcome_of(Ending.COMPLETED, status, got_event=True)
    assert outcome == Outcome(Verdict.SUCCESS, OutcomeLabel.OK, got_event=True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 428, 430, 499])
def test_a_bad_request_says_nothing_about_the_backend(status: int) -> None:
    """A client that sends nonsense can neither open nor close the circuit."""
    outcome = outcome_of(Ending.COMPLETED, status, got_event=True)
    assert outcome == Outcome(Verdict.NEUTRAL, OutcomeLabel.CLIENT_ERROR)


@pytest.mark.parametrize("status", [429, 503, 529])
def test_busy_is_overload_not_failure(status: int) -> None:
    """A backend that says "too much" is alive; refusing everybody would not be its cure."""
    outcome = outcome_of(Ending.COMPLETED, status, got_event=True)
    assert outcome == Outcome(Verdict.OVERLOAD, OutcomeLabel.OVERLOAD)


@pytest.mark.parametrize("status", [500, 502, 504, 506, 507, 508, 520, 524, 530, 599])
def test_a_server_error_is_a_failure(status: int) -> None:
    """500, 502, 504, and what gateways made up beyond them."""
    outcome = outcome_of(Ending.COMPLETED, status, got_event=True)
    assert outcome == Outcome(Verdict.FAILURE, OutcomeLabel.SERVER_ERROR)


@pytest.mark.parametrize("status", [501, 505])
def test_what_the_backend_cannot_do_for_anybody_is_no_failure(status: int) -> None:
    """An unknown method or HTTP version is about the request, though it is counted as an error."""
    outcome = outcome_of(Ending.COMPLETED, status, got_event=True)
    assert outcome == Outcome(Verdict.NEUTRAL, OutcomeLabel.SERVER_ERROR)


FAILURES = {
    Ending.CONNECT_FAILED,
    Ending.CONNECT_TIMEOUT,
    Ending.TLS_FAILED,
    Ending.RESET,
    Ending.BAD_RESPONSE,
    Ending.FIRST_EVENT_TIMEOUT,
    Ending.STALL_TIMEOUT,
    Ending.CUT,
}


@pytest.mark.parametrize("ending", sorted(FAILURES))
@pytest.mark.parametrize("status", [None, 200, 404])
def test_what_the_backend_breaks_off_is_its_failure(ending: Ending, status: int | None) -> None:
    """No connection, no answer in time, a silent or a cut stream: the status excuses nothing."""
    outcome = outcome_of(ending, status, got_event=False)
    assert outcome == Outcome(Verdict.FAILURE, OutcomeLabel(ending.value))


@pytest.mark.parametrize("ending", sorted(set(Ending) - FAILURES - {Ending.COMPLETED}))
@pytest.mark.parametrize("status", [None, 200, 500])
def test_what_others_break_off_is_not_the_backends_failure(
    ending: Ending, status: int | None
) -> None:
    """A client that left, our own bug, shutdown and the total bound blame nobody."""
    outcome = outcome_of(ending, status, got_event=False)
    assert outcome == Outcome(Verdict.NEUTRAL, OutcomeLabel(ending.value))


def test_a_whole_answer_without_a_head_is_none() -> None:
    """Whatever is told, an exchange in which nothing arrived was broken off by the backend."""
    outcome = outcome_of(Ending.COMPLETED, None, got_event=False)
    assert outcome == Outcome(Verdict.FAILURE, OutcomeLabel.RESET)


@pytest.mark.parametrize(("status", "is_event"), [(None, True), (200, True), (404, False)])
def test_what_an_error_says_is_no_event(status: int | None, is_event: bool) -> None:
    """A client that leaves while it reads an error page has not seen the model answer."""
    assert outcome_of(Ending.CLIENT_GONE, status, got_event=True).got_event is is_event


@given(st.sampled_from(Ending), ANY_STATUS, st.booleans())
def test_every_ending_has_an_outcome(ending: Ending, status: int | None, got_event: bool) -> None:
    """Whatever a backend sends, it is judged, and never as refused by the sidecar."""
    outcome = outcome_of(ending, status, got_event=got_event)
    assert outcome.label is not OutcomeLabel.REFUSED
    assert got_event or not outcome.got_event


@given(st.sampled_from(sorted(set(Ending) - {Ending.COMPLETED})), ANY_STATUS)
def test_only_a_whole_answer_is_a_success(ending: Ending, status: int | None) -> None:
    """Nothing that was broken off counts as proof of health."""
    assert verdict(ending, status) is not Verdict.SUCCESS


def test_endings_and_labels_use_the_same_words() -> None:
    """What is counted is found in the logs under the same name."""
    assert {ending.value for ending in Ending} - {"completed"} <= set(OutcomeLabel)
