"""Can a backend make a judge raise, hoard memory or waste time? It may send anything."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admission.outcome import Said
from sidecar.dialects.choosing import judge_for
from sidecar.dialects.judge import Judge, Usage
from sidecar.dialects.records import MAX_EVENT_BYTES
from tests.dialects.corpus import (
    ANTHROPIC_TEXT,
    NDJSON,
    OLLAMA_GENERATE,
    OPENAI_TEXT,
    RESPONSES_TEXT,
    SSE,
    STREAMS,
    Stream,
    openai_chunk,
    sse,
)
from tests.dialects.observing import cut_at, judge_of

MIB = 1024 * 1024
JSON = b"application/json"
PATHS = sorted({stream.path for stream in STREAMS.values()})

# Pieces that mean something, so that random streams get beyond the first test.
_BYTES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"data: ",
            b"data:{",
            b"\n",
            b"\n\n",
            b"\r",
            b"\r\n",
            b":",
            b"event: error\n",
            b"[DONE]",
            b"\xef\xbb\xbf",
            b'{"choices":[{"delta":{"content":"',
            b'"}}]}',
            b'data: {"choices":[5,{"index":[],"finish_reason":1,"delta":5}]}\n\n',
            b'{"type":"content_block_delta"',
            b'{"type":"response.failed","response":[]}',
            b'{"error":',
            b'{"error":{"code":{},"type":[],"message":{}}}',
            b'{"done":true,"message":[],"eval_count":1e99}\n',
            b'{"candidates":[{"content":{"parts":[1,{}]},"index":-1}],"usageMetadata":[]}',
            b'{"usage":{"prompt_tokens":123456789012345678901234567890}}',
            b'{"model":"\\ud800","modelVersion":7}',
            b"[" * 50,
            b"\\",
            b'"',
        ]
    ),
    st.sampled_from([event.raw for stream in STREAMS.values() for event in stream.events]),
)


@given(
    pieces=st.lists(_BYTES, max_size=40),
    status=st.sampled_from([200, 204, 400, 429, 503]),
    media_type=st.sampled_from([SSE, NDJSON, JSON, b"text/html"]),
    path=st.sampled_from(PATHS),
    places=st.lists(st.integers(0, 5000), max_size=20),
)
def test_nothing_makes_it_raise(
    pieces: list[bytes], status: int, media_type: bytes, path: bytes, places: list[int]
) -> None:
    """Whatever comes, in whatever pieces: it says something, and what it says can be used."""
    judge = judge_for(status, media_type, b"", path)
    for piece in cut_at(b"".join(pieces), places):
        judge.feed(piece)
        _is_sane(judge)
    judge.end()
    _is_sane(judge)


def _is_sane(judge: Judge) -> None:
    assert isinstance(judge.said, Said)
    assert judge.events >= 0
    assert judge.error_message.isprintable()
    assert len(judge.error_message) <= 300
    assert judge.model.isprintable()
    assert len(judge.model) <= 100
    assert judge.usage is None or all(0 <= count <= 2**53 for count in judge.usage)
    error = judge.error_event("m", "c")
    assert error is None or error.endswith(b"\n")


def _peak_bytes(judge: Judge, pieces: Iterable[bytes]) -> int:
    """How much more memory than before it held at most."""
    tracemalloc.start()
    try:
        begin = tracemalloc.get_traced_memory()[0]
        for piece in pieces:
            judge.feed(piece)
        judge.end()
        return tracemalloc.get_traced_memory()[1] - begin
    finally:
        tracemalloc.stop()


ENDLESS = {
    "a line": b"x" * 65536,
    "an event": b'data: {"choices":[{"delta":{"content":"' + b"x" * 65536,
    "data lines": b"data: 1234567\n" * 4096,
    "a comment": b":" + b"x" * 65536,
    "nothing": b"\n" * 65536,
    "carriage returns": b"\r" * 65536,
    "half line ends": b"a\r" * 32768,
    "nesting": b"data: " + b"[" * 65536,
}


@pytest.mark.parametrize("piece", ENDLESS.values(), ids=ENDLESS.keys())
@pytest.mark.parametrize("media_type", [SSE, NDJSON, JSON])
@pytest.mark.parametrize("status", [200, 500])
def test_memory_is_bounded_whatever_comes(piece: bytes, media_type: bytes, status: int) -> None:
    """4 MiB of it cost at most four times the largest event that is parsed."""
    judge = judge_for(status, media_type, b"", b"/v1/chat/completions")
    assert _peak_bytes(judge, [piece] * 64) < 4 * MAX_EVENT_BYTES


def test_a_trickle_costs_no_more_than_a_flood() -> None:
    """An event of 400 KB that comes in pieces of 4 bytes, many with a line end: still judged."""
    judge = judge_for(200, SSE, b"", b"/v1/chat/completions")
    head = b'data: {"choices":[{"delta":{"content":"x"}}],\n'
    padding = b'data: "a":0,\n' * 32_000
    raw = head + padding + b'data: "z":0}\n\n'
    for at in range(0, len(raw), 4):
        judge.feed(raw[at : at + 4])
    assert (judge.events, judge.at_boundary) == (1, True)


def _swollen(raw: bytes, key: str) -> bytes:
    """The event with 1 MiB more in it, behind what it says of itself."""
    text = raw.rstrip(b"\n")
    swelling = json.dumps({key: "x" * MIB}).encode()[1:]
    return text[:-1] + b"," + swelling + raw[len(text) :]


@pytest.mark.parametrize("piece_bytes", [1000, 65536, 4 * MIB])
@pytest.mark.parametrize(
    "stream",
    [RESPONSES_TEXT, OLLAMA_GENERATE, ANTHROPIC_TEXT],
    ids=["responses", "ollama", "anthropic"],
)
def test_an_end_that_is_too_large_is_still_an_end(stream: Stream, piece_bytes: int) -> None:
    """Last events may repeat prompt and answer, or hold all tokens as numbers."""
    judge = judge_of(stream)
    *before, last = stream.events
    for event in before:
        judge.feed(event.raw)
    events, usage = judge.events, judge.usage
    raw = _swollen(last.raw, "context")
    for at in range(0, len(raw), piece_bytes):
        assert judge.said is Said.UNFINISHED
        judge.feed(raw[at : at + piece_bytes])
    assert (judge.said, judge.events, judge.at_boundary) == (Said.FINISHED, events, True)
    assert judge.usage == usage, "what a large event tells is not read"


@pytest.mark.parametrize("piece_bytes", [1000, 4 * MIB])
def test_large_data_is_data(piece_bytes: int) -> None:
    """An image in a chunk; what comes behind it is judged as ever."""
    judge = judge_of(OPENAI_TEXT)
    raw = OPENAI_TEXT.events[0].raw + _swollen(OPENAI_TEXT.events[1].raw, "image")
    raw += b"".join(event.raw for event in OPENAI_TEXT.events[2:])
    for at in range(0, len(raw), piece_bytes):
        judge.feed(raw[at : at + piece_bytes])
    assert (judge.said, judge.events) == (Said.FINISHED, OPENAI_TEXT.data_events)
    assert judge.usage == Usage(19, 10)


def test_choices_without_number() -> None:
    """Who sends ever new choices gets no memory for each; the end is the end all the same."""
    judge = judge_of(OPENAI_TEXT)
    for index in range(5000):
        judge.feed(sse(openai_chunk({"content": "x"}, index=index)).raw)
    assert (judge.said, judge.events) == (Said.UNFINISHED, 5000)
    for index in range(5000):
        judge.feed(sse(openai_chunk({}, "stop", index=index)).raw)
    assert (judge.said, judge.events) == (Said.FINISHED, 5000)


def test_a_large_failure_is_a_failure() -> None:
    """`response.failed` repeats the request, which may be large."""
    judge = judge_of(RESPONSES_TEXT)
    failed = b'event: response.failed\ndata: {"type":"response.failed","response":{}}\n\n'
    judge.feed(_swollen(failed, "instructions"))
    assert (judge.said, judge.error_message) == (Said.FAILED, "response.failed")


def test_a_stream_cut_within_a_large_event_is_cut() -> None:
    """However much of it came."""
    judge = judge_of(RESPONSES_TEXT)
    judge.feed(_swollen(RESPONSES_TEXT.events[-1].raw, "instructions")[:-1])
    assert not judge.at_boundary
    judge.end()
    assert judge.said is Said.UNFINISHED
