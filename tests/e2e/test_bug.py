"""What becomes of a request that hits a bug of ours? It ends alone, and is no word on the backend.

The bugs are made here: a function of the data path that fails.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from sidecar.app import running
from sidecar.settings.load import load
from tests.e2e.harness import (
    Guarded,
    Hand,
    asked,
    assert_nothing_left,
    chat,
    eventually,
    on_both_loops,
    start_stream,
)
from tests.support.origin import JSON_OK, LAST_CHUNK, Origin, chunk, json_ok
from tests.support.raw import ClosedByPeerError
from tests.support.wire import request

# Where a request comes by, on its way there and back.
PLACES = [
    "sidecar.proxy.handler.Handler._begin",
    "sidecar.proxy.handler.Handler._carry",
    "sidecar.proxy.handler.Handler._new_exchange",
    "sidecar.proxy.exchange.client_head",
    "sidecar.proxy.exchange.Exchange.on_data",
    "sidecar.proxy.watch.Watch.saw",
    "sidecar.proxy.context.Context.fact",
]


@contextlib.asynccontextmanager
async def with_bugs(upstream: str) -> AsyncIterator[tuple[Guarded, list[object]]]:
    """A sidecar whose bugs are kept in the list; one failure would open its breaker."""
    flags = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "log.requests": "false"}
    flags |= {"upstream": upstream, "breaker.failure_threshold": "1"}
    told: list[object] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: told.append(context))
    try:
        async with running(load(flags, {}).settings.plain()) as (sidecar, bound):
            sidecar.proxy.handler.on_bug = lambda: told.append("by the handler")
            yield Guarded(sidecar, bound), told
        assert_nothing_left(sidecar)
    finally:
        loop.set_exception_handler(before)


def fails(*_: object, **__: object) -> None:
    raise RuntimeError("a bug made for a test")


@pytest.mark.parametrize("place", PLACES)
@on_both_loops
async def test_a_bug_ends_one_request_only(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slot is free again, it is told of, the backend is not blamed, and others go on."""
    hand = Hand()
    async with (
        Origin(hand) as origin,
        with_bugs(origin.url) as (side, told),
        side.client() as neighbour,
    ):
        await neighbour.send(chat(1))
        beside = await asked(origin, 1)
        start_stream(beside)
        await neighbour.read_head()
        await neighbour.read_chunk()

        with monkeypatch.context() as bug:
            bug.setattr(place, fails)
            hit = asyncio.ensure_future(side.ask(chat(2)))
            await eventually(lambda: told or len(origin.requests) == 2)
            if not told:
                origin.requests[1].connection.send(JSON_OK)
                await eventually(lambda: told)
        await side.until(lambda guard: guard.in_flight == 1)
        with contextlib.suppress(ClosedByPeerError):
            response = await hit
            assert (response.status, response.value("x-sidecar-reason")) in (
                (500, "internal_error"),  # as long as nothing was sent
                (200, None),  # it failed after the last byte
            )

        assert len(told) == 1
        assert side.breaker_state == "closed"
        beside.send(chunk(b"on it goes"))
        assert await neighbour.read_chunk() == b"on it goes"
        hand.finish(beside, LAST_CHUNK)
        assert await neighbour.read_chunk() == b""
        origin.script = json_ok
        await neighbour.send(request("GET", "/next"))
        hand.finish(await asked(origin, len(origin.requests) + 1), JSON_OK)
        assert (await neighbour.read_response()).status == 200
