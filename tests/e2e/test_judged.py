"""Is a backend judged by what it says, and not by its status alone? Five of each, then one more."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.e2e.harness import chat, guarded, status_line
from tests.e2e.test_broken_streams import DONE, ERROR, ROLE, STOP, WORD
from tests.support.origin import (
    LAST_CHUNK,
    SSE_HEAD,
    Origin,
    OriginConnection,
    chunk,
    respond,
)
from tests.support.raw import Field

BUSY = b'data: {"error":{"message":"Overloaded","type":"overloaded_error"}}\n\n'
LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
DRAINING = b'{"error":{"message":"restarting","type":"service","code":"gateway_unavailable"}}'
API_ERROR = b'{"error":{"message":"the model failed","type":"api_error"}}'
CLIENT_ERROR = b'{"error":{"message":"no such model","type":"invalid_request_error"}}'


def stream(*events: bytes) -> bytes:
    """A whole stream of these events."""
    return SSE_HEAD + chunk(b"".join(events)) + LAST_CHUNK


def error(status: int, body: bytes) -> bytes:
    """An error with a JSON body."""
    return status_line(status, ["Content-Type: application/json"], body)


@dataclass(frozen=True)
class Case:
    """What the backend answers to everything, and what that says about it."""

    answer: bytes
    opens: bool
    condition: str = "normal"


CASES = {
    "an_error_event_before_the_terminal_marker": Case(stream(ROLE, ERROR, DONE), opens=True),
    "an_error_event_behind_words": Case(stream(ROLE, WORD, ERROR), opens=True),
    "an_end_without_terminal_marker": Case(stream(ROLE, WORD), opens=True),
    "a_4xx_that_blames_the_model": Case(error(400, API_ERROR), opens=True),
    "a_4xx_that_blames_the_client": Case(error(400, CLIENT_ERROR), opens=False),
    "an_event_that_says_overloaded": Case(stream(ROLE, BUSY), opens=False),
    "a_model_that_loads": Case(error(503, LOADING), opens=False, condition="warming"),
    "a_gateway_that_restarts": Case(error(503, DRAINING), opens=False, condition="restarting"),
    "a_whole_stream": Case(stream(ROLE, WORD, STOP, DONE), opens=False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_five_answers_tell_what_the_backend_is(case: Case) -> None:
    """The circuit opens at the fifth failure, whatever status it came under, and for no other."""
    async with Origin(respond(case.answer)) as origin, guarded(origin.url) as side:
        for number in range(5):
            assert side.breaker_state == "closed"
            await side.ask(chat(number))
        assert side.breaker_state == ("open" if case.opens else "closed")
        breaker = (await side.status())["guards"][0]["breaker"]
        assert breaker["condition"] == case.condition


@pytest.mark.parametrize("key", [[], [("Idempotency-Key", "one")]])
async def test_an_sdk_s_attempts_at_one_request_are_one_failure(key: list[Field]) -> None:
    """A client that retries ten times does not open the circuit by itself."""
    async with Origin(respond(error(500, b"{}"))) as origin, guarded(origin.url) as side:
        for attempt in range(10):
            fields = [("x-stainless-retry-count", str(attempt)), *key]
            assert (await side.ask(chat(fields=fields))).status == 500
        assert side.breaker_state == "closed"
        for number in range(4):
            assert (await side.ask(chat(10 + number))).status == 500
        assert side.breaker_state == "open"
        assert len(origin.requests) == 14


async def test_the_backend_s_retry_after_is_a_floor_for_the_open_time() -> None:
    """Whoever said 100 seconds is not asked after 60."""
    busy = status_line(429, ["Retry-After: 100"])
    answers = [busy, *[error(500, b"{}")] * 5]

    async def serve(connection: OriginConnection) -> None:
        while True:
            await connection.read_request()
            connection.send(answers.pop(0))
            connection.answered()

    async with Origin(serve) as origin, guarded(origin.url) as side:
        for number in range(6):
            await side.ask(chat(number))
        assert side.breaker_state == "open"
        refusal = await side.ask(chat(7))
        assert refusal.status == 503
        assert 99 <= int(refusal.value("retry-after") or 0) <= 120
