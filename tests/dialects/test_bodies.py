"""Is it understood what plain answers and errors say of the backend?"""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.admission.outcome import Said
from sidecar.dialects.choosing import judge_for
from sidecar.dialects.judge import Judge, Usage
from tests.dialects.corpus import GEMINI
from tests.dialects.observing import cut_at
from tests.dialects.recordings import recorded

JSON = b"application/json"


def answered(status: int, body: Any, media_type: bytes = JSON) -> Judge:
    """The judge after such an answer, which came in three pieces."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    judge = judge_for(status, media_type, b"", b"/v1/chat/completions")
    for piece in cut_at(raw, [1, len(raw) // 2]):
        judge.feed(piece)
    assert judge.said is Said.NOTHING, "a body tells at its end"
    assert not judge.at_boundary
    judge.end()
    return judge


def _openai(message: str, kind: str, code: str | int | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": code}}


# Status, body, what it says, what may be logged.
ERRORS: dict[str, tuple[int, Any, Said, str]] = {
    "llama.cpp loads": (
        503,
        _openai("Loading model", "unavailable_error", 503),
        Said.LOADING,
        "unavailable_error 503: Loading model",
    ),
    "ollama loads": (
        503,
        {"error": "llm server loading model"},
        Said.LOADING,
        "llm server loading model",
    ),
    "hugging face loads": (
        503,
        {"error": "Model gpt2 is currently loading", "estimated_time": 20.0},
        Said.LOADING,
        "Model gpt2 is currently loading",
    ),
    "plain text loads": (
        503,
        b"The model is still loading.",
        Said.LOADING,
        "The model is still loading",
    ),
    "fastapi loads": (
        503,
        {"detail": "Model is being loaded"},
        Said.LOADING,
        "Model is being loaded",
    ),
    "loading failed": (
        503,
        _openai("Failed loading model", "unavailable_error"),
        Said.BUSY,
        "unavailable_error: Failed loading model",
    ),
    "loading, but a 500": (
        500,
        {"error": "loading model"},
        Said.NOTHING,
        "loading model",
    ),
    "openclaw drains": (
        503,
        _openai("Gateway is restarting", "api_error", "gateway_unavailable"),
        Said.RESTARTING,
        "api_error gateway_unavailable: Gateway is restarting",
    ),
    "ollama is busy": (
        503,
        {"error": "server busy, please try again.  maximum pending requests exceeded"},
        Said.NOTHING,  # the status says it
        "server busy, please try again.  maximum pending requests exceeded",
    ),
    "anthropic is overloaded": (
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        Said.BUSY,
        "overloaded_error: Overloaded",
    ),
    "rate limit": (
        429,
        _openai("Rate limit reached", "requests", "rate_limit_exceeded"),
        Said.BUSY,
        "requests rate_limit_exceeded: Rate limit reached",
    ),
    "overload told by a 500": (
        500,
        {"error": "Model is overloaded", "error_type": "overloaded"},
        Said.BUSY,
        "overloaded: Model is overloaded",
    ),
    "openclaw's model failed": (
        400,
        _openai("upstream said no", "api_error"),
        Said.FAILED,
        "api_error: upstream said no",
    ),
    "openclaw's model hung up": (
        408,
        _openai("upstream provider timeout", "api_error"),
        Said.FAILED,
        "api_error: upstream provider timeout",
    ),
    "client's mistake": (
        400,
        _openai("Invalid value hello my dear", "invalid_request_error", "invalid_value"),
        Said.NOTHING,
        "invalid_request_error invalid_value",
    ),
    "client's mistake in fastapi": (
        422,
        {"detail": [{"loc": ["body"], "msg": "Field required", "input": {"prompt": "secret"}}]},
        Said.NOTHING,
        "",
    ),
    "server's mistake": (
        500,
        _openai("CUDA error: out of memory", "InternalServerError", 500),
        Said.NOTHING,  # the status says it
        "InternalServerError 500: CUDA error",
    ),
    "fastapi with an object": (
        500,
        {"detail": {"error": {"message": "boom", "type": "server_error"}}},
        Said.NOTHING,
        "server_error: boom",
    ),
    "a page": (502, b"<html><title>502 Bad Gateway</title></html>", Said.NOTHING, ""),
    "nothing": (500, b"", Said.NOTHING, ""),
    "no text at all": (500, b"\xff\xfe\x00", Said.NOTHING, ""),
    "a list": (500, b"[1, 2]", Said.NOTHING, ""),
}


@pytest.mark.parametrize(
    ("status", "body", "said", "message"), ERRORS.values(), ids=list(ERRORS.keys())
)
def test_what_an_error_says(status: int, body: Any, said: Said, message: str) -> None:
    """Loading, draining and busy are told from failing, the client's fault from the backend's."""
    judge = answered(status, body)
    assert (judge.said, judge.error_message) == (said, message)
    assert not judge.got_event, "what an error says is no data"


def test_the_media_type_of_an_error_does_not_matter() -> None:
    """Servers are careless with it."""
    body = _openai("Loading model", "unavailable_error", 503)
    for media_type in (b"text/plain", b"", b"text/event-stream"):
        assert answered(503, body, media_type).said is Said.LOADING


def test_an_endless_error_is_not_understood() -> None:
    """Nobody's error is that long."""
    judge = answered(503, b'{"error":"Loading model' + b" " * 70_000 + b'"}')
    assert judge.said is Said.NOTHING


