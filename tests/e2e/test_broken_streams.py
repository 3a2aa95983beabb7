"""Does a client learn, in its API's own words, that a stream broke off? And only then?"""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.e2e.harness import chat, guarded
from tests.support.origin import LAST_CHUNK, SSE_HEAD, Origin, OriginConnection, chunk
from tests.support.wire import RawResponse, request

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"the model failed","type":"server_error"}}\n\n'
LENGTH_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
CLOSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


async def answer_to(
    sent: bytes, *, path: str = "/v1/chat/completions", settings: dict[str, object] | None = None
) -> RawResponse:
    """What a client gets when the backend sends this and closes."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(sent)
        await connection.drain()
        connection.transport.close()

    async with Origin(script) as origin, guarded(origin.url, settings or {}) as side:
        return await side.ask(request("POST", path, b'{"model":"m","stream":true}'))


def last_event(body: bytes) -> object:
    """The last event of a stream, read as JSON."""
    return json.loads(body.rstrip(b"\n").rpartition(b"data: ")[2])


def assert_told(answer: RawResponse, before: bytes) -> None:
    """The stream is ended by an error event behind `before`, and still does not look whole."""
    assert answer.body.startswith(before)
    told = answer.body[len(before) :]
    assert told.lstrip(b"\n").startswith(b"data: ")
    error = last_event(told)
    assert isinstance(error, dict)
    assert error["error"]["message"].startswith("openclaw-sidecar: the backend ")
    assert b"[DONE]" not in answer.body
    assert not answer.complete


@pytest.mark.parametrize(
    "sent",
    [
        SSE_HEAD + chunk(ROLE + WORD),
        SSE_HEAD + chunk(ROLE) + chunk(WORD),
        SSE_HEAD + chunk(ROLE) + chunk(WORD + DONE)[:-len(DONE) - 2],
        SSE_HEAD + chunk(ROLE) + chunk(WORD)[:-2],
        SSE_HEAD + chunk(ROLE) + chunk(WORD)[:-1],
        SSE_HEAD + chunk(ROLE) + chunk(WORD) + LAST_CHUNK,
        CLOSE_HEAD + ROLE + WORD,
        LENGTH_HEAD % 10_000 + ROLE + WORD,
    ],
    ids=[
        "between_chunks", "between_events", "inside_a_chunk", "before_a_chunk_s_end",
        "inside_a_chunk_s_end", "ended_well_without_marker", "ended_by_closing", "short_length",
    ],
)  # fmt: skip
async def test_a_stream_that_breaks_off_between_events_says_so(sent: bytes) -> None:
    """An error event follows what came, wherever the framing has room for it."""
    assert_told(await answer_to(sent), ROLE + WORD)


@pytest.mark.parametrize(
    "sent",
    [
        SSE_HEAD + chunk(ROLE) + chunk(WORD[:-5]),
        SSE_HEAD + chunk(ROLE) + chunk(WORD)[:-9],
        SSE_HEAD + chunk(ROLE) + chunk(WORD) + b"5",
    ],
    ids=["inside_an_event", "inside_an_event_and_a_chunk", "inside_a_chunk_s_size"],
)
async def test_nothing_is_added_where_it_would_become_part_of_something_else(sent: bytes) -> None:
    """A broken event, or a broken chunk size, is left as it is, and broken off."""
    answer = await answer_to(sent)
    assert b"error" not in answer.body
    assert not answer.complete


@pytest.mark.parametrize(
    "events",
    [
        ROLE + WORD + STOP + DONE,
        ROLE + WORD + STOP,
        ROLE + WORD + DONE,
        b": ping\n\n" + ROLE + WORD + STOP + b": bye\n\n",
        ROLE + ERROR + DONE,
    ],
)
async def test_a_whole_stream_is_left_alone(events: bytes) -> None:
    """Not a byte is added, whichever terminal marker a server sends."""
    answer = await answer_to(SSE_HEAD + chunk(events) + LAST_CHUNK)
    assert (answer.body, answer.complete) == (events, True)


async def test_the_error_event_can_be_switched_off() -> None:
    """With `stream_error_events: false` bytes pass as they came; a cut answer still looks cut."""
    off: dict[str, object] = {"stream_error_events": False}
    answer = await answer_to(SSE_HEAD + chunk(ROLE + WORD), settings=off)
    assert (answer.body, answer.complete) == (ROLE + WORD, False)
    answer = await answer_to(SSE_HEAD + chunk(ROLE + WORD) + LAST_CHUNK, settings=off)
    assert (answer.body, answer.complete) == (ROLE + WORD, True)


async def test_what_nobody_guards_is_not_judged() -> None:
    """An event feed beside the API ends as it ends."""
    answer = await answer_to(SSE_HEAD + chunk(b"data: 1\n\n") + LAST_CHUNK, path="/feed")
    assert (answer.body, answer.complete) == (b"data: 1\n\n", True)


async def test_a_role_chunk_and_comments_are_no_signs_of_life() -> None:
    """The first data event has its time-out whatever else comes, and the stream says which."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(SSE_HEAD + chunk(ROLE))
        while not connection.transport.is_closing():
            connection.send(chunk(b": ping\n\n"))
            await asyncio.sleep(0.02)  # the pace of the pings

    settings = {"timers.first_event_s": 0.3, "timers.stall_s": 0.1}
    async with Origin(script) as origin, guarded(origin.url, settings) as side:
        answer = await side.ask(chat())
        error = last_event(answer.body)
        assert isinstance(error, dict)
        assert "timers.first_event_s" in error["error"]["message"]
        assert error["error"]["code"] == "upstream_timeout"
        outcomes = (await side.metrics()).by_label("requests_total", "outcome")
        assert outcomes == {"first_event_timeout": 1}


async def test_pings_do_not_hide_a_stall() -> None:
    """A stream that only pings has stalled."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(SSE_HEAD + chunk(ROLE) + chunk(WORD))
        while not connection.transport.is_closing():
            connection.send(chunk(b": ping\n\n"))
            await asyncio.sleep(0.02)  # the pace of the pings

    async with Origin(script) as origin, guarded(origin.url, {"timers.stall_s": 0.3}) as side:
        answer = await side.ask(chat())
        error = last_event(answer.body)
        assert isinstance(error, dict)
        assert "timers.stall_s" in error["error"]["message"]
        outcomes = (await side.metrics()).by_label("requests_total", "outcome")
        assert outcomes == {"stall_timeout": 1}
