"""What does an error say: whose fault, overload, and in which words may it be logged?"""

from __future__ import annotations

import re
from typing import NamedTuple

from sidecar.admission.outcome import Said
from sidecar.dialects.reading import Json, text

# In `type`, `code`, `status` or `error_type`, compared without case, `_`, `-` and spaces:
# Anthropic: overloaded_error, rate_limit_error (anthropic.types.shared.ErrorType). OpenAI:
# rate_limit_exceeded, slow_down. text-generation-inference: overloaded (router/src/infer/mod.rs).
# Gemini: RESOURCE_EXHAUSTED, UNAVAILABLE (google.rpc.Code). llama.cpp: unavailable_error
# (tools/server/server-common.cpp). vLLM: ServiceUnavailableError. Bedrock: ThrottlingException.
_BUSY_WORDS = (
    "overload",
    "ratelimit",
    "toomanyrequests",
    "slowdown",
    "resourceexhausted",
    "unavailable",
    "throttl",
)
# vLLM, llama.cpp, OpenRouter and Gemini give the HTTP status as `code`.
_BUSY_CODES = frozenset({"429", "503", "529"})
_NO_SEPARATORS = str.maketrans("", "", "_- ")

# llama.cpp: "Loading model" (tools/server/server-http.cpp). Ollama: "llm server loading model"
# (llm/server.go). Hugging Face: "Model x is currently loading". vLLM and
# text-generation-inference do not listen before the model is there (vllm issue 12173).
_LOADING = re.compile(
    r"\bloading (?:the )?model\b|\b(?:is|still|currently) loading\b|\bbeing loaded\b", re.IGNORECASE
)
_LOADING_FAILED = re.compile(r"\b(?:fail|error|unable|cannot|could not)", re.IGNORECASE)

# What follows one of these may quote the prompt or the answer ("Failed to parse input at pos 3:
# <generated text>" is llama.cpp's). An apostrophe within a word quotes nothing.
_QUOTE_BEGINS = re.compile(r"(?<!\w)'|[\"`\u2018\u201c\u00ab{\[<(:\n\r]")
_MAX_MESSAGE_CHARS = 120
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,40}")


class Complaint(NamedTuple):
    """An error, understood."""

    said: Said
    message: str


def complaint_of(error: object) -> Complaint:
    """Understand what stands in an error event: an object, or only a text."""
    labels = _labels(error)
    busy = any(_speaks_of_load(label) for label in labels)
    return Complaint(Said.BUSY if busy else Said.FAILED, described(error))


def speaks_of_load(error: object) -> bool:
    """Whether the code or type of an error is about load."""
    return any(_speaks_of_load(label) for label in _labels(error))


def speaks_of_loading(message: str) -> bool:
    """Whether a 503's message says that the model is on its way."""
    return bool(_LOADING.search(message)) and not _LOADING_FAILED.search(message)


def described(error: object, *, labels_only: bool = False) -> str:
    """One short printable line for logs: type, code, and how the message begins.

    The message is cut where a quotation could begin, and left out with `labels_only`.
    """
    words = " ".join(dict.fromkeys(label for label in _labels(error) if _LABEL.fullmatch(label)))
    message = "" if labels_only else _harmless(message_of(error))
    return ": ".join(part for part in (words, message) if part)


def message_of(error: object) -> str:
    """The words of an error, raw."""
    if isinstance(error, str):
        return error
    return text(error, "message") or text(error, "error") if isinstance(error, dict) else ""


def _harmless(message: str) -> str:
    begins = _QUOTE_BEGINS.search(message)
    if begins:
        message = message[: begins.start()]
    message = message[:_MAX_MESSAGE_CHARS]
    return "".join(char if char.isprintable() else " " for char in message).strip(" .,")


def _labels(error: object) -> list[str]:
    """`type`, `code` and the like, as texts."""
    if not isinstance(error, dict):
        return []
    found: list[str] = []
    for key in ("type", "error_type", "code", "status"):
        value = error.get(key)
        if isinstance(value, str | int) and value != "error" and value:
            found.append(str(value))
    return found


def _speaks_of_load(label: str) -> bool:
    bare = label.lower().translate(_NO_SEPARATORS)
    return label in _BUSY_CODES or any(word in bare for word in _BUSY_WORDS)


def error_in_event(name: str, event: Json) -> object | None:
    """The error that an event of any dialect tells of; None when it tells of none."""
    # llama.cpp's /v1/messages sends "event: error" with the error itself as data, not under `error`
    # (tools/server/server-context.cpp); so did its `error: {...}` lines (server_sent_event).
    return error_in(event) or (event if name == "error" else None)


def error_in(body: Json) -> object | None:
    """The error in a JSON body, in the shapes that servers have; None when there is none."""
    error = body.get("error")
    if isinstance(error, dict | str) and error:
        # text-generation-inference: {"error": "...", "error_type": "..."}
        return {**body, "message": error} if isinstance(error, str) else error
    if body.get("type") == "error" or body.get("object") == "error":
        return body  # vLLM before 0.10: {"object":"error","message":...,"code":400}
    return None
