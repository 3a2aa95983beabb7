"""Is an error in a 200 stream noticed wherever it stands, and told apart from overload?"""

from __future__ import annotations

import pytest

from sidecar.admission.outcome import Said
from sidecar.dialects.choosing import judge_for
from tests.dialects.corpus import (
    ANTHROPIC_TEXT,
    DONE,
    GEMINI,
    NDJSON,
    OLLAMA_CHAT,
    OPENAI_TEXT,
    OPENCLAW,
    RESPONSES_TEXT,
    SSE,
    STREAMS,
    Event,
    Stream,
    line,
    openai_chunk,
    sse,
    typed,
)
from tests.dialects.observing import heard, judge_of

every_stream = pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())


def _anthropic(kind: str, message: str) -> Event:
    return typed({"type": "error", "error": {"type": kind, "message": message}})


# As each server writes it, with what it means and what may be logged of it.
ERRORS: dict[str, tuple[Event, Said, str]] = {
    "openai": (
        sse(
            {
                "error": {
                    "message": "The server had an error while processing your request.",
                    "type": "server_error",
                    "param": None,
                    "code": None,
                }
            }
        ),
        Said.FAILED,
        "server_error: The server had an error while processing your request",
    ),
    "openclaw": (
        sse({"error": {"message": "internal error", "type": "api_error"}}),
        Said.FAILED,
        "api_error: internal error",
    ),
    "vllm": (
        sse(
            {
                "error": {
                    "message": "EngineCore encountered an issue",
                    "type": "InternalServerError",
                    "param": None,
                    "code": 500,
                }
            }
        ),
        Said.FAILED,
        "InternalServerError 500: EngineCore encountered an issue",
    ),
    "vllm of old": (
        sse({"object": "error", "message": "boom", "type": "InternalServerError", "code": 500}),
        Said.FAILED,
        "InternalServerError 500: boom",
    ),
    "llama.cpp": (
        sse({"error": {"code": 500, "message": "Compute error.", "type": "server_error"}}),
        Said.FAILED,
        "server_error 500: Compute error",
    ),
    "llama.cpp of old": (
        Event(b'error: {"code":500,"message":"Compute error.","type":"server_error"}\n\n'),
        Said.FAILED,
        "server_error 500: Compute error",
    ),
    "llama.cpp messages": (
        sse({"code": 500, "message": "Compute error.", "type": "server_error"}, "error"),
        Said.FAILED,
        "server_error 500: Compute error",
    ),
    "text-generation-inference": (
        sse({"error": "Request failed during generation: CUDA", "error_type": "generation"}),
        Said.FAILED,
        "generation: Request failed during generation",
    ),
    "text only": (sse({"error": "no room"}), Said.FAILED, "no room"),
    "ollama's /v1": (
        Event(b'{"error":"an error was encountered while running the model"}\n\n'),
        Said.FAILED,
        "an error was encountered while running the model",
    ),
    "anthropic": (
        _anthropic("api_error", "Internal server error"),
        Said.FAILED,
        "api_error: Internal server error",
    ),
    "responses": (
        typed({"type": "error", "code": "server_error", "message": "Sorry", "param": None}),
        Said.FAILED,
        "server_error: Sorry",
    ),
    "anthropic overloaded": (
        _anthropic("overloaded_error", "Overloaded"),
        Said.BUSY,
        "overloaded_error: Overloaded",
    ),
    "openai rate limit": (
        sse({"error": {"message": "Slow down", "type": "tokens", "code": "rate_limit_exceeded"}}),
        Said.BUSY,
        "tokens rate_limit_exceeded: Slow down",
    ),
    "vllm busy": (
        sse({"error": {"message": "Too many", "type": "ServiceUnavailableError", "code": 503}}),
        Said.BUSY,
        "ServiceUnavailableError 503: Too many",
    ),
    "gemini busy": (
        sse(
            {"error": {"code": 503, "message": "The model is overloaded", "status": "UNAVAILABLE"}}
        ),
        Said.BUSY,
        "503 UNAVAILABLE: The model is overloaded",
    ),
    "text-generation-inference busy": (
        sse({"error": "Model is overloaded", "error_type": "overloaded"}),
        Said.BUSY,
        "overloaded: Model is overloaded",
    ),
}
# A chunk of chat completions with an error beside.
OPENROUTER_ERROR = (
    sse(
        openai_chunk(
            {"content": ""}, "error", error={"code": 502, "message": "Provider disconnected"}
        )
    ),
    Said.FAILED,
    "502: Provider disconnected",
)
LINE_ERRORS = {
    "ollama": (
        line({"error": "an error was encountered while running the model"}),
        Said.FAILED,
        "an error was encountered while running the model",
    )
}


def _errors_for(stream: Stream) -> dict[str, tuple[Event, Said, str]]:
    if stream.media_type == NDJSON:
        return LINE_ERRORS
    if b"/completions" in stream.path:
        return {**ERRORS, "openrouter": OPENROUTER_ERROR}
    return ERRORS


@every_stream
def test_an_error_is_a_failure_wherever_it_stands(stream: Stream) -> None:
    """First, last or between: known at once, and also when the rest and the end's mark follow."""
    for name, (error, said, message) in _errors_for(stream).items():
        for place in range(len(stream.events) + 1):
            judge = judge_of(stream)
            for event in stream.events[:place]:
                judge.feed(event.raw)
            counted = judge.events
            judge.feed(error.raw)
            assert (judge.said, judge.error_message) == (said, message), (name, place)
            assert judge.events == counted, "an error is no data"
            for event in stream.events[place:]:
                judge.feed(event.raw)
            judge.end()
            assert (judge.said, judge.error_message) == (said, message), (name, place)
            assert judge.events == stream.data_events


