"""How does OpenAI's API say it? Requests understood, answers and stream events as bytes.

One class per endpoint, with the fields that clients look at (the OpenAI API reference). What is
generated is the same for all: a `Job` with its tokens.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Protocol, runtime_checkable

import orjson

MODEL = "demo"

_SENTENCE = (
    "This answer comes from the demo backend of openclaw-sidecar, one token at a time. "
    "It knows nothing, but it streams like a model that does."
)
_DONE = b"data: [DONE]\n\n"
_ERROR_MESSAGE = "The demo backend failed while it was answering."
_DEFAULT_DIMENSIONS = 32
_MAX_DIMENSIONS = 4096

Json = Mapping[str, object]


class BadRequestError(ValueError):
    """The request cannot be answered; `param` names the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Job:
    """One request, understood."""

    id: str
    created_s: int
    model: str
    prompt_tokens: int
    tokens: tuple[str, ...]
    """What to generate. Embeddings have one entry per input: the input."""
    finish_reason: str = "stop"
    streams: bool = False
    includes_usage: bool = False
    dimensions: int = 0
    as_base64: bool = False

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.tokens)

    def usage(self) -> Json:
        """Tokens, counted in words."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": len(self.tokens),
            "total_tokens": self.prompt_tokens + len(self.tokens),
        }


class Dialect(Protocol):
    """How one endpoint reads and writes."""

    def read(self, body: Json, tokens: int) -> Job:
        """Understand a request; answers have `tokens` tokens. BadRequestError when it is wrong."""

    def plain(self, job: Job) -> Json:
        """The whole answer."""


@runtime_checkable
class StreamDialect(Dialect, Protocol):
    """How one endpoint streams server-sent events."""

    def opening(self, job: Job) -> bytes:
        """What comes before the first token."""

    def token(self, job: Job, index: int) -> bytes:
        """One token's event."""

    def ending(self, job: Job) -> bytes:
        """What comes after the last token; it says that the answer is done."""

    def failing(self, job: Job) -> bytes:
        """What comes when generating fails within the stream: an error, and the end's mark."""


class Chat:
    """`/v1/chat/completions`."""

    def read(self, body: Json, tokens: int) -> Job:
        """Needs `messages`."""
        messages = _needed(body, "messages")
        if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
            raise BadRequestError("messages is a list of objects with role and content", "messages")
        return _generating("chatcmpl", body, messages, tokens, "max_completion_tokens")

    def plain(self, job: Job) -> Json:
        """One choice with a message."""
        message = {"role": "assistant", "content": job.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": job.finish_reason,
        }
        return {**_envelope(job, "chat.completion"), "choices": [choice], "usage": job.usage()}

    def opening(self, job: Job) -> bytes:
        """The role chunk."""
        return self._chunk(job, {"role": "assistant", "content": ""})

    def token(self, job: Job, index: int) -> bytes:
        """A content chunk."""
        return self._chunk(job, {"content": job.tokens[index]})

    def ending(self, job: Job) -> bytes:
        """The finish reason, the usage if it was asked for, the end's mark."""
        finish = self._chunk(job, {}, job.finish_reason)
        return finish + _usage_event(job, "chat.completion.chunk") + _DONE

    def failing(self, job: Job) -> bytes:  # noqa: ARG002 - the same for every job
        """An error event, then the end's mark all the same, as some servers do."""
        return _data({"error": error_body(_ERROR_MESSAGE)}) + _DONE

    def _chunk(self, job: Job, delta: Json, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _data({**_envelope(job, "chat.completion.chunk"), "choices": [choice]})


class Completions:
    """`/v1/completions`."""

    def read(self, body: Json, tokens: int) -> Job:
        """Needs `prompt`."""
        prompt = _needed(body, "prompt")
        if not isinstance(prompt, str | list):
            raise BadRequestError("prompt is a string or a list", "prompt")
        return _generating("cmpl", body, prompt, tokens, "max_tokens")

    def plain(self, job: Job) -> Json:
        """One choice with a text."""
        return {
            **_envelope(job, "text_completion"),
            "choices": [self._choice(job.text, job.finish_reason)],
            "usage": job.usage(),
        }

    def opening(self, job: Job) -> bytes:  # noqa: ARG002 - the same for every job
        """Nothing: there is no role."""
        return b""

    def token(self, job: Job, index: int) -> bytes:
        """A text chunk."""
        return self._chunk(job, job.tokens[index], None)

    def ending(self, job: Job) -> bytes:
        """The finish reason, the usage if it was asked for, the end's mark."""
        finish = self._chunk(job, "", job.finish_reason)
        return finish + _usage_event(job, "text_completion") + _DONE

    def failing(self, job: Job) -> bytes:  # noqa: ARG002 - the same for every job
        """An error event, then the end's mark all the same."""
        return _data({"error": error_body(_ERROR_MESSAGE)}) + _DONE

    def _chunk(self, job: Job, text: str, finish_reason: str | None) -> bytes:
        choice = self._choice(text, finish_reason)
        return _data({**_envelope(job, "text_completion"), "choices": [choice]})

    def _choice(self, text: str, finish_reason: str | None) -> Json:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}


