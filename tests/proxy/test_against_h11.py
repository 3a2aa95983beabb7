"""Does whatever we accept mean the same to h11? Heads and bodies by themselves."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.proxy.grammar import chunked_bodies, mutated, requests, responses
from tests.proxy.same_meaning import (
    assert_same_chunks,
    assert_same_request,
    assert_same_response,
    head_of,
)
from tests.proxy.smuggling_corpus import TRICKS


@settings(max_examples=600, deadline=None)
@given(mutated(requests))
def test_requests_mean_the_same_to_h11(data: bytes) -> None:
    """A request that we accept has the same method, target, fields and framing for h11."""
    assert_same_request(head_of(data))


@pytest.mark.parametrize("raw", [trick.raw for trick in TRICKS], ids=[t.name for t in TRICKS])
def test_tricks_mean_the_same_to_h11(raw: bytes) -> None:
    """Nor does any trick's head."""
    assert_same_request(head_of(raw))


@settings(max_examples=400, deadline=None)
@given(mutated(responses))
def test_responses_mean_the_same_to_h11(data: bytes) -> None:
    """So does a response that we accept."""
    assert_same_response(head_of(data))


@settings(max_examples=600, deadline=None)
@given(mutated(chunked_bodies), st.integers(1, 9))
@example(b"5;a\r\nhello\r\n0\r\nX: y\r\n\r\nrest", 3)
def test_chunked_bodies_mean_the_same_to_h11(data: bytes, segment_bytes: int) -> None:
    """A body that we accept has the same content, and ends at the same byte."""
    assert_same_chunks(data, segment_bytes)
