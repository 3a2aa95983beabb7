"""Does the backend ever see two requests where the client sent one, or the reverse?"""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.readings import Read, what_arrived
from tests.proxy.running import SENTINEL, DataPath, data_path, recording
from tests.proxy.smuggling_corpus import TRICKS, Trick, on_guarded_route
from tests.proxy.smuggling_families import FAMILIES
from tests.support.origin import Origin
from tests.support.wire import RawClient, RawResponse

ALL = [*TRICKS, *FAMILIES]
_SENTINEL = Read(b"GET", SENTINEL.encode())


ON_GUARDED_ROUTE = [on_guarded_route(trick) for trick in ALL if b"POST /free" in trick.raw]


async def answers_to(client: RawClient, trick: Trick) -> list[RawResponse]:
    """One answer to each request that arrives, and the refusal."""
    methods = [read.method.decode() for read in trick.arrives]
    if trick.refused is not None:
        methods.append("GET")
    return [await client.read_response(method) for method in methods]


async def send_in_pieces(client: RawClient, data: bytes, size: int) -> None:
    """Each piece in a segment of its own, as far as the kernel lets it."""
    for at in range(0, len(data), size):
        if client.peer_closed:
            return
        await client.send(data[at : at + size])
        await asyncio.sleep(0)


async def check(origin: Origin, path: DataPath, trick: Trick, *, piece_bytes: int) -> None:
    async with path.client() as client:
        await send_in_pieces(client, trick.raw, piece_bytes)
        answers = await answers_to(client, trick)
        if trick.refused is not None or trick.closes:
            assert await client.read_until_closed() == b""
            assert not client.peer_reset
        await path.settle(origin)
        assert client.stream.unread == b"", "an answer that nobody asked for"
        statuses = [200] * len(trick.arrives) + [trick.refused] * (trick.refused is not None)
        assert [answer.status for answer in answers] == statuses
    # Of a body that breaks off in the middle of a line strict readers say that it is malformed.
    unusual = trick.unusual or trick.refused is not None
    arrived = [
        read
        for connection in origin.connections
        for read in what_arrived(bytes(connection.received), unusual=unusual)
        if read != _SENTINEL
    ]
    assert arrived == list(trick.arrives)
    if trick.refused is not None:
        refusal = answers[-1]
        assert refusal.value("connection") == "close"
        assert refusal.json()["error"]["type"] in {"invalid_request_error", "server_error"}


def assert_nothing_else_began(origin: Origin, trick: Trick) -> None:
    """Not even the head of anything but what is to arrive has come."""
    began = [asked.target for asked in origin.requests if asked.target != SENTINEL]
    assert began == [read.target.decode("latin-1") for read in trick.arrives]


# In one piece, a body is known to be bad before the backend is asked; byte by byte, a free route
# has sent the head on by then, and the backend is left with a request that never ends.
@pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
@pytest.mark.parametrize("trick", ALL, ids=lambda trick: trick.name)
async def test_in_one_piece(trick: Trick) -> None:
    """What is beyond doubt arrives as what it is; of anything else nothing at all arrives."""
    async with Origin(recording) as origin, data_path(origin.url) as path:
        await check(origin, path, trick, piece_bytes=len(trick.raw))
        if trick.refused is not None:
            assert_nothing_else_began(origin, trick)


@pytest.mark.parametrize("trick", ALL, ids=lambda trick: trick.name)
async def test_byte_by_byte(trick: Trick) -> None:
    """No way to cut it into segments makes a trick work."""
    async with Origin(recording) as origin, data_path(origin.url) as path:
        await check(origin, path, trick, piece_bytes=1 + len(trick.raw) // 500)


@pytest.mark.parametrize("trick", ON_GUARDED_ROUTE, ids=lambda trick: trick.name)
async def test_byte_by_byte_on_a_guarded_route(trick: Trick) -> None:
    """Where a slot is needed nothing of a malformed request reaches the backend, ever."""
    async with Origin(recording) as origin, data_path(origin.url) as path:
        await check(origin, path, trick, piece_bytes=1 + len(trick.raw) // 500)
        if trick.refused is not None:
            assert_nothing_else_began(origin, trick)
