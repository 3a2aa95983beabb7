"""Is it so far? Waiting for other programs, which announce nothing that could be awaited."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable

_STEP_S = 0.05


def until(condition: Callable[[], bool], within_s: float, what: str) -> float:
    """Ask until it is true; returns the seconds that took. Raises `AssertionError` with `what`."""
    start_s = time.monotonic()
    while not condition():
        assert time.monotonic() - start_s < within_s, f"not within {within_s} s: {what}"
        time.sleep(_STEP_S)
    return time.monotonic() - start_s


def answers(url: str) -> bool:
    """Whether the URL answers 200 now."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def text_of(url: str) -> str:
    """The body of a GET. Raises `urllib.error.URLError`."""
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
