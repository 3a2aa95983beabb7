"""Does every response get the judge that understands it, and none that guesses?"""

from __future__ import annotations

import pytest

from sidecar.admission.outcome import Said
from sidecar.dialects.bodies import AnswerJudge, ErrorJudge
from sidecar.dialects.choosing import judge_for
from sidecar.dialects.event_stream import EventStreamJudge
from sidecar.dialects.judge import Judge
from sidecar.dialects.lines import LinesJudge
from tests.dialects.corpus import DONE, NDJSON, OPENAI_TEXT, PING, SSE, Event, sse, typed

CHAT = b"/v1/chat/completions"


@pytest.mark.parametrize(
    ("status", "content_type", "content_encoding", "judge"),
    [
        (200, b"text/event-stream", b"", EventStreamJudge),
        (200, b"Text/Event-Stream; charset=utf-8", b"identity", EventStreamJudge),
        (201, b"text/event-stream;", b"", EventStreamJudge),
        (200, b"application/x-ndjson", b"", LinesJudge),
        (200, b"application/json; charset=utf-8", b"", AnswerJudge),
        (200, b"application/problem+json", b"", AnswerJudge),
        (400, b"application/json", b"", ErrorJudge),
        (503, b"text/html", b"", ErrorJudge),
        (200, b"text/html", b"", Judge),
        (200, b"", b"", Judge),
        (304, b"text/event-stream", b"", Judge),
        (101, b"", b"", Judge),
        (200, b"text/event-stream", b"gzip", Judge),
        (200, b"application/json", b"br", Judge),
        (503, b"application/json", b" Zstd ", Judge),
    ],
)
def test_the_response_chooses(
    status: int, content_type: bytes, content_encoding: bytes, judge: type[Judge]
) -> None:
    """By status and media type; what is compressed is never unpacked."""
    assert type(judge_for(status, content_type, content_encoding, CHAT)) is judge


def test_what_is_not_understood_is_plain_http() -> None:
    """Every piece is data, nothing is said, nothing is ever inserted."""
    judge = judge_for(200, b"text/event-stream", b"gzip", CHAT)
    for piece in (b"", OPENAI_TEXT.raw, b"", b"data: {}\n\n"):
        judge.feed(piece)
    judge.end()
    assert (judge.events, judge.said, judge.usage, judge.model) == (2, Said.NOTHING, None, "")
    assert not judge.at_boundary
    assert judge.error_event("x", "y") is None
    assert judge.heartbeat() is None


@pytest.mark.parametrize(
    ("path", "media_type", "begins"),
    [
        (b"/v1/chat/completions", SSE, b'data: {"error":'),
        (b"/openai/v1/completions/?api-version=1", SSE, b'data: {"error":'),
        (b"/v1/responses", SSE, b"event: error\ndata: "),
        (b"/v1/messages", SSE, b'event: error\ndata: {"type":"error"'),
        (b"/completion", SSE, b'data: {"error":'),
        (b"/v1beta/models/x:streamGenerateContent?alt=sse", SSE, b'data: {"error":'),
        (b"/api/chat", NDJSON, b'{"error":"m"}\n'),
        (b"/api/generate", NDJSON, b'{"error":"m"}\n'),
    ],
)
def test_the_path_tells_before_the_first_event(
    path: bytes, media_type: bytes, begins: bytes
) -> None:
    """A stream that ends or breaks before its first event is unfinished, and can be told so."""
    judge = judge_for(200, media_type, b"", path)
    error = judge.error_event("m", "c")
    assert error is not None
    assert error.startswith(begins)
    judge.end()
    assert judge.said is Said.UNFINISHED


@pytest.mark.parametrize(("path", "media_type"), [(b"/events", SSE), (b"/api/pull", NDJSON)])
def test_an_unknown_stream_has_no_end_that_could_be_missing(path: bytes, media_type: bytes) -> None:
    """Nothing is said of it, and no words are put in its mouth."""
    judge = judge_for(200, media_type, b"", path)
    assert judge.error_event("m", "c") is None
    judge.end()
    assert judge.said is Said.NOTHING


STRANGE: dict[str, list[Event]] = {
    "objects": [sse({"status": "at work", "percent": number}) for number in range(40)],
    "typed": [typed({"type": "tick", "content": f"{number}"}) for number in range(40)],
    "plain texts": [sse(f"word {number}") for number in range(40)],
    "texts": [sse({"content": f"word {number}"}) for number in range(40)],
}


@pytest.mark.parametrize("events", STRANGE.values(), ids=STRANGE.keys())
def test_events_of_no_known_dialect(events: list[Event]) -> None:
    """Whatever the path promised: each counts as data, and nothing is said of the end."""
    judge = judge_for(200, SSE, b"", CHAT)
    judge.feed(PING.raw + b": comment\n\n")
    assert judge.events == 0
    for number, event in enumerate(events):
        judge.feed(event.raw)
        assert (judge.events, judge.said) == (number + 1, Said.NOTHING)
    assert judge.error_event("m", "c") is None
    assert judge.heartbeat() is not None


def test_an_error_among_events_of_no_known_dialect() -> None:
    """It is noticed even when nothing else is expected any more."""
    for count in (0, 5, 40):
        judge = judge_for(200, SSE, b"", b"/events")
        for event in STRANGE["objects"][:count]:
            judge.feed(event.raw)
        judge.feed(sse({"error": {"message": "boom", "type": "overloaded_error"}}).raw)
        assert (judge.said, judge.events) == (Said.BUSY, count)


def test_a_preface_does_not_hide_the_dialect() -> None:
    """Some servers send events of their own before the chunks."""
    judge = judge_for(200, SSE, b"", CHAT)
    for event in STRANGE["objects"][:3]:
        judge.feed(event.raw)
    for event in OPENAI_TEXT.events[:2]:
        judge.feed(event.raw)
    assert (judge.events, judge.said) == (4, Said.UNFINISHED)
    judge.feed(DONE.raw)
    assert judge.said is Said.FINISHED


def test_done_alone_is_a_finished_chat() -> None:
    """Nobody else ends so."""
    judge = judge_for(200, SSE, b"", b"/anything")
    judge.feed(DONE.raw)
    assert (judge.said, judge.events) == (Said.FINISHED, 0)
