"""Do WebSockets and other upgrades pass, as tunnels with a limit of their own?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sidecar.proxy import upstream
from tests.e2e.harness import (
    CHAT,
    Hand,
    asked,
    assert_refusal,
    chat,
    eventually,
    guarded,
    on_both_loops,
)
from tests.support.origin import JSON_OK, Origin, OriginConnection, json_ok, respond
from tests.support.raw import LINGER_RESET, RawStream
from tests.support.wire import RawClient, request

WEBSOCKET = [
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]
OPEN = request("GET", "/ws", fields=WEBSOCKET)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


async def echo(connection: OriginConnection) -> None:
    """Switch protocols when asked to, then send back whatever comes."""
    while (await connection.read_request()).value("upgrade") is None:
        connection.send(JSON_OK)
    connection.send(SWITCHED + b"hello")  # the first bytes may come with the head
    while True:
        connection.send(await connection.read_exactly(1))


async def open_tunnel(client: RawClient) -> None:
    await client.send(OPEN)
    assert await client.read_head() == SWITCHED
    assert await client.read_exactly(5) == b"hello"


@on_both_loops
async def test_a_tunnel_carries_bytes_both_ways() -> None:
    """Any bytes, in any direction, untouched and at once."""
    every_byte = bytes(range(256))
    async with Origin(echo) as origin, guarded(origin.url) as side, side.client() as client:
        await open_tunnel(client)
        for _ in range(3):
            await client.send(every_byte)
            assert await client.read_exactly(256) == every_byte
        got = origin.requests[0]
        assert got.value("connection") == "Upgrade"
        assert got.value("upgrade") == "websocket"
        assert got.value("sec-websocket-key") == WEBSOCKET[3][1]
        assert (side.guard("upgrade").in_flight, side.guard().in_flight) == (1, 0)


@on_both_loops
async def test_bytes_sent_ahead_of_the_101_reach_the_backend() -> None:
    """A client in a hurry loses nothing."""
    async with Origin(echo) as origin, guarded(origin.url) as side, side.client() as client:
        await client.send(OPEN + b"early")
        await client.read_head()
        assert await client.read_exactly(10) == b"helloearly"


@on_both_loops
async def test_megabytes_cross_a_tunnel_at_the_pace_of_the_reader() -> None:
    """Back-pressure works in tunnels too, in both directions at once."""
    size = 24 * 1024 * 1024

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(SWITCHED + b"hello")
        connection.send(bytes(size))
        await connection.read_exactly(size)
        connection.send(b"got it")
        await connection.wait_closed_by_peer()

    async with Origin(script) as origin, guarded(origin.url) as side, side.client() as client:
        await open_tunnel(client)
        client.pause_reading()
        sending = asyncio.ensure_future(client.send(bytes(size)))
        await sending
        client.resume_reading()
        assert len(await client.read_exactly(size)) == size
        assert await client.read_exactly(6) == b"got it"


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.abort])
@on_both_loops
async def test_the_backend_sees_a_client_leave_its_tunnel(leave: object) -> None:
    """And its place is free again."""
    assert callable(leave)
    async with Origin(echo) as origin, guarded(origin.url) as side, side.client() as client:
        await open_tunnel(client)
        leave(client)
        await origin.connections[0].wait_closed_by_peer()
        origin.connections[0].close()
        await side.until(lambda guard: guard.in_flight == 0, "upgrade")
        assert (await side.metrics()).value("requests_total", route="upgrade", outcome="ok") == 1


@pytest.mark.parametrize("reset", [False, True])
@on_both_loops
async def test_a_client_sees_the_backend_leave_the_tunnel(reset: bool) -> None:
    """However it ends: the client's side ends too, and the place is free again."""
    async with Origin(echo) as origin, guarded(origin.url) as side, side.client() as client:
        await open_tunnel(client)
        if reset:
            origin.connections[0].reset()
        else:
            origin.connections[0].close()
        await client.wait_closed_by_peer()
        client.close()
        await side.until(lambda guard: guard.in_flight == 0, "upgrade")


@on_both_loops
async def test_one_direction_of_a_tunnel_may_end_before_the_other() -> None:
    """A client that has said its last word still gets the backend's."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(SWITCHED + b"hello")
        await connection.wait_closed_by_peer()
        connection.send(b"the last word")

    async with Origin(script) as origin, guarded(origin.url) as side, side.client() as client:
        await open_tunnel(client)
        client.half_close()
        assert await client.read_until_closed() == b"the last word"
        assert not client.peer_reset
        await side.until(lambda guard: guard.in_flight == 0, "upgrade")


@on_both_loops
async def test_the_backend_may_say_its_last_word_first() -> None:
    """A client goes on talking after the backend's end; with its own the tunnel is over."""
    heard = asyncio.Event()

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(SWITCHED + b"hello")
        connection.half_close()
        await connection.read_until(b"the last word")
        heard.set()
        await connection.wait_closed_by_peer()

    async with Origin(script) as origin, guarded(origin.url) as side, side.client() as client:
        await open_tunnel(client)
        await client.wait_closed_by_peer()
        assert not client.peer_reset
        await client.send(b"the last ")
        await client.send(b"word")
        await heard.wait()
        assert side.guard("upgrade").in_flight == 1
        client.half_close()
        await side.until(lambda guard: guard.in_flight == 0, "upgrade")


