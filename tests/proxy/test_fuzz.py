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

from sidecar.proxy.wire.heads import ABSOLUTE_FORM
from tests.proxy.grammar import mutated, requests
from tests.proxy.readings import Read, UnreadableError, read_with_h11, what_arrived
from tests.proxy.running import SENTINEL, DataPath, data_path, recording
from tests.support.origin import Origin
from tests.support.wire import RawClient

_streams = st.lists(requests, min_size=1, max_size=3).map(b"".join)
_ANSWER = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) ")


def in_origin_form(read: Read) -> Read:
    """As the sidecar sends it on."""
    match = ABSOLUTE_FORM.fullmatch(read.target)
    if match is None:
        return read
    path = match[2]
    if read.method == b"OPTIONS" and not path:
        path = b"*"
    elif not path.startswith(b"/"):
        path = b"/" + path
    return read._replace(target=path)


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
        check(b"".join(segments), arrived, client)


def check(data: bytes, arrived: list[Read], client: RawClient) -> None:
    statuses = [int(status) for status in _ANSWER.findall(client.received)]
    assert statuses[: len(arrived)] == [200] * len(arrived)
    refusals = statuses[len(arrived) :]
    assert len(refusals) <= 1
    if refusals:
        assert refusals[0] in {400, 417, 431, 501, 505}
        assert client.peer_closed
    try:
        sent, understood = read_with_h11(data), True
    except UnreadableError as error:
        sent, understood = error.before, False
    sent = [in_origin_form(read) for read in sent]
    if understood:
        assert arrived == sent[: len(arrived)]
        # What was not refused and is whole has arrived.
        assert refusals or len(arrived) == len(sent)
    elif data.isascii():  # other targets h11 does not take
        assert arrived == sent[: len(arrived)]


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
