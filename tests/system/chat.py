"""Does a chat completion get through? Plain and streamed, as a client sees it."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

_TOKENS = 8


def plain(base_url: str) -> str:
    """Ask for a plain completion; returns its text. Raises `urllib.error.URLError`."""
    with urllib.request.urlopen(_request(base_url, stream=False), timeout=20) as response:
        answer = json.load(response)
    return str(answer["choices"][0]["message"]["content"])


def streamed(base_url: str) -> list[str]:
    """Ask for a streamed completion; returns the data of its events, the end marker included."""
    with urllib.request.urlopen(_request(base_url, stream=True), timeout=20) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.read().decode().splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def _request(base_url: str, *, stream: bool) -> urllib.request.Request:
    body: dict[str, Any] = {
        "model": "tiny-random",
        "stream": stream,
        "max_tokens": _TOKENS,
        "messages": [{"role": "user", "content": "hello there"}],
    }
    return urllib.request.Request(
        f"{base_url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