@on_both_loops
async def test_both_sides_may_leave_a_tunnel_in_the_same_moment() -> None:
    """The backend ends just when the client resets: the place is free, and it is no bug."""
    loop = asyncio.get_running_loop()
    async with Origin(echo) as origin, guarded(origin.url) as side:
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, (side.listen.host, side.listen.port))
            await loop.sock_sendall(client, OPEN)
            assert (await loop.sock_recv(client, 1000)).startswith(SWITCHED)
            # Both before the sidecar's loop has its turn.
            backend = origin.connections[0].transport.get_extra_info("socket")
            with socket.socket(fileno=os.dup(backend.fileno())) as twin:
                twin.shutdown(socket.SHUT_WR)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        await side.until(lambda guard: guard.in_flight == 0, "upgrade")
        origin.connections[0].close()


@pytest.mark.parametrize("stuck", ["client", "backend"])
@on_both_loops
async def test_a_tunnel_that_ends_is_not_kept_by_the_side_that_takes_nothing(
    stuck: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written before a drain ended it still goes out, but is not waited for for ever."""
    monkeypatch.setattr(upstream, "_LINGER_S", 0.2)
    settings = {"timers.write_stall_s": 0.2, "drain_upgrades_s": 0}
    async with (
        Origin(Hand()) as origin,
        guarded(origin.url, settings) as side,
        side.client() as client,
    ):
        await client.send(OPEN)
        backend = await asked(origin, 1)
        backend.send(SWITCHED)
        await client.read_head()
        proxy = side.sidecar.proxy
        (at_client,), (at_backend,) = proxy.handler.connections, proxy.upstream.busy
        reader: RawStream = client.stream if stuck == "client" else backend
        writer: RawStream = backend if stuck == "client" else client.stream
        towards = at_client.transport if stuck == "client" else at_backend.transport
        reader.pause_reading()
        while not towards.get_write_buffer_size():
            writer.write(bytes(64 * 1024))
            await asyncio.sleep(0)
        assert await side.sidecar.drain()
        await eventually(lambda: not proxy.handler.connections and not proxy.upstream.busy)


async def test_tunnels_are_closed_a_while_after_a_drain_began() -> None:
    """They get `drain_upgrades_s` to say goodbye; then both sides are closed, and cleanly."""
    loop = asyncio.get_running_loop()
    settings = {"drain_upgrades_s": 0.3, "drain_s": 20}
    async with (
        Origin(echo) as origin,
        guarded(origin.url, settings) as side,
        side.client() as client,
    ):
        await open_tunnel(client)
        began_s = loop.time()
        draining = asyncio.ensure_future(side.sidecar.drain())
        await eventually(lambda: side.sidecar.proxy.handler.draining)
        await client.send(b"goodbye")
        assert await client.read_exactly(7) == b"goodbye"
        refusal = await side.ask(OPEN, "GET")
        assert_refusal(refusal, "draining", 503, retry=True)
        closed_s = await client.wait_closed_by_peer()
        assert not client.peer_reset
        assert 0.25 < closed_s - began_s < 5
        await origin.connections[0].wait_closed_by_peer()
        assert not origin.connections[0].peer_reset
        assert await draining, "all was finished in time"


async def test_an_idle_tunnel_is_closed_where_that_is_set() -> None:
    """`timers.tunnel_idle_s` without a byte either way, and not before: traffic counts."""
    loop = asyncio.get_running_loop()
    async with (
        Origin(echo) as origin,
        guarded(origin.url, {"timers.tunnel_idle_s": 0.2}) as side,
        side.client() as client,
    ):
        await open_tunnel(client)
        opened_s = loop.time()
        while loop.time() < opened_s + 0.4:
            await client.send(b"x")
            assert await client.read_exactly(1) == b"x"
            await asyncio.sleep(0.01)
        spoke_s = loop.time()
        closed_s = await client.wait_closed_by_peer()
        assert 0.15 < closed_s - spoke_s < 5
        assert not client.peer_reset
        assert (await side.metrics()).value("requests_total", route="upgrade", outcome="ok") == 1


async def test_what_tunnels_carry_is_counted() -> None:
    """Slots, bytes and time of upgraded connections stand in metrics of their own."""
    async with Origin(echo) as origin, guarded(origin.url) as side, side.client() as client:
        await open_tunnel(client)
        await client.send(b"x" * 1000)
        await client.read_exactly(1000)
        metrics = await side.metrics()
        assert metrics.value("in_flight", route="upgrade") == 1
        assert metrics.value("concurrency_limit", route="upgrade") == 64
        assert metrics.value("connections", side="upstream_busy") == 1
        client.close()
        await side.until(lambda guard: guard.in_flight == 0, "upgrade")
        metrics = await side.metrics()
        assert metrics.value("bytes_total", direction="in") == 1000
        assert metrics.value("bytes_total", direction="out") == len(SWITCHED) + 5 + 1000
        assert metrics.value("request_duration_seconds_count", route="upgrade") == 1


@pytest.mark.parametrize("size", [0, 125, 126, 65_536, 8 * 1024 * 1024])
async def test_websocket_messages_of_all_sizes_cross_compressed(size: int) -> None:
    """A real client and a real server agree on permessage-deflate, and do not notice anybody."""

    async def serve(request: web.Request) -> web.WebSocketResponse:
        server_side = web.WebSocketResponse(max_msg_size=0, protocols=["chat"])
        await server_side.prepare(request)
        assert server_side.compress
        async for message in server_side:
            await server_side.send_bytes(message.data)
        return server_side

    app = web.Application()
    app.router.add_get("/ws", serve)
    body = random.Random(size).randbytes(size)
    async with (
        TestServer(app) as server,
        guarded(str(server.make_url("")).rstrip("/")) as side,
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"{side.url}/ws", compress=15, max_msg_size=0, protocols=["chat"]
        ) as client,
    ):
        assert (client.compress, client.protocol) == (15, "chat")
        for _ in range(3):
            await client.send_bytes(body)
            assert await client.receive_bytes() == body
        await client.ping()
        await client.close()
        assert client.close_code == 1000  # the server's answer


async def test_tunnels_have_a_limit_of_their_own() -> None:
    """`max_upgrades` at once; one more is refused at once, not queued; inferences go on."""
    async with (
        Origin(echo) as origin,
        guarded(origin.url, {"max_upgrades": 2, "max_concurrent": 1}) as side,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(side.client()) for _ in range(2)]
        for client in clients:
            await open_tunnel(client)
        refusal = await side.ask(OPEN, "GET")
        assert_refusal(refusal, "queue_full", 503, retry=True)
        assert len(origin.requests) == 2
        assert (await side.ask(chat())).status == 200
        clients[0].abort()
        await side.until(lambda guard: guard.in_flight == 1, "upgrade")
        async with side.client() as another:
            await open_tunnel(another)


async def test_a_tunnel_may_be_silent() -> None:
    """Neither `timers.first_event_s` nor `timers.stall_s` ends an upgraded connection."""
    settings = {"timers.first_event_s": 0.1, "timers.stall_s": 0.1, "timers.keepalive_s": 0.1}
    async with (
        Origin(echo) as origin,
        guarded(origin.url, settings) as side,
        side.client() as client,
    ):
        await open_tunnel(client)
        await asyncio.sleep(0.3)
        await client.send(b"still here")
        assert await client.read_exactly(10) == b"still here"


async def test_a_backend_may_refuse_to_upgrade() -> None:
    """Its answer is passed on, and the connection serves the next request."""
    async with Origin(json_ok) as origin, guarded(origin.url) as side, side.client() as client:
        for data in (OPEN, request("GET", "/health"), OPEN):
            await client.send(data)
            assert (await client.read_response()).json() == {"ok": True}


async def test_a_guarded_route_is_no_way_into_a_tunnel() -> None:
    """An inference that asks for an upgrade takes its slot, and the upgrade is not passed on."""
    hand = Hand()
    async with Origin(hand) as origin, guarded(origin.url) as side, side.client() as client:
        await client.send(request("POST", CHAT, b"{}", WEBSOCKET))
        backend = await asked(origin, 1)
        assert (side.guard().in_flight, side.guard("upgrade").in_flight) == (1, 0)
        assert origin.requests[0].value("upgrade") is None
        assert origin.requests[0].value("connection") is None
        backend.send(SWITCHED)
        refusal = await client.read_response("POST")
        assert_refusal(refusal, "upstream_bad_response", 502, retry=False)


@pytest.mark.parametrize("protocol", ["h2c", "HTTP/2.0", "TLS/1.0, HTTP/1.1"])
async def test_an_upgrade_to_another_http_is_not_passed_on(protocol: str) -> None:
    """Such a tunnel would carry inferences past every limit; the request goes on as HTTP/1.1."""
    fields = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", protocol)]
    fields.append(("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA"))
    async with Origin(respond(JSON_OK)) as origin, guarded(origin.url) as side:
        assert (await side.ask(request("GET", "/", fields=fields), "GET")).status == 200
        for name in ("upgrade", "http2-settings", "connection"):
            assert origin.requests[0].value(name) is None


async def test_a_protocol_switched_unasked_is_a_bad_answer() -> None:
    """A 101 to a plain request is not passed on."""
    async with Origin(respond(SWITCHED)) as origin, guarded(origin.url) as side:
        answer = await side.ask(request("GET", "/ws"), "GET")
        assert_refusal(answer, "upstream_bad_response", 502, retry=False)
