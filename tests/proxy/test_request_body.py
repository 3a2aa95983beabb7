"""Does a body on its way take the memory that it is said to take?"""

from __future__ import annotations

import tracemalloc

import pytest

from sidecar.proxy.refusals import Refusal
from sidecar.proxy.request_body import RequestBody
from sidecar.proxy.wire.bodies import LengthBody

MIB = 1024 * 1024


class Connection:
    """One that can be told to stop reading."""

    def __init__(self) -> None:
        self.paused = 0

    def pause_reading(self) -> None:
        self.paused += 1

    def resume_reading(self) -> None:
        self.paused -= 1


def nothing_against(_: int) -> Refusal | None:
    return None


@pytest.mark.parametrize("piece_bytes", [2, 100, 65536])
def test_a_body_in_tiny_segments_takes_no_more_memory_than_its_bytes(piece_bytes: int) -> None:
    """What counts against `queue.max_bytes` is what is held, however it came."""
    body = RequestBody(Connection(), LengthBody(10 * MIB))
    body.gather(10 * MIB, nothing_against, lambda: None)
    segments = [bytes([n % 251]) * piece_bytes for n in range(MIB // 2 // piece_bytes)]
    tracemalloc.start()
    for segment in segments:
        body.feed(bytes(memoryview(segment)))  # a new object, as from a socket
    held_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert body.held == len(segments) * piece_bytes
    assert held_bytes < 1.3 * body.held
    assert body.take_kept() == b"".join(segments)
    assert body.held == 0