@pytest.mark.parametrize("path", [b"", b"/v1/chat/completions", b"/v1/messages"])
def test_an_error_alone_is_a_failure_in_any_dialect(path: bytes) -> None:
    """A stream may fail before any event tells its dialect."""
    for name, (error, said, message) in ERRORS.items():
        judge = judge_for(200, SSE, b"", path)
        judge.feed(error.raw + DONE.raw)
        judge.end()
        assert (judge.said, judge.error_message, judge.events) == (said, message, 0), name


def test_openclaws_failure_behind_the_role_chunk() -> None:
    """A role chunk, an error, `[DONE]`: nothing was generated, and the stream failed."""
    error, said, _ = ERRORS["openclaw"]
    judge = judge_of(OPENCLAW)
    judge.feed(OPENCLAW.events[0].raw)
    assert (judge.said, judge.got_event) == (Said.UNFINISHED, False)
    judge.feed(error.raw + DONE.raw)
    assert (judge.said, judge.got_event) == (said, False)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ({"code": "server_error", "message": "Sorry"}, Said.FAILED),
        ({"code": "rate_limit_exceeded", "message": "Sorry"}, Said.BUSY),
        (None, Said.FAILED),
    ],
)
def test_a_response_that_failed(error: object, said: Said) -> None:
    """`response.failed` ends a stream, and is no good end; OpenClaw lets `[DONE]` follow."""
    failed = {"type": "response.failed", "response": {"status": "failed", "error": error}}
    pieces = [*(event.raw for event in RESPONSES_TEXT.events[:6]), typed(failed).raw, DONE.raw]
    assert heard(RESPONSES_TEXT, pieces).said is said


def test_an_openrouter_choice_that_failed() -> None:
    """The finish reason "error" is none that finishes."""
    last = sse(openai_chunk({"content": ""}, "error")).raw
    found = heard(OPENAI_TEXT, [OPENAI_TEXT.events[1].raw, last, DONE.raw])
    assert (found.said, found.error_message) == (Said.FAILED, "finish_reason_error")


def test_done_does_not_finish_what_has_another_end() -> None:
    """`[DONE]` finishes OpenAI's chat only: others have an end that tells more."""
    for stream in (RESPONSES_TEXT, ANTHROPIC_TEXT, GEMINI):
        cut = [event.raw for event in stream.events[:-1]]
        assert heard(stream, [*cut, DONE.raw]).said is Said.UNFINISHED


def test_only_the_first_error_is_told() -> None:
    """What follows an error is its consequence."""
    first, second = ERRORS["anthropic overloaded"][0], ERRORS["anthropic"][0]
    found = heard(ANTHROPIC_TEXT, [first.raw, second.raw])
    assert (found.said, found.error_message) == (Said.BUSY, "overloaded_error: Overloaded")


def test_an_ollama_error_without_line_end() -> None:
    """The connection may close right behind it."""
    error = LINE_ERRORS["ollama"][0].raw.rstrip()
    assert heard(OLLAMA_CHAT, [OLLAMA_CHAT.events[0].raw, error]).said is Said.FAILED
    assert heard(OPENAI_TEXT, [OPENAI_TEXT.events[0].raw, error]).said is Said.FAILED


SECRET = "the client's own words"


@pytest.mark.parametrize(
    "message",
    [
        f"Failed to parse input at pos 7: {SECRET}",
        f'Failed to parse "{SECRET}"',
        f"Failed to parse '{SECRET}' as JSON",
        f"Failed to parse `{SECRET}`",
        f"Failed to parse \u201c{SECRET}\u201d",
        f"Failed to parse [{SECRET}]",
        f"Failed to parse {{{SECRET}}}",
        f"Failed to parse <{SECRET}>",
        f"Failed to parse ({SECRET})",
        f"Failed to parse\n{SECRET}",
        f"Failed to parse {'x' * 120}{SECRET}",
    ],
)
def test_what_is_logged_quotes_nobody(message: str) -> None:
    """An error message may repeat the prompt or the answer; its beginning tells enough."""
    found = heard(OPENAI_TEXT, [sse({"error": {"message": message, "type": "server_error"}}).raw])
    assert found.error_message.startswith("server_error: Failed to parse")
    assert SECRET not in found.error_message


def test_what_is_logged_is_short_and_printable() -> None:
    """It goes to logs and pages: one line, nothing that steers a terminal, no endless labels."""
    error = {"message": "a\x1b[31mred\x00 \u202e" + "b" * 500, "type": "t" * 500, "code": "a b"}
    message = heard(OPENAI_TEXT, [sse({"error": error}).raw]).error_message
    assert message == "a"
    error["message"] = "it can't go on\u2028" + "b" * 500
    message = heard(OPENAI_TEXT, [sse({"error": error}).raw]).error_message
    assert message.startswith("it can't go on bbb")
    assert message.isprintable()
    assert len(message) <= 200


@every_stream
def test_our_own_error_event_is_one(stream: Stream) -> None:
    """What ends a broken stream can stand behind any event, and names no success."""
    for place in range(len(stream.events)):
        judge = judge_of(stream)
        for event in stream.events[:place]:
            judge.feed(event.raw)
        assert judge.at_boundary
        error = judge.error_event('the backend broke off: "x"\n\ud800', "upstream_reset")
        assert error is not None
        assert b"[DONE]" not in error
        judge.feed(error)
        assert judge.at_boundary
        assert judge.said is Said.FAILED
        assert judge.error_message.endswith("the backend broke off")
