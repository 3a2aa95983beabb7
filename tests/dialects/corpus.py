"""Which whole streams are judged in the tests? As real servers send them, event by event.

Written from the documentation and sources that the judge's own files name; what llama.cpp sends was
recorded (`recordings.py`). For each event it is known whether it is data and whether the stream is
finished with it; that comes from here, not from the judge.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sidecar.dialects.judge import Usage
from tests.dialects.recordings import recorded

SSE = b"text/event-stream"
NDJSON = b"application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it stands in the stream, with its terminator."""

    raw: bytes
    data: bool = False
    """Whether it has generated content."""
    ends: bool = False
    """Whether the stream is finished once it came."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A whole stream."""

    path: bytes
    events: tuple[Event, ...]
    usage: Usage | None
    model: str
    media_type: bytes = SSE
    terminator: bytes = b"\n\n"

    @property
    def raw(self) -> bytes:
        """The body."""
        return b"".join(event.raw for event in self.events)

    @property
    def data_events(self) -> int:
        """How many data events it has."""
        return sum(event.data for event in self.events)


def sse(body: Any, name: str = "", *, data: bool = False, ends: bool = False) -> Event:
    """A server-sent event; `body` is JSON, or text as it is."""
    text = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
    head = f"event: {name}\n" if name else ""
    return Event(f"{head}data: {text}\n\n".encode(), data, ends)


def typed(body: dict[str, Any], *, data: bool = False, ends: bool = False) -> Event:
    """An event whose name is its `type`."""
    return sse(body, body["type"], data=data, ends=ends)


def line(body: dict[str, Any], *, data: bool = False, ends: bool = False) -> Event:
    """A line of NDJSON, as Go writes it."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return Event(f"{text}\n".encode(), data, ends)


DONE = sse("[DONE]", ends=True)
PING = typed({"type": "ping"})
COMMENT = Event(b": OPENROUTER PROCESSING\n\n")


# -- OpenAI chat completions ----------------------------------------------------------------


def openai_chunk(
    delta: dict[str, Any] | None,
    finish: str | None = None,
    index: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """A chunk as api.openai.com sends it."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-CVn1yBHcWUBLnGbTwZ7rTk1EbsUO7",
        "object": "chat.completion.chunk",
        "created": 1761830000,
        "model": "gpt-4o-mini-2024-07-18",
        "service_tier": "default",
        "system_fingerprint": "fp_560af6e559",
        "choices": [] if delta is None else [choice],
        **more,
    }


def _call(**function: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "function": function}]}


def _padded(index: int) -> dict[str, Any]:
    return {"usage": None, "obfuscation": "x7Jf0yKQ3b"[: 3 + index]}


