"""Do WebSockets and other upgrades pass, as tunnels with a limit of their own?"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.e2e.harness import CHAT, Hand, asked, assert_refusal, chat, guarded, on_both_loops
from tests.support.origin import JSON_OK, Origin, OriginConnection, json_ok, respond
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
