"""What does a real llama.cpp server send? `python -m tests.dialects.recordings` records it anew.

The bodies lie in `recorded/`, without the framing of chunks, as the tiny random model of
`tests/support/llama.py` made them; `test_recordings.py` compares them with the server of today.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded"
_ROOT = Path(__file__).parents[2]

_MESSAGES = [{"role": "user", "content": "hello there"}]
_CHAT = {"model": "tiny-random", "messages": _MESSAGES, "max_tokens": 6, "seed": 1}
_STREAMED = {**_CHAT, "stream": True}


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked."""

    path: str
    body: dict[str, Any]


REQUESTS = {
    "chat": Request("/v1/chat/completions", _STREAMED),
    "chat_usage": Request(
        "/v1/chat/completions", {**_STREAMED, "stream_options": {"include_usage": True}}
    ),
    "chat_two_choices": Request("/v1/chat/completions", {**_STREAMED, "n": 2}),
    "chat_logprobs": Request(
        "/v1/chat/completions", {**_STREAMED, "logprobs": True, "top_logprobs": 2}
    ),
    "chat_timings": Request("/v1/chat/completions", {**_STREAMED, "timings_per_token": True}),
    "chat_plain": Request("/v1/chat/completions", _CHAT),
    "chat_bad_request": Request("/v1/chat/completions", {**_CHAT, "messages": 5}),
    "chat_too_long": Request(
        "/v1/chat/completions",
        {**_STREAMED, "messages": [{"role": "user", "content": "hello " * 4000}]},
    ),
    "completions": Request(
        "/v1/completions",
        {"model": "tiny-random", "prompt": "hello", "max_tokens": 6, "seed": 1, "stream": True},
    ),
    "own_completion": Request(
        "/completion", {"prompt": "hello", "n_predict": 6, "seed": 1, "stream": True}
    ),
    "messages": Request("/v1/messages", _STREAMED),
    "messages_plain": Request("/v1/messages", _CHAT),
    "responses": Request(
        "/v1/responses",
        {
            "model": "tiny-random",
            "input": "hello there",
            "max_output_tokens": 6,
            "seed": 1,
            "stream": True,
        },
    ),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came: the parts of a response that a judge sees."""

    status: int
    content_type: bytes
    body: bytes


def ask(url: str, request: Request) -> Answer:
    """Send one request."""
    question = urllib.request.Request(
        url + request.path,
        json.dumps(request.body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(question, timeout=20) as response:
            return _answer(response)
    except urllib.error.HTTPError as error:
        with error:
            return _answer(error)


def _answer(response: Any) -> Answer:
    kind = response.headers["Content-Type"] or ""
    return Answer(response.status, kind.encode(), response.read())


def recorded(name: str) -> Answer:
    """One of `REQUESTS` as it was answered when it was recorded."""
    head, _, body = (RECORDED / f"{name}.http").read_bytes().partition(b"\n")
    status, _, content_type = head.partition(b" ")
    return Answer(int(status), content_type, body)


def main() -> None:
    """Start a server, ask everything, write it down, stop the server."""
    command = [sys.executable, "-m", "tests.support.llama", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            for name, request in REQUESTS.items():
                answer = ask(url, request)
                head = b"%d %b\n" % (answer.status, answer.content_type)
                (RECORDED / f"{name}.http").write_bytes(head + answer.body)
                print(f"{name}: {answer.status}, {len(answer.body)} bytes")
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