OPENAI_TEXT = Stream(
    b"/v1/chat/completions",
    (
        sse(openai_chunk({"role": "assistant", "content": "", "refusal": None}, **_padded(0))),
        sse(openai_chunk({"content": "Hello"}, **_padded(1)), data=True),
        sse(openai_chunk({"content": ' "friend"\n'}, **_padded(2)), data=True),
        sse(openai_chunk({"content": " \\"}, **_padded(0)), data=True),
        sse(openai_chunk({"content": " \u00fc\u4f60\U0001f99e"}, **_padded(5)), data=True),
        sse(openai_chunk({"content": "."}, **_padded(4)), data=True),
        sse(openai_chunk({}, "stop", **_padded(3)), ends=True),
        sse(
            openai_chunk(
                None,
                usage={"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
                obfuscation="",
            )
        ),
        DONE,
    ),
    Usage(19, 10),
    "gpt-4o-mini-2024-07-18",
)
OPENAI_TOOLS = Stream(
    b"/v1/chat/completions",
    (
        sse(
            openai_chunk(
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "index": 0,
                            "id": "call_DdmO9pD3xa9XTPNJ32zg2hcA",
                            "type": "function",
                            "function": {"name": "get_weather", "arguments": ""},
                        }
                    ],
                    "refusal": None,
                }
            ),
            data=True,
        ),
        sse(openai_chunk(_call(arguments='{"')), data=True),
        sse(openai_chunk(_call(arguments="city")), data=True),
        sse(openai_chunk(_call(arguments='":"')), data=True),
        sse(openai_chunk(_call(arguments="Paris")), data=True),
        sse(openai_chunk(_call(arguments='"}')), data=True),
        sse(openai_chunk({}, "tool_calls"), ends=True),
        DONE,
    ),
    None,
    "gpt-4o-mini-2024-07-18",
)
OPENAI_REFUSAL = Stream(
    b"/v1/chat/completions?api-version=2024-10-21",
    (
        # Azure's first chunk has no choice.
        sse({"choices": [], "created": 0, "id": "", "model": "", "prompt_filter_results": []}),
        sse(openai_chunk({"role": "assistant", "content": "", "refusal": None})),
        sse(openai_chunk({"refusal": "I'm"}), data=True),
        sse(openai_chunk({"refusal": " sorry"}), data=True),
        sse(openai_chunk({}, "stop"), ends=True),
        # Azure's asynchronous filter has the last word, of a choice that has ended.
        sse(openai_chunk({}, content_filter_offsets={"check_offset": 0, "end_offset": 9})),
        DONE,
    ),
    None,
    "gpt-4o-mini-2024-07-18",
)
OPENAI_TWO_CHOICES = Stream(
    b"/v1/chat/completions",
    (
        sse(openai_chunk({"role": "assistant", "content": ""})),
        sse(openai_chunk({"content": "One"}), data=True),
        sse(openai_chunk({"role": "assistant", "content": ""}, index=1)),
        sse(openai_chunk({"content": "Two"}, index=1), data=True),
        sse(openai_chunk({"content": " more"}), data=True),
        sse(openai_chunk({}, "stop")),  # the other one goes on
        sse(openai_chunk({"content": " and"}, index=1), data=True),
        sse(openai_chunk({"content": " two"}, index=1), data=True),
        sse(openai_chunk({}, "length", index=1), ends=True),
        DONE,
    ),
    None,
    "gpt-4o-mini-2024-07-18",
)
DEEPSEEK_REASONING = Stream(
    b"/chat/completions",
    (
        COMMENT,
        sse(openai_chunk({"role": "assistant", "content": None, "reasoning_content": ""})),
        sse(openai_chunk({"content": None, "reasoning_content": "Hm"}), data=True),
        sse(openai_chunk({"content": None, "reasoning_content": ", 9.11"}), data=True),
        sse(openai_chunk({"content": None, "reasoning_content": " > 9.8"}), data=True),
        COMMENT,
        sse(openai_chunk({"content": "9.8", "reasoning_content": None}), data=True),
        sse(openai_chunk({"content": ".", "reasoning_content": None}), data=True),
        sse(
            openai_chunk(
                {"content": "", "reasoning_content": None},
                "stop",
                usage={"prompt_tokens": 18, "completion_tokens": 7, "total_tokens": 25},
            ),
            ends=True,
        ),
        DONE,
    ),
    Usage(18, 7),
    "gpt-4o-mini-2024-07-18",
)


# -- vLLM, OpenClaw ---------------------------------------------------------------------------


def _vllm_chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> Any:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-5f0d5b0c2a5b4d0f9a3c",
        "object": "chat.completion.chunk",
        "created": 1761830001,
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "choices": [] if delta is None else [choice],
        **more,
    }


def _counted(completion_tokens: int) -> dict[str, Any]:
    total = 31 + completion_tokens
    return {
        "usage": {
            "prompt_tokens": 31,
            "total_tokens": total,
            "completion_tokens": completion_tokens,
        }
    }


VLLM_COUNTING = Stream(  # stream_options: include_usage, continuous_usage_stats
    b"/v1/chat/completions",
    (
        sse(_vllm_chunk({"role": "assistant", "content": ""}, **_counted(0))),
        sse(_vllm_chunk({"content": "The"}, **_counted(1)), data=True),
        sse(_vllm_chunk({"content": " answer"}, **_counted(2)), data=True),
        sse(_vllm_chunk({"content": ""}, "stop", stop_reason=None, **_counted(3)), ends=True),
        sse(_vllm_chunk(None, **_counted(3))),
        DONE,
    ),
    Usage(31, 3),
    "Qwen/Qwen2.5-7B-Instruct",
)
OPENCLAW = Stream(
    b"/v1/chat/completions",
    (
        sse(
            {
                "id": "chatcmpl_0c1d",
                "object": "chat.completion.chunk",
                "created": 1761830002,
                "model": "openclaw",
                "choices": [{"index": 0, "delta": {"role": "assistant"}}],
            }
        ),
        *(
            sse(
                {
                    "id": "chatcmpl_0c1d",
                    "object": "chat.completion.chunk",
                    "created": 1761830002,
                    "model": "openclaw",
                    "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}],
                },
                data=True,
            )
            for word in ("I", " am", " here")
        ),
        DONE,  # without a finish reason before it
    ),
    None,
    "openclaw",
)


# -- OpenAI Responses -------------------------------------------------------------------------


