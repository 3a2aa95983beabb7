"""What can be fuzzed? Each target with its property and its seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz import messages, seeds, to_backend, to_client
from tests.fuzz.seeds import Seeds
from tests.fuzz.virtual_time import VirtualLoop


@dataclass(frozen=True, slots=True)
class Target:
    """One property, and where to begin."""

    question: str
    try_on: Callable[[bytes, VirtualLoop], None]
    """Raises AssertionError where the property does not hold for an input."""
    seeds: Callable[[], Seeds]
    share_ratio: float
    """Of the time that all targets have together: most for those that do most."""


TARGETS = {
    "requests": Target(
        "client's bytes to the backend, through the whole data path",
        to_backend.try_on, seeds.of_requests, 0.4,
    ),
    "answers": Target(
        "backend's bytes to the client, through the whole data path",
        to_client.try_on, seeds.of_answers, 0.3,
    ),
    "request-heads": Target(
        "request heads, read and written",
        messages.try_request_head, seeds.of_request_heads, 0.1,
    ),
    "response-heads": Target(
        "response heads, read and written",
        messages.try_response_head, seeds.of_response_heads, 0.1,
    ),
    "chunks": Target("chunked bodies", messages.try_chunks, seeds.of_chunks, 0.1),
}  # fmt: skip
