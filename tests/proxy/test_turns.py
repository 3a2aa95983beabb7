"""Does each connection get its turn, and none more than one?"""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from sidecar.admission.config import BreakerConfig, BreakerMode, GuardConfig
from tests.proxy.running import GUARDED, data_path
from tests.support.origin import Origin, OriginConnection, json_ok
from tests.support.wire import request

# What the event loops read from a socket in one piece.
PIECE_BYTES = 256 * 1024

on_both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


async def swallow(connection: OriginConnection) -> None:
    """Take all and answer nothing."""
    await connection.wait_closed_by_peer()


@on_both_loops
async def test_an_upload_is_read_one_piece_a_turn() -> None:
    """Megabytes that are here already do not keep the other connections waiting."""
    loop = asyncio.get_running_loop()
    async with Origin(swallow) as origin, data_path(origin.url) as path:
        sock = socket.create_connection(("127.0.0.1", path.port))
        sock.setblocking(False)
        with contextlib.closing(sock):
            await loop.sock_sendall(
                sock, b"POST /free HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n"
            )
            await origin.wait_for(lambda o: o.connections and o.connections[0].received)
            (context,) = path.server.handler.active
            most = 0
            for _ in range(300):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock.send(bytes(65536))
                before = context.body.size
                await asyncio.sleep(0)
                most = max(most, context.body.size - before)
            assert context.body.size > 10 * PIECE_BYTES, "it did flow"
            assert most <= PIECE_BYTES


@on_both_loops
async def test_requests_sent_ahead_are_refused_one_a_turn() -> None:
    """Thousands of refusals to one client leave room for others between each two of them."""
    refusing = GuardConfig(breaker=BreakerConfig(mode=BreakerMode.FORCED_OPEN))
    count = 500
    async with (
        Origin(json_ok) as origin,
        data_path(origin.url, guard=refusing) as path,
        path.client() as client,
    ):
        await client.send(request("POST", GUARDED.decode(), b"{}") * count)
        most = 0
        while len(path.facts) < count:
            before = len(path.facts)
            await asyncio.sleep(0)
            most = max(most, len(path.facts) - before)
        assert most == 1
        for _ in range(count):
            assert (await client.read_response("POST")).status == 503