def _response(status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "resp_67c9fdcecf488190bdd9a0409de3a1ec07b8b0ad4e5eb654",
        "object": "response",
        "created_at": 1761830003,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": 'Say "response.completed" never.',
        "model": "gpt-4.1-2025-04-14",
        "output": [],
        "usage": None,
        **more,
    }


_PLACE = {"item_id": "msg_67c9fdcf37fc8190ba82116e33fb28c5", "output_index": 0, "content_index": 0}


def _text_delta(number: int, text: str) -> Event:
    body = {"type": "response.output_text.delta", "sequence_number": number, **_PLACE}
    return typed({**body, "delta": text, "logprobs": [], "obfuscation": "x7"}, data=True)


def _responses(last: str, **more: Any) -> Stream:
    usage = {
        "input_tokens": 37,
        "input_tokens_details": {"cached_tokens": 11},
        "output_tokens": 11,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 48,
    }
    message: dict[str, Any] = {
        "id": _PLACE["item_id"],
        "type": "message",
        "status": "in_progress",
        "content": [],
    }
    part = {"type": "output_text", "text": "", "annotations": []}
    return Stream(
        b"/v1/responses",
        (
            typed({"type": "response.created", "response": _response("in_progress")}),
            typed({"type": "response.in_progress", "response": _response("in_progress")}),
            typed({"type": "response.output_item.added", "output_index": 0, "item": message}),
            typed({"type": "response.content_part.added", **_PLACE, "part": part}),
            _text_delta(4, "Hi"),
            _text_delta(5, ' "there'),
            _text_delta(6, "!"),
            typed({"type": "response.output_text.done", **_PLACE, "text": 'Hi "there!'}),
            typed({"type": "response.output_item.done", "output_index": 0, "item": message}),
            typed(
                {
                    "type": f"response.{last}",
                    "sequence_number": 9,
                    "response": _response(last, usage=usage, **more),
                },
                ends=True,
            ),
        ),
        Usage(37, 11),
        "gpt-4.1-2025-04-14",
    )


