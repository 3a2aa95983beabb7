"""What does the end of an exchange say about the backend?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admission.outcome import (
    Condition,
    Ending,
    Outcome,
    OutcomeLabel,
    Said,
    Verdict,
    outcome_of,
)

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


CLIENT_ENDINGS = {Ending.CLIENT_GONE, Ending.CLIENT_STALLED}
OTHERS = sorted(set(Ending) - FAILURES - {Ending.COMPLETED})


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (ending, status)
        for ending in OTHERS
        for status in (None, 200, 500)
        if status != 500 or ending not in CLIENT_ENDINGS
    ],
)
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


# -- what the answer says of itself -----------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201])
def test_a_stream_that_ends_without_its_terminal_marker_was_cut(status: int) -> None:
    """Half an answer is none, however cleanly its connection ends."""
    outcome = outcome_of(Ending.COMPLETED, status, got_event=True, said=Said.UNFINISHED)
    assert outcome == Outcome(Verdict.FAILURE, OutcomeLabel.CUT, got_event=True)


def test_a_stream_with_its_terminal_marker_is_a_success() -> None:
    """The model has said all that it wanted to say."""
    outcome = outcome_of(Ending.COMPLETED, 200, got_event=True, said=Said.FINISHED)
    assert outcome == Outcome(Verdict.SUCCESS, OutcomeLabel.OK, got_event=True)


@pytest.mark.parametrize("got_event", [False, True])
def test_an_error_event_in_a_stream_that_began_well_is_a_failure(got_event: bool) -> None:
    """A status of 200 was sent before the model was asked: it excuses nothing."""
    outcome = outcome_of(Ending.COMPLETED, 200, got_event=got_event, said=Said.FAILED)
    assert outcome == Outcome(Verdict.FAILURE, OutcomeLabel.BACKEND_ERROR, got_event)


@pytest.mark.parametrize("said", [Said.BUSY, Said.LOADING, Said.RESTARTING])
def test_an_error_event_that_says_not_now_is_overload(said: Said) -> None:
    """Rate limits and overload are no failure, wherever they are told."""
    outcome = outcome_of(Ending.COMPLETED, 200, got_event=True, said=said)
    assert outcome == Outcome(Verdict.OVERLOAD, OutcomeLabel.OVERLOAD, got_event=True)


@pytest.mark.parametrize("status", [400, 401, 408, 422])
def test_a_4xx_that_blames_the_backend_is_a_failure(status: int) -> None:
    """OpenClaw passes on what its model did wrong as a 4xx of the type `api_error`."""
    outcome = outcome_of(Ending.COMPLETED, status, got_event=True, said=Said.FAILED)
    assert outcome == Outcome(Verdict.FAILURE, OutcomeLabel.BACKEND_ERROR)


def test_a_4xx_that_speaks_of_load_is_overload() -> None:
    """Some say "rate limited" with a 400."""
    outcome = outcome_of(Ending.COMPLETED, 400, got_event=True, said=Said.BUSY)
    assert outcome == Outcome(Verdict.OVERLOAD, OutcomeLabel.OVERLOAD)


@pytest.mark.parametrize(
    ("said", "label", "condition"),
    [
        (Said.LOADING, OutcomeLabel.LOADING, Condition.WARMING),
        (Said.RESTARTING, OutcomeLabel.RESTARTING, Condition.RESTARTING),
    ],
)
def test_a_503_may_say_that_the_backend_will_be_back(
    said: Said, label: OutcomeLabel, condition: Condition
) -> None:
    """A model that loads and a gateway that restarts are no outage."""
    outcome = outcome_of(Ending.COMPLETED, 503, got_event=True, said=said)
    assert outcome == Outcome(Verdict.NEUTRAL, label, condition=condition)


@pytest.mark.parametrize("said", sorted(Said))
@pytest.mark.parametrize("status", [429, 529])
def test_a_busy_status_is_busy_whatever_the_body_says(status: int, said: Said) -> None:
    """These statuses have one meaning."""
    outcome = outcome_of(Ending.COMPLETED, status, got_event=True, said=said)
    assert outcome == Outcome(Verdict.OVERLOAD, OutcomeLabel.OVERLOAD)


@pytest.mark.parametrize("said", sorted(Said))
@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_server_error_is_one_whatever_the_body_says(status: int, said: Said) -> None:
    """So have these."""
    outcome = outcome_of(Ending.COMPLETED, status, got_event=True, said=said)
    assert outcome == Outcome(Verdict.FAILURE, OutcomeLabel.SERVER_ERROR)


@pytest.mark.parametrize("said", sorted(set(Said) - {Said.BUSY}))
def test_a_cut_stream_is_a_failure_whatever_it_had_said(said: Said) -> None:
    """Also behind a terminal marker the last chunk is missing."""
    outcome = outcome_of(Ending.CUT, 200, got_event=True, said=said)
    assert outcome == Outcome(Verdict.FAILURE, OutcomeLabel.CUT, got_event=True)


def test_a_stream_that_breaks_off_behind_busy_was_busy() -> None:
    """It said why; but the client's answer is cut, and is counted so."""
    outcome = outcome_of(Ending.CUT, 200, got_event=True, said=Said.BUSY)
    assert outcome == Outcome(Verdict.OVERLOAD, OutcomeLabel.CUT, got_event=True)


