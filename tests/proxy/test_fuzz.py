"""Does what arrives at the backend equal what the client sent, whatever went wrong on the way?

A client sends a few requests, spoilt here and there, in arbitrary segments. What arrives must be
the first of those requests as h11 reads them; the client gets an answer to each, then perhaps one
refusal, and after a refusal the connection is closed.
"""

from __future__ import annotations

import asyncio
import re

import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.proxy.grammar import mutated, requests
from tests.proxy.judging import judge_requests
from tests.proxy.readings import what_arrived
from tests.proxy.running import SENTINEL, DataPath, data_path, recording
from tests.support.origin import Origin
from tests.support.wire import RawClient

_streams = st.lists(requests, min_size=1, max_size=3).map(b"".join)
_ANSWER = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) ")


async def until_quiet(origin: Origin, path: DataPath, client: RawClient) -> None:
    """Wait until nothing happens any more: two later requests have passed, and nothing else."""
    before = -1
    # A later request may find a kept connection and overtake one that is still connecting.
    while (now := _bytes_moved(origin, client)) > before or path.server.handler._connecting:
        before = now
        for _ in range(2):
            await path.settle(origin)


def _bytes_moved(origin: Origin, client: RawClient) -> int:
    """Bytes that came to the client and to the origin, save for the later requests."""
    arrived = sum(len(connection.received) for connection in origin.connections)
    sentinels = sum(len(asked.head) for asked in origin.requests if asked.target == SENTINEL)
    return len(client.received) + arrived - sentinels


async def try_on(segments: list[bytes]) -> None:
    async with (
        Origin(recording) as origin,
        data_path(origin.url) as path,
        path.client() as client,
    ):
        for segment in segments:
            if not client.peer_closed:
                await client.send(segment)
                await asyncio.sleep(0)
        await until_quiet(origin, path, client)
        arrived = [
            read
            for connection in origin.connections
            for read in what_arrived(bytes(connection.received), unusual=True)
            if read.target != SENTINEL.encode()
        ]
        statuses = [int(status) for status in _ANSWER.findall(client.received)]
        judge_requests(b"".join(segments), arrived, statuses, closed=client.peer_closed)


def splits(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """The bytes, cut at a few places."""
    places = st.lists(st.integers(0, len(data)), max_size=6, unique=True).map(sorted)
    return places.map(
        lambda at: [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True) if a < b]
    )


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated(_streams, most=4).filter(bool).flatmap(splits))
def test_what_arrives_is_what_was_sent(segments: list[bytes]) -> None:
    """No spoilt byte, and no split, makes the backend see other requests than the client sent."""
    uvloop.run(try_on(segments))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_streams.flatmap(splits))
def test_what_is_well_formed_arrives(segments: list[bytes]) -> None:
    """However it is split, a good request is neither refused nor changed."""
    uvloop.run(try_on(segments))