RESPONSES_TEXT = _responses("completed")
RESPONSES_CUT_SHORT = _responses("incomplete", incomplete_details={"reason": "max_output_tokens"})
RESPONSES_TOOLS = Stream(
    b"/v1/responses",
    (
        typed({"type": "response.created", "response": _response("in_progress")}),
        typed(
            {
                "type": "response.output_item.added",
                "output_index": 0,
                "item": {"type": "reasoning", "id": "rs_1", "summary": []},
            }
        ),
        typed(
            {"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "delta": "Hm"},
            data=True,
        ),
        typed(
            {
                "type": "response.output_item.added",
                "output_index": 1,
                "item": {"type": "function_call", "id": "fc_1", "name": "get", "arguments": ""},
            },
            data=True,
        ),
        *(
            typed(
                {
                    "type": "response.function_call_arguments.delta",
                    "item_id": "fc_1",
                    "output_index": 1,
                    "delta": piece,
                },
                data=True,
            )
            for piece in ('{"', "city", '":"Paris"}')
        ),
        typed(
            {
                "type": "response.function_call_arguments.done",
                "item_id": "fc_1",
                "arguments": '{"city":"Paris"}',
            }
        ),
        typed({"type": "response.completed", "response": _response("completed")}, ends=True),
    ),
    None,
    "gpt-4.1-2025-04-14",
)


# -- Anthropic messages -----------------------------------------------------------------------


def _message_start(**usage: int) -> Event:
    message: dict[str, Any] = {
        "id": "msg_1nZdL29xx5MUA1yADyHTEsnR8uuvGzszyY",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "claude-sonnet-4-5-20250929",
        "stop_reason": None,
        "usage": usage,
    }
    return typed({"type": "message_start", "message": message})


def _block(index: int, block: dict[str, Any], *, data: bool = False) -> Event:
    body = {"type": "content_block_start", "index": index, "content_block": block}
    return typed(body, data=data)


def _delta(index: int, **delta: str) -> Event:
    """A delta as api.anthropic.com sends it: padded with spaces before the last brace."""
    text = json.dumps({"type": "content_block_delta", "index": index, "delta": delta})
    padded = text[:-1] + " " * (len(text) % 9) + "}"
    return sse(padded, "content_block_delta", data=True)


def _block_stop(index: int) -> Event:
    return typed({"type": "content_block_stop", "index": index})


def _message_delta(reason: str, output_tokens: int) -> Event:
    delta = {"stop_reason": reason, "stop_sequence": None}
    usage = {"output_tokens": output_tokens}
    return typed({"type": "message_delta", "delta": delta, "usage": usage})


MESSAGE_STOP = typed({"type": "message_stop"}, ends=True)

ANTHROPIC_TEXT = Stream(
    b"/v1/messages",
    (
        _message_start(input_tokens=25, cache_read_input_tokens=100, output_tokens=1),
        _block(0, {"type": "text", "text": ""}),
        PING,
        _delta(0, type="text_delta", text="Hello"),
        _delta(0, type="text_delta", text=' "World"'),
        PING,
        _delta(0, type="text_delta", text="!\n"),
        _block_stop(0),
        _message_delta("end_turn", 15),
        MESSAGE_STOP,
    ),
    Usage(125, 15),
    "claude-sonnet-4-5-20250929",
)
ANTHROPIC_TOOLS = Stream(
    b"/v1/messages?beta=true",
    (
        _message_start(input_tokens=472, output_tokens=2),
        _block(0, {"type": "thinking", "thinking": "", "signature": ""}),
        _delta(0, type="thinking_delta", thinking="Let me see"),
        _delta(0, type="thinking_delta", thinking="..."),
        _delta(0, type="signature_delta", signature="EqQBCgIYAhIM1gbcDa9GJwZA2b3h"),
        _block_stop(0),
        _block(
            1,
            {"type": "tool_use", "id": "toolu_01T1x", "name": "get_weather", "input": {}},
            data=True,
        ),
        _delta(1, type="input_json_delta", partial_json=""),
        _delta(1, type="input_json_delta", partial_json='{"location":'),
        PING,
        _delta(1, type="input_json_delta", partial_json=' "San Francisco"}'),
        _block_stop(1),
        _message_delta("tool_use", 89),
        MESSAGE_STOP,
    ),
    Usage(472, 89),
    "claude-sonnet-4-5-20250929",
)
VLLM_MESSAGES = Stream(  # usage beside the message, and [DONE] behind the end
    b"/v1/messages",
    (
        typed(
            {
                "type": "message_start",
                "message": {"id": "chatcmpl-5f0d", "content": [], "model": "Qwen/Qwen3-8B"},
                "usage": {"input_tokens": 9, "output_tokens": 0},
            }
        ),
        _block(0, {"type": "text", "text": ""}),
        _delta(0, type="text_delta", text="Hello"),
        _block_stop(0),
        _message_delta("end_turn", 1),
        MESSAGE_STOP,
        sse("[DONE]"),
    ),
    Usage(9, 1),
    "Qwen/Qwen3-8B",
)


# -- Ollama -----------------------------------------------------------------------------------


def _ollama(number: int, **more: Any) -> dict[str, Any]:
    stamp = f"2025-10-26T17:15:24.{97_767 + 11_405 * number:06d}Z"
    return {"model": "gemma3", "created_at": stamp, **more}


def _said(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


_COUNTS = {
    "done_reason": "stop",
    "total_duration": 4883583458,
    "load_duration": 1334875,
    "prompt_eval_count": 26,
    "prompt_eval_duration": 342546000,
    "eval_count": 282,
    "eval_duration": 4535599000,
}

OLLAMA_CHAT = Stream(
    b"/api/chat",
    (
        line(_ollama(0, message=_said("The"), done=False), data=True),
        line(_ollama(1, message=_said(' "sky"'), done=False), data=True),
        line(_ollama(2, message=_said(" is \\"), done=False), data=True),
        line(_ollama(3, message=_said(" blue"), done=False), data=True),
        line(_ollama(4, message=_said(""), done=True, **_COUNTS), ends=True),
    ),
    Usage(26, 282),
    "gemma3",
    NDJSON,
    b"\n",
)
_OLLAMA_CALL = {"function": {"name": "get_weather", "arguments": {"city": "Toronto"}}}
OLLAMA_TOOLS = Stream(
    b"/api/chat",
    (
        line(_ollama(0, message=_said("", thinking="Okay"), done=False), data=True),
        line(_ollama(1, message=_said("", thinking=" so"), done=False), data=True),
        line(_ollama(2, message=_said("", tool_calls=[_OLLAMA_CALL]), done=False), data=True),
        line(_ollama(3, message=_said(""), done=False)),
        line(_ollama(4, message=_said(""), done=True, **_COUNTS), ends=True),
    ),
    Usage(26, 282),
    "gemma3",
    NDJSON,
    b"\n",
)
OLLAMA_GENERATE = Stream(
    b"/api/generate",
    (
        line(_ollama(0, response="That", done=False), data=True),
        line(_ollama(1, response="'", done=False), data=True),
        line(_ollama(2, response="s", done=False), data=True),
        line(_ollama(3, response=" it", done=False), data=True),
        line(
            _ollama(4, response="!", done=True, context=[1, 2, 3], **_COUNTS),
            data=True,
            ends=True,
        ),
    ),
    Usage(26, 282),
    "gemma3",
    NDJSON,
    b"\n",
)


# -- Gemini -----------------------------------------------------------------------------------


def _gemini(parts: list[dict[str, Any]], output_tokens: int, **candidate: Any) -> dict[str, Any]:
    content = {"parts": parts, "role": "model"}
    return {
        "candidates": [{"content": content, "index": 0, **candidate}],
        "usageMetadata": {
            "promptTokenCount": 4,
            "candidatesTokenCount": output_tokens,
            "thoughtsTokenCount": 20,
            "totalTokenCount": 24 + output_tokens,
        },
        "modelVersion": "gemini-2.5-flash",
        "responseId": "mAitaLmkHPPlz7IPvtfUqQ4",
    }


GEMINI = Stream(
    b"/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
    (
        sse(_gemini([{"text": "Thinking", "thought": True}], 0), data=True),
        sse(_gemini([{"text": "AI"}], 1), data=True),
        sse(_gemini([{"functionCall": {"name": "get", "args": {}}}], 5), data=True),
        sse(_gemini([{"text": ""}], 5)),
        sse(_gemini([{"text": " works."}], 9, finishReason="STOP"), data=True, ends=True),
    ),
    Usage(4, 29),
    "gemini-2.5-flash",
)

GEMINI_BLOCKED = Stream(
    b"/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
    (
        sse(
            {
                "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
                "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
                "modelVersion": "gemini-2.5-flash",
            },
            ends=True,
        ),
    ),
    Usage(4, 0),
    "gemini-2.5-flash",
)


# -- llama.cpp, as it was ----------------------------------------------------------------------


def _recorded(
    name: str, path: bytes, data: list[int], end: int, usage: Usage | None, model: str
) -> Stream:
    """A recording; `data` and `end` count events, negative ones from the back."""
    pieces = recorded(name).body.split(b"\n\n")[:-1]
    numbers = {number % len(pieces) for number in data}
    end %= len(pieces)
    events = tuple(
        Event(piece + b"\n\n", number in numbers, number == end)
        for number, piece in enumerate(pieces)
    )
    return Stream(path, events, usage, model)


_TINY = "tiny-random"
_CHAT = b"/v1/chat/completions"
_SIX = list(range(1, 7))

STREAMS: dict[str, Stream] = {
    "openai text": OPENAI_TEXT,
    "openai tools": OPENAI_TOOLS,
    "openai refusal": OPENAI_REFUSAL,
    "openai two choices": OPENAI_TWO_CHOICES,
    "deepseek reasoning": DEEPSEEK_REASONING,
    "vllm counting": VLLM_COUNTING,
    "vllm messages": VLLM_MESSAGES,
    "openclaw": OPENCLAW,
    "responses text": RESPONSES_TEXT,
    "responses cut short": RESPONSES_CUT_SHORT,
    "responses tools": RESPONSES_TOOLS,
    "anthropic text": ANTHROPIC_TEXT,
    "anthropic tools": ANTHROPIC_TOOLS,
    "ollama chat": OLLAMA_CHAT,
    "ollama tools": OLLAMA_TOOLS,
    "ollama generate": OLLAMA_GENERATE,
    "gemini": GEMINI,
    "gemini blocked": GEMINI_BLOCKED,
    "llama.cpp chat": _recorded("chat", _CHAT, _SIX, -2, None, _TINY),
    "llama.cpp chat with usage": _recorded("chat_usage", _CHAT, _SIX, -3, Usage(30, 6), _TINY),
    "llama.cpp chat with logprobs": _recorded("chat_logprobs", _CHAT, _SIX, -2, None, _TINY),
    "llama.cpp chat with timings": _recorded("chat_timings", _CHAT, _SIX, -2, None, _TINY),
    "llama.cpp chat with two choices": _recorded(
        "chat_two_choices", _CHAT, [1, *range(3, 13), 14], -2, None, _TINY
    ),
    "llama.cpp completions": _recorded(
        "completions", b"/v1/completions", list(range(6)), -2, Usage(7, 6), _TINY
    ),
    "llama.cpp completion": _recorded(
        "own_completion", b"/completion", list(range(6)), -1, Usage(7, 6), _TINY
    ),
    "llama.cpp messages": _recorded(
        "messages", b"/v1/messages", list(range(2, 8)), -1, Usage(30, 6), _TINY
    ),
    "llama.cpp responses": _recorded(
        "responses", b"/v1/responses", list(range(4, 10)), -1, Usage(30, 6), _TINY
    ),
}
