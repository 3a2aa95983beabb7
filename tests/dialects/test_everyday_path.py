"""Does the everyday path, which parses nothing, count what parsing counts?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.dialects.choosing import judge_for
from sidecar.dialects.judge import Judge
from sidecar.dialects.reading import json_object
from tests.dialects.corpus import NDJSON, SSE, Stream, line, openai_chunk, sse, typed
from tests.dialects.observing import cut_at, heard

# Texts as models write them and JSON hates them.
TEXTS = st.text(
    st.one_of(st.sampled_from('"\\\n\r\t{}[]:, ab\u2028\U0001f99e'), st.characters(codec="utf-8")),
    max_size=8,
)


def _chat(text: str, number: int) -> Any:
    return openai_chunk({"content": text}, obfuscation="x" * (number % 3))


def _reasoning(text: str, number: int) -> Any:
    return openai_chunk({"content": None, "reasoning_content": text}, index=number % 2)


def _tool(text: str, number: int) -> Any:
    return openai_chunk({"tool_calls": [{"index": number % 2, "function": {"arguments": text}}]})


def _completion(text: str, number: int) -> Any:
    return {"object": "text_completion", "choices": [{"text": text, "index": number % 2}]}


# Tool calls count even when their arguments are empty: the model has chosen to call.
SHAPES = [(_chat, False), (_reasoning, False), (_tool, True), (_completion, False)]


@given(
    shape=st.sampled_from(SHAPES),
    texts=st.lists(TEXTS, max_size=30),
    ascii_only=st.booleans(),
    spaced=st.booleans(),
    crlf=st.booleans(),
    places=st.lists(st.integers(0, 10_000), max_size=10),
)
def test_chunks_with_any_text(
    shape: Any,
    texts: list[str],
    ascii_only: bool,
    spaced: bool,
    crlf: bool,
    places: list[int],
) -> None:
    """Every chunk whose text is not empty counts once, whatever the text, however it is written."""
    make, counts_empty = shape
    separators = (", ", ": ") if spaced else (",", ":")
    events = [
        sse(json.dumps(make(text, number), ensure_ascii=ascii_only, separators=separators))
        for number, text in enumerate(texts)
    ]
    raw = b"".join(event.raw for event in events)
    raw = raw.replace(b"\n", b"\r\n") if crlf else raw
    expected = len(texts) if counts_empty else sum(bool(text) for text in texts)
    stream = Stream(b"/v1/chat/completions", tuple(events), None, "")
    assert heard(stream, [raw]).events == expected
    assert heard(stream, [event.raw for event in events]).events == expected
    assert heard(stream, cut_at(raw, places)).events == expected


@given(texts=st.lists(TEXTS, max_size=30), places=st.lists(st.integers(0, 5000), max_size=10))
def test_lines_with_any_text(texts: list[str], places: list[int]) -> None:
    """Likewise for Ollama."""
    events = tuple(
        line(
            {
                "model": "m",
                "created_at": f"2025-10-26T17:15:24.{number:06d}Z",
                "message": {"role": "assistant", "content": text},
                "done": False,
            }
        )
        for number, text in enumerate(texts)
    )
    stream = Stream(b"/api/chat", events, None, "", NDJSON)
    assert heard(stream, cut_at(stream.raw, places)).events == sum(bool(text) for text in texts)


def _typed_delta(number: int, text: str) -> bytes:
    body = {"type": "response.output_text.delta", "sequence_number": number, "delta": text}
    return typed(body).raw


MANY = 500
USUAL = {
    "openai": (SSE, [sse(_chat(f"w{n}", n)).raw for n in range(MANY)]),
    "openai, crlf": (
        SSE,
        [sse(_chat(f"w{n}", n)).raw.replace(b"\n", b"\r\n") for n in range(MANY)],
    ),
    "openai, spaced": (SSE, [sse(json.dumps(_chat(f'"{n}"', 1))).raw for n in range(MANY)]),
    "arguments": (SSE, [sse(_tool(f'{{"a":"{n}\\', 0)).raw for n in range(MANY)]),
    "responses": (SSE, [_typed_delta(n, f'"{n}"') for n in range(MANY)]),
    "anthropic": (
        SSE,
        [
            typed({"type": "content_block_delta", "index": 0, "delta": {"n": n}}).raw
            for n in range(MANY)
        ],
    ),
    "ollama": (
        NDJSON,
        [line({"created_at": f"{n}", "response": f"{n}", "done": False}).raw for n in range(MANY)],
    ),
    # The second of llama.cpp's `created` changes now and then.
    "changing": (
        SSE,
        [sse({**_chat(f"w{n}", 0), "created": n // 50}).raw for n in range(MANY)],
    ),
}


@pytest.mark.parametrize(("media_type", "events"), USUAL.values(), ids=USUAL.keys())
@pytest.mark.parametrize("per_feed", [1, 10, MANY])
def test_most_events_are_not_parsed(
    media_type: bytes, events: list[bytes], per_feed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 500 usual events at most 5 % are parsed; the cost of the others is a few searches."""
    parsed = 0

    def counting(data: bytes) -> Any:
        nonlocal parsed
        parsed += 1
        return json_object(data)

    monkeypatch.setattr("sidecar.dialects.streams.json_object", counting)
    judge: Judge = judge_for(200, media_type, b"", b"")
    for at in range(0, MANY, per_feed):
        judge.feed(b"".join(events[at : at + per_feed]))
    assert judge.events == MANY
    assert 0 < parsed <= MANY // 20


def test_two_choices_in_turn_are_counted() -> None:
    """Where no event looks like the one before, all are parsed, and counted as well."""
    judge = judge_for(200, SSE, b"", b"")
    for number in range(MANY):
        judge.feed(sse(_reasoning("hm", number)).raw)
        judge.feed(sse(_tool("{", number)).raw)
    assert judge.events == 2 * MANY
