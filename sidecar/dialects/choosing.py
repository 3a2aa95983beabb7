"""Which judge listens to a response?

The response decides: its status, media type and, in a stream, its first events. The path is a hint,
for what has to be known before the first event.
"""

from __future__ import annotations

from functools import lru_cache

from sidecar.dialects.anthropic import AnthropicMessages
from sidecar.dialects.bodies import AnswerJudge, ErrorJudge
from sidecar.dialects.dialect import Dialect
from sidecar.dialects.event_stream import EventStreamJudge
from sidecar.dialects.gemini import Gemini
from sidecar.dialects.judge import Judge
from sidecar.dialects.lines import LinesJudge
from sidecar.dialects.llama_cpp import LlamaCpp
from sidecar.dialects.ollama import Ollama
from sidecar.dialects.openai_chat import OpenAIChat
from sidecar.dialects.openai_responses import OpenAIResponses

_EVENT_STREAM_HINTS: tuple[tuple[bytes, type[Dialect]], ...] = (
    (b"/completions", OpenAIChat),
    (b"/responses", OpenAIResponses),
    (b"/messages", AnthropicMessages),
    (b":streamgeneratecontent", Gemini),
    (b"/completion", LlamaCpp),
)
_LINES_HINTS: tuple[tuple[bytes, type[Dialect]], ...] = (
    (b"/api/chat", Ollama),
    (b"/api/generate", Ollama),
)
_LINES_TYPES = frozenset({b"application/x-ndjson", b"application/ndjson", b"application/jsonl"})


def judge_for(status: int, content_type: bytes, content_encoding: bytes, path: bytes) -> Judge:
    """The judge for a response. For what is none of the known, `Judge` itself.

    `path` is the request target's, with or without its query.
    """
    if content_encoding and content_encoding.strip().lower() not in (b"", b"identity"):
        return Judge()
    media_type = media_type_of(content_type)
    if status >= 400:
        return ErrorJudge(status)
    return _judge_of_answer(media_type, path) if 200 <= status < 300 else Judge()


@lru_cache(maxsize=256)  # a backend uses few
def media_type_of(content_type: bytes) -> bytes:
    """The media type that a Content-Type names, without its parameters, in small letters."""
    return content_type.partition(b";")[0].strip().lower()


def _judge_of_answer(media_type: bytes, path: bytes) -> Judge:
    if media_type == b"application/json" or media_type.endswith(b"+json"):
        return AnswerJudge()
    if media_type == b"text/event-stream":
        return EventStreamJudge(_hinted(path, _EVENT_STREAM_HINTS))
    if media_type in _LINES_TYPES:
        return LinesJudge(_hinted(path, _LINES_HINTS))
    return Judge()


def _hinted(path: bytes, hints: tuple[tuple[bytes, type[Dialect]], ...]) -> type[Dialect] | None:
    plain = path.partition(b"?")[0].rstrip(b"/").lower()
    for ending, dialect in hints:
        if plain.endswith(ending):
            return dialect
    return None