class Responses:
    """`/v1/responses`: named events with sequence numbers, and no `[DONE]`."""

    # Events before the first token: created, in_progress, item added, part added.
    _OPENING_EVENTS = 4

    def read(self, body: Json, tokens: int) -> Job:
        """Needs `input`."""
        prompt = _needed(body, "input")
        if not isinstance(prompt, str | list):
            raise BadRequestError("input is a string or a list", "input")
        return _generating("resp", body, prompt, tokens, "max_output_tokens")

    def plain(self, job: Job) -> Json:
        """A response with one message."""
        if job.finish_reason == "length":
            return self._response(job, "incomplete", [self._item(job, "incomplete")])
        return self._response(job, "completed", [self._item(job, "completed")])

    def opening(self, job: Job) -> bytes:
        """The response, its item and its part are announced."""
        running = self._response(job, "in_progress", [])
        item = {**self._item(job, "in_progress"), "content": []}
        return (
            _event("response.created", 0, response=running)
            + _event("response.in_progress", 1, response=running)
            + _event("response.output_item.added", 2, output_index=0, item=item)
            + _event("response.content_part.added", 3, part=self._part(""), **self._place(job))
        )

    def token(self, job: Job, index: int) -> bytes:
        """A text delta."""
        return _event(
            "response.output_text.delta",
            self._OPENING_EVENTS + index,
            delta=job.tokens[index],
            logprobs=[],
            **self._place(job),
        )

    def ending(self, job: Job) -> bytes:
        """Text, part and item are done; the last event says how the response ended."""
        first = self._OPENING_EVENTS + len(job.tokens)
        place, part, whole = self._place(job), self._part(job.text), self.plain(job)
        item = self._item(job, str(whole["status"]))
        return (
            _event("response.output_text.done", first, text=job.text, logprobs=[], **place)
            + _event("response.content_part.done", first + 1, part=part, **place)
            + _event("response.output_item.done", first + 2, output_index=0, item=item)
            + _event(f"response.{whole['status']}", first + 3, response=whole)
        )

    def failing(self, job: Job) -> bytes:
        """An error event, then the response that failed."""
        first = self._OPENING_EVENTS + len(job.tokens)
        error = {"code": "server_error", "message": _ERROR_MESSAGE}
        failed = {**self._response(job, "failed", []), "error": error}
        return _event("error", first, param=None, **error) + _event(
            "response.failed", first + 1, response=failed
        )

    def _response(self, job: Job, status: str, output: list[Json]) -> Json:
        usage = {
            "input_tokens": job.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": len(job.tokens),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": job.prompt_tokens + len(job.tokens),
        }
        reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": job.id,
            "object": "response",
            "created_at": job.created_s,
            "status": status,
            "error": None,
            "incomplete_details": reason,
            "instructions": None,
            "metadata": {},
            "model": job.model,
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": usage if output else None,
        }

    def _item(self, job: Job, status: str) -> Json:
        content = [self._part(job.text)]
        item_id = self._place(job)["item_id"]
        return {
            "id": item_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _part(self, text: str) -> Json:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _place(self, job: Job) -> dict[str, object]:
        item_id = "msg" + job.id.removeprefix("resp")
        return {"item_id": item_id, "output_index": 0, "content_index": 0}


class Embeddings:
    """`/v1/embeddings`: vectors made from a hash of the input, the same each time."""

    def read(self, body: Json, tokens: int) -> Job:  # noqa: ARG002 - nothing is generated
        """Needs `input`."""
        inputs = _inputs(_needed(body, "input"))
        dimensions = _whole(body, "dimensions") or _DEFAULT_DIMENSIONS
        if dimensions > _MAX_DIMENSIONS:
            raise BadRequestError(f"dimensions is at most {_MAX_DIMENSIONS}", "dimensions")
        return Job(
            id=_new_id("embd"),
            created_s=int(time.time()),
            model=_model(body),
            prompt_tokens=sum(_words(text) for text in inputs),
            tokens=inputs,
            dimensions=dimensions,
            as_base64=body.get("encoding_format") == "base64",
        )

    def plain(self, job: Job) -> Json:
        """One vector per input; as base64 of little-endian floats when asked for."""
        data = [
            {"object": "embedding", "index": index, "embedding": _vector(job, text)}
            for index, text in enumerate(job.tokens)
        ]
        usage = {"prompt_tokens": job.prompt_tokens, "total_tokens": job.prompt_tokens}
        return {"object": "list", "data": data, "model": job.model, "usage": usage}


def error_body(
    message: str,
    *,
    kind: str = "server_error",
    code: str | int | None = None,
    param: str | None = None,
) -> Json:
    """What stands under `error` in OpenAI's error shape."""
    return {"message": message, "type": kind, "param": param, "code": code}


def _generating(prefix: str, body: Json, prompt: object, tokens: int, limit_key: str) -> Job:
    """A job that generates, with what the three endpoints have in common."""
    limit = _whole(body, limit_key)
    if limit is None:
        limit = _whole(body, "max_tokens")
    is_cut = limit is not None and limit < tokens
    options = body.get("stream_options")
    return Job(
        id=_new_id(prefix),
        created_s=int(time.time()),
        model=_model(body),
        prompt_tokens=_words(prompt),
        tokens=_some_tokens(limit if limit is not None and is_cut else tokens),
        finish_reason="length" if is_cut else "stop",
        streams=body.get("stream") is True,
        includes_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _some_tokens(count: int) -> tuple[str, ...]:
    """So many words of a fixed text, each but the first with its space."""
    words = list(islice(cycle(_SENTENCE.split(" ")), count))
    return tuple(word if index == 0 else f" {word}" for index, word in enumerate(words))


def _needed(body: Json, key: str) -> object:
    if body.get(key) is None:
        raise BadRequestError(f"missing required parameter: {key}", key)
    return body[key]


def _whole(body: Json, key: str) -> int | None:
    match body.get(key):
        case None:
            return None
        case int(value) if value >= 1 and not isinstance(value, bool):
            return value
        case _:
            raise BadRequestError(f"{key} is a whole number, 1 or more", key)


def _model(body: Json) -> str:
    match body.get("model"):
        case None:
            return MODEL
        case str(name):
            return name
        case _:
            raise BadRequestError("model is a string", "model")


def _inputs(value: object) -> tuple[str, ...]:
    """Each string and each list of token numbers is one input."""
    match value:
        case str(text):
            return (text,)
        case [int(), *_]:
            return (str(value),)
        case [_, *_]:
            return tuple(str(each) for each in value)
        case _:
            raise BadRequestError("input is a string or a list that is not empty", "input")


def _words(value: object) -> int:
    """How many words are in all the strings of a JSON value."""
    match value:
        case str(text):
            return len(text.split())
        case list(values):
            return sum(_words(each) for each in values)
        case {"content": content}:
            return _words(content)
        case {"text": text}:
            return _words(text)
        case _:
            return 0


def _vector(job: Job, text: str) -> str | list[float]:
    size = job.dimensions
    noise = hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(size * 2)
    values = [number / 32768 for number in struct.unpack(f"<{size}h", noise)]
    if job.as_base64:
        return base64.b64encode(struct.pack(f"<{size}f", *values)).decode()
    return values


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def _envelope(job: Job, kind: str) -> dict[str, object]:
    return {"id": job.id, "object": kind, "created": job.created_s, "model": job.model}


def _usage_event(job: Job, kind: str) -> bytes:
    if not job.includes_usage:
        return b""
    return _data({**_envelope(job, kind), "choices": [], "usage": job.usage()})


def _data(value: Json) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _event(kind: str, sequence: int, **fields: object) -> bytes:
    value = {"type": kind, "sequence_number": sequence, **fields}
    return b"event: " + kind.encode() + b"\n" + _data(value)
