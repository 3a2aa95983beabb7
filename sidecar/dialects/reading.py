"""How is JSON from a backend read when nothing about it can be relied on?"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from sidecar.dialects.judge import Usage

Json = Mapping[str, object]

_NOTHING: Json = {}
_MAX_MODEL_CHARS = 100  # a guess: the longest repository names on model hubs have about that
_MAX_TOKENS = 2**53  # beyond it, numbers are no longer exact for everybody


def json_object(data: bytes) -> Json | None:
    """The JSON object in `data`, None when there is none."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def inner(value: Json, key: str) -> Json:
    """The object under `key`; an empty one where there is none."""
    found = value.get(key)
    return found if isinstance(found, dict) else _NOTHING


def items(value: Json, key: str) -> list[Json]:
    """The objects in the list under `key`."""
    found = value.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def text(value: Json, key: str) -> str:
    """The string under `key`; "" where there is none."""
    found = value.get(key)
    return found if isinstance(found, str) else ""


def model_in(event: Json) -> str:
    """The model that an event or a body names."""
    name = (
        text(event, "model")
        or text(inner(event, "response"), "model")  # OpenAI Responses
        or text(inner(event, "message"), "model")  # Anthropic's message_start
        or text(event, "modelVersion")  # Gemini
    )
    return name if len(name) <= _MAX_MODEL_CHARS and name.isprintable() else ""


def usage_in(event: Json) -> Usage | None:
    """The tokens that an event or a body tells, in whatever dialect."""
    counts = event.get("usage")
    if not counts:  # OpenAI Responses, Anthropic's message_start
        holder = event.get("response") or event.get("message")
        counts = holder.get("usage") if isinstance(holder, dict) else None
    if isinstance(counts, dict) and counts:
        return _named_counts(counts)
    if counts := inner(event, "usageMetadata"):  # Gemini: GenerateContentResponse.UsageMetadata
        return _usage(
            _count(counts, "promptTokenCount"),
            _count(counts, "candidatesTokenCount") + _count(counts, "thoughtsTokenCount"),
        )
    if event.get("done") is True:  # Ollama: docs/api.md, the final response
        return _usage(_count(event, "prompt_eval_count"), _count(event, "eval_count"))
    if event.get("stop") is True:  # llama.cpp's own /completion
        return _usage(_count(event, "tokens_evaluated"), _count(event, "tokens_predicted"))
    return None


def _named_counts(counts: Json) -> Usage | None:
    if "prompt_tokens" in counts:  # OpenAI chat, completions, embeddings
        return _usage(_count(counts, "prompt_tokens"), _count(counts, "completion_tokens"))
    # OpenAI Responses, Anthropic. Only Anthropic counts cached tokens beside `input_tokens`; the
    # others have them in it, under names of their own.
    prompt_tokens = (
        _count(counts, "input_tokens")
        + _count(counts, "cache_creation_input_tokens")
        + _count(counts, "cache_read_input_tokens")
    )
    return _usage(prompt_tokens, _count(counts, "output_tokens"))


def merged(old: Usage | None, new: Usage) -> Usage:
    """What is known after `new`: streams tell running totals, and some tell one side only."""
    if old is None or all(new):
        return new
    return Usage(
        new.prompt_tokens or old.prompt_tokens, new.completion_tokens or old.completion_tokens
    )


def _usage(prompt_tokens: int, completion_tokens: int) -> Usage | None:
    return Usage(prompt_tokens, completion_tokens) if prompt_tokens or completion_tokens else None


def _count(counts: Json, key: str) -> int:
    value = counts.get(key)
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else 0
