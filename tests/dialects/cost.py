"""What does judging cost per streamed chunk? `python -m tests.dialects.cost` measures.

One event per `feed`, as servers send them. CPU time of this process; the least of many short runs,
because whatever else the machine does only ever adds. The cost of an empty loop is taken off.
"""

from __future__ import annotations

import json
import time
import timeit
from collections.abc import Callable
from typing import Any

import orjson

from sidecar.dialects.choosing import judge_for
from tests.dialects.corpus import NDJSON, SSE, Event, line, openai_chunk, sse, typed

CHUNKS = 1000
RUNS = 100
# Words as tokens are: some with what JSON escapes.
WORDS = [" hello", "\n", " world", ' say "hi"', ",", " \u00fcber"]


def _chat(word: str, number: int) -> Event:
    return sse(openai_chunk({"content": word}, obfuscation="x7Jf0yKQ3b"[: 1 + number % 9]))


def _llama(word: str, number: int) -> Event:  # noqa: ARG001 - alike but for the word
    choice = {"finish_reason": None, "index": 0, "delta": {"content": word}}
    return sse(
        {
            "choices": [choice],
            "created": 1795580254,
            "id": "chatcmpl-nMm2G2hVSSTwC2JIMKNC4dfTlmz56GHV",
            "model": "tiny-random",
            "system_fingerprint": "b0-unknown",
            "object": "chat.completion.chunk",
        }
    )


def _responses(word: str, number: int) -> Event:
    body: dict[str, Any] = {"type": "response.output_text.delta", "sequence_number": number}
    place = {"item_id": "msg_67c9fdcf37fc8190ba82116e33fb28c5", "output_index": 0}
    return typed({**body, **place, "content_index": 0, "delta": word, "logprobs": []})


def _anthropic(word: str, number: int) -> Event:
    delta = {"type": "text_delta", "text": word}
    text = json.dumps({"type": "content_block_delta", "index": 0, "delta": delta})
    return sse(text[:-1] + " " * (number % 9) + "}", "content_block_delta")


def _ollama(word: str, number: int) -> Event:
    return line(
        {
            "model": "llama3.2:3b-instruct-q8_0",
            "created_at": f"2025-10-26T17:15:24.{number:06d}Z",
            "message": {"role": "assistant", "content": word},
            "done": False,
        }
    )


def _counting(word: str, number: int) -> Event:
    counts = {"prompt_tokens": 12, "completion_tokens": number, "total_tokens": 12 + number}
    return sse(openai_chunk({"content": word}, usage=counts))


STREAMS: dict[str, tuple[bytes, Callable[[str, int], Event]]] = {
    "OpenAI chat": (SSE, _chat),
    "llama.cpp, vLLM chat": (SSE, _llama),
    "OpenAI Responses": (SSE, _responses),
    "Anthropic": (SSE, _anthropic),
    "Ollama": (NDJSON, _ollama),
    "chat, counts in every chunk": (SSE, _counting),
}


def _least_ns(run: Callable[[], object]) -> float:
    return min(timeit.repeat(run, timer=time.process_time, number=1, repeat=RUNS)) / CHUNKS * 1e9


def main() -> None:
    """Measure all and print a table."""
    for name, (media_type, make) in STREAMS.items():
        chunks = [make(WORDS[n % len(WORDS)], n).raw for n in range(CHUNKS)]

        def judge(chunks: list[bytes] = chunks, media_type: bytes = media_type) -> int:
            judge = judge_for(200, media_type, b"", b"")
            feed = judge.feed
            for chunk in chunks:
                feed(chunk)
            return judge.events

        def loop(chunks: list[bytes] = chunks) -> None:
            for chunk in chunks:
                len(chunk)

        assert judge() == CHUNKS
        size = sum(map(len, chunks)) // CHUNKS
        print(f"{name:28} {size:4} bytes {_least_ns(judge) - _least_ns(loop):6.0f} ns per chunk")
    parsed = chunks[0].removeprefix(b"data: ")
    times = _least_ns(lambda: [orjson.loads(parsed) for _ in range(CHUNKS)])
    print(f"{'(orjson.loads of the last)':28} {len(parsed):4} bytes {times:6.0f} ns")


if __name__ == "__main__":
    main()