def test_llama_cpps_own_errors() -> None:
    """Recorded: both are the client's fault."""
    for name, labels in (
        ("chat_bad_request", "invalid_request_error 400"),
        ("chat_too_long", "exceed_context_size_error 400"),
    ):
        answer = recorded(name)
        judge = answered(answer.status, answer.body, answer.content_type)
        assert (judge.said, judge.error_message) == (Said.NOTHING, labels)


_CHOICE = {"index": 0, "message": {"role": "assistant", "content": 'no "usage":{}'}}
_COUNTS = {"prompt_tokens": 21, "completion_tokens": 4, "total_tokens": 25}
ANSWERS: dict[str, tuple[Any, Usage | None, str]] = {
    "openai": ({"model": "m", "choices": [_CHOICE], "usage": _COUNTS}, Usage(21, 4), "m"),
    "no usage": ({"model": "m", "choices": [_CHOICE]}, None, "m"),
    "embeddings": (
        {"model": "e", "data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}},
        Usage(8, 0),
        "e",
    ),
    "responses": (
        {
            "model": "m",
            "error": None,
            "usage": {
                "input_tokens": 36,
                "input_tokens_details": {"cached_tokens": 30},
                "output_tokens": 87,
            },
        },
        Usage(36, 87),
        "m",
    ),
    "anthropic": (
        {
            "type": "message",
            "model": "claude",
            "usage": {
                "input_tokens": 1,
                "cache_creation_input_tokens": 20,
                "cache_read_input_tokens": 300,
                "output_tokens": 5,
            },
        },
        Usage(321, 5),
        "claude",
    ),
    "ollama": (
        {
            "model": "gemma3",
            "response": "Hi",
            "done": True,
            "prompt_eval_count": 26,
            "eval_count": 2,
        },
        Usage(26, 2),
        "gemma3",
    ),
    "gemini": (
        json.loads(GEMINI.events[-1].raw.removeprefix(b"data: ")),
        Usage(4, 29),
        "gemini-2.5-flash",
    ),
    "nonsense": (
        {"model": "x" * 500, "usage": {"prompt_tokens": -1, "completion_tokens": True}},
        None,
        "",
    ),
    "more nonsense": ({"model": "a\nb", "usage": [1], "error": [], "choices": {}}, None, ""),
    "a list": ([{"usage": _COUNTS}], None, ""),
    "half a usage": (b" " * 70_000 + b'{"usage":{"prompt_tokens":}}', None, ""),
    "half an object": (b'{"usage":{"prompt_tokens":1}', None, ""),
}


@pytest.mark.parametrize(("body", "usage", "model"), ANSWERS.values(), ids=list(ANSWERS.keys()))
def test_what_an_answer_tells(body: Any, usage: Usage | None, model: str) -> None:
    """Tokens and model; whether it was good, its status and framing say."""
    judge = answered(200, body)
    assert (judge.said, judge.usage, judge.model) == (Said.NOTHING, usage, model)
    assert judge.got_event
    assert judge.error_message == ""


@pytest.mark.parametrize(
    ("name", "usage"), [("chat_plain", Usage(30, 6)), ("messages_plain", Usage(30, 6))]
)
def test_llama_cpps_own_answers(name: str, usage: Usage) -> None:
    """Recorded."""
    answer = recorded(name)
    judge = answered(answer.status, answer.body, answer.content_type)
    assert (judge.usage, judge.model) == (usage, "tiny-random")


@pytest.mark.parametrize("counts_first", [False, True])
def test_the_tokens_of_a_large_answer(counts_first: bool) -> None:
    """They stand at its end, and a vector of any size before them is not kept."""
    vectors = {"data": [{"embedding": [0.25] * 50_000}]}
    usage = {"usage": {"prompt_tokens": 8, "total_tokens": 8}}
    body = {**usage, **vectors} if counts_first else {**vectors, **usage}
    assert answered(200, body).usage == (None if counts_first else Usage(8, 0))


def test_a_large_answer_that_speaks_of_usage() -> None:
    """What a model writes is no count."""
    text = "x" * 70_000 + '"usage":{"prompt_tokens":1,"completion_tokens":1}'
    body = {"choices": [{"message": {"content": text}}], "usage": _COUNTS, "id": "1"}
    assert answered(200, body).usage == Usage(21, 4)
    del body["usage"]
    assert answered(200, body).usage is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ({"code": 502, "message": "Provider returned error"}, Said.FAILED),
        ({"code": 429, "message": "Provider returned error"}, Said.BUSY),
        ("it broke", Said.FAILED),
    ],
)
def test_an_error_in_an_answer_that_says_200(error: object, said: Said) -> None:
    """OpenRouter answers so when the model behind it fails."""
    judge = answered(200, {"error": error})
    assert judge.said is said
    assert judge.error_message