# -- clients that leave -----------------------------------------------------------------------


@pytest.mark.parametrize("said", [Said.NOTHING, Said.UNFINISHED])
@pytest.mark.parametrize("ending", sorted(CLIENT_ENDINGS))
def test_a_client_that_leaves_in_mid_answer_leaves_an_answer(ending: Ending, said: Said) -> None:
    """The backend had begun to answer: no more than that is known, and no less."""
    outcome = outcome_of(ending, 200, got_event=True, said=said)
    assert outcome == Outcome(Verdict.ANSWERED, OutcomeLabel(ending.value), got_event=True)
    nothing = outcome_of(ending, 200, got_event=False, said=said)
    assert nothing == Outcome(Verdict.NEUTRAL, OutcomeLabel(ending.value))


@pytest.mark.parametrize("got_event", [False, True])
def test_a_client_that_leaves_at_the_terminal_marker_had_everything(got_event: bool) -> None:
    """SDKs hang up as soon as they have read it; that takes nothing from the answer."""
    outcome = outcome_of(Ending.CLIENT_GONE, 200, got_event=got_event, said=Said.FINISHED)
    assert outcome == Outcome(Verdict.SUCCESS, OutcomeLabel.CLIENT_GONE, got_event)


@pytest.mark.parametrize("ending", sorted(CLIENT_ENDINGS))
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (200, Said.FAILED),
        (200, Said.BUSY),
        (400, Said.FAILED),
        (404, Said.NOTHING),
        (429, Said.NOTHING),
        (500, Said.UNFINISHED),
        (502, Said.NOTHING),
        (503, Said.LOADING),
        (503, Said.RESTARTING),
    ],
)
def test_an_error_that_had_arrived_counts_although_the_client_left(
    ending: Ending, status: int, said: Said
) -> None:
    """SDKs hang up at an error event, and need not read the body of an error page."""
    left = outcome_of(ending, status, got_event=False, said=said)
    assert left == outcome_of(Ending.COMPLETED, status, got_event=False, said=said)


@pytest.mark.parametrize("said", sorted(Said))
@pytest.mark.parametrize(
    "ending",
    [Ending.ABORTED, Ending.INTERNAL_ERROR, Ending.TOTAL_TIMEOUT, Ending.CLIENT_BODY],
)
def test_what_we_break_off_is_never_counted(ending: Ending, said: Said) -> None:
    """Shutdown, our own bug, our own bound and a malformed upload say nothing of the backend."""
    outcome = outcome_of(ending, 200, got_event=True, said=said)
    assert outcome == Outcome(Verdict.NEUTRAL, OutcomeLabel(ending.value), got_event=True)


# -- all of it --------------------------------------------------------------------------------


@given(st.sampled_from(Ending), ANY_STATUS, st.booleans(), st.sampled_from(Said))
def test_every_ending_has_an_outcome(
    ending: Ending, status: int | None, got_event: bool, said: Said
) -> None:
    """Whatever a backend sends, it is judged, and never as refused by the sidecar."""
    outcome = outcome_of(ending, status, got_event=got_event, said=said)
    assert outcome.label is not OutcomeLabel.REFUSED
    assert outcome.verdict is not Verdict.SLOW, "only the breaker knows what is slow"
    assert got_event or not outcome.got_event


@given(st.sampled_from(sorted(set(Ending) - {Ending.COMPLETED})), ANY_STATUS, st.sampled_from(Said))
def test_only_a_whole_answer_is_a_success(ending: Ending, status: int | None, said: Said) -> None:
    """Nothing that was broken off counts as proof of health, unless its end had been there."""
    outcome = outcome_of(ending, status, got_event=False, said=said)
    if outcome.verdict is Verdict.SUCCESS:
        assert said is Said.FINISHED
        assert ending in CLIENT_ENDINGS


def test_endings_and_labels_use_the_same_words() -> None:
    """What is counted is found in the logs under the same name."""
    assert {ending.value for ending in Ending} - {"completed"} <= set(OutcomeLabel)
