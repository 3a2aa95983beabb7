"""Can the tools of the other tests be trusted? Raw origin and raw client against each other."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest
import uvloop

from tests.support.origin import (
    JSON_OK,
    SSE_HEAD,
    Gate,
    Origin,
    OriginConnection,
    json_ok,
    respond,
    sse,
)
from tests.support.raw import ClosedByPeerError
from tests.support.wire import RawClient, request

POST = request("POST", "/v1/chat/completions", b'{"n":1}', [("X-Twice", "a"), ("x-twice", "b")])


async def test_bytes_are_kept_as_they_came() -> None:
    """Case, order, repeats and bodies of requests and responses are seen as sent."""
    async with Origin(json_ok) as origin, RawClient(origin.host, origin.port) as client:
        for _ in range(2):
            await client.send(POST)
            response = await client.read_response("POST")
            assert (response.status, response.reason) == (200, "OK")
            assert response.complete
            assert response.json() == {"ok": True}
        assert client.received == JSON_OK * 2
        seen = origin.requests[1]
        assert (seen.method, seen.target) == ("POST", "/v1/chat/completions")
        assert seen.json() == {"n": 1}
        assert seen.fields[-2:] == [("X-Twice", "a"), ("x-twice", "b")]
        assert origin.connections[0].received == POST * 2
        assert origin.accepted_count == 1


async def test_chunked_bodies_with_trailers_are_read_both_ways() -> None:
    """Chunks, raw framing and trailers are told apart."""
    raw = b"3;x=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + raw
    async with Origin(respond(answer)) as origin, RawClient(origin.host, origin.port) as client:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n" + raw
        )
        response = await client.read_response("POST")
        assert response.chunks == [b"abc", b"de"]
        assert response.trailers == b"X-Sum: 1\r\n"
        seen = origin.requests[0]
        assert (seen.body, seen.raw_body, seen.trailers) == (b"abcde", raw, b"X-Sum: 1\r\n")


async def test_interim_responses_are_kept_apart() -> None:
    """1xx heads come before the final response and are listed."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with (
        Origin(respond(interim + JSON_OK)) as origin,
        RawClient(origin.host, origin.port) as client,
    ):
        await client.send(request("GET", "/"))
        response = await client.read_response()
        assert response.interim == [interim]
        assert response.status == 200


async def test_event_streams_come_chunk_by_chunk() -> None:
    """Each event is a chunk of its own, and the connection stays usable."""
    events = [b"data: 1\n\n", b"data: [DONE]\n\n"]
    async with Origin(sse(events)) as origin, RawClient(origin.host, origin.port) as client:
        await client.send(POST + POST)
        assert await client.read_head() == SSE_HEAD
        assert [await client.read_chunk() for _ in range(3)] == [*events, b""]
        assert (await client.read_response("POST")).chunks == events


def holds(count: int, origin: Origin) -> bool:
    return origin.in_flight == count


async def test_the_gate_answers_only_when_told() -> None:
    """Held requests are in flight until released, in their order; a client that left is skipped."""
    async with Origin(Gate()) as origin:
        clients = [RawClient(origin.host, origin.port) for _ in range(3)]
        for count, client in enumerate(clients, 1):
            await client.__aenter__()
            await client.send(POST)
            await origin.wait_for(partial(holds, count))
        clients[0].abort()
        await origin.wait_for(lambda o: o.in_flight == 2)
        assert origin.connections[0].peer_reset
        origin.release()
        assert (await clients[1].read_response("POST")).complete
        assert not clients[2].received
        origin.release()
        assert (await clients[2].read_response("POST")).complete
        assert (origin.in_flight, origin.peak_in_flight) == (0, 3)
        for client in clients:
            await client.__aexit__(None, None, None)


async def cut_by_reset(connection: OriginConnection) -> None:
    await connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    await connection.read_until(b"go")
    connection.reset()


async def cut_by_close(connection: OriginConnection) -> None:
    await connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")


async def see_both_cuts() -> None:
    async with Origin(cut_by_reset) as origin, RawClient(origin.host, origin.port) as client:
        await client.send(POST)
        await client.read_head()
        await client.send(b"go")
        await client.wait_closed_by_peer()
        assert client.peer_reset
    async with Origin(cut_by_close) as origin, RawClient(origin.host, origin.port) as client:
        await client.send(POST)
        response = await client.read_response("POST")
        assert (response.complete, response.body) == (False, b"abc")
        assert not client.peer_reset
    async with Origin(Gate()) as origin, RawClient(origin.host, origin.port) as client:
        await client.send(POST)
        await origin.wait_for(lambda o: o.in_flight)
        client.abort()
        await origin.connections[0].wait_closed_by_peer()
        assert origin.connections[0].peer_reset


async def test_reset_and_close_are_told_apart() -> None:
    """A cut body is not complete, and the way it was cut is seen from both ends."""
    await see_both_cuts()


def test_reset_and_close_are_told_apart_on_uvloop() -> None:
    """The same on uvloop, whose sockets differ."""
    uvloop.run(see_both_cuts())


async def test_half_close_lets_the_answer_come() -> None:
    """After FIN from the client the origin may still answer."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        await connection.wait_closed_by_peer()
        connection.send(JSON_OK)

    async with Origin(script) as origin, RawClient(origin.host, origin.port) as client:
        await client.send(POST)
        client.half_close()
        assert (await client.read_response("POST")).complete


async def test_unix_sockets_work_alike(tmp_path: Path) -> None:
    """An origin may listen on a path."""
    path = tmp_path / "o.sock"
    async with Origin(json_ok, unix_path=path) as origin, RawClient(unix_path=path) as client:
        assert origin.url == f"unix:{path}"
        await client.send(POST)
        assert (await client.read_response("POST")).complete


async def test_back_pressure_reaches_the_writer() -> None:
    """Who pauses reading makes the other end's drain wait, and its resuming ends the wait."""
    size = 16 * 1024 * 1024

    async def script(connection: OriginConnection) -> None:
        connection.send(bytes(size))
        await connection.drain()
        connection.answered()
        await connection.wait_closed_by_peer()

    async with Origin(script) as origin, RawClient(origin.host, origin.port) as client:
        client.pause_reading()
        await origin.wait_for(lambda o: o.accepted_count)
        assert origin.connections[0].transport.get_write_buffer_size() > 0
        client.resume_reading()
        assert len(await client.read_exactly(size)) == size


async def test_a_script_s_mistake_fails_the_test() -> None:
    """What a script raises is raised again at the end of the block."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        raise ValueError("script")

    async def use() -> None:
        async with Origin(script) as origin, RawClient(origin.host, origin.port) as client:
            await client.send(POST)
            await client.wait_closed_by_peer()

    with pytest.raises(ValueError, match="script"):
        await use()


async def test_waiting_tells_what_was_the_case_instead() -> None:
    """A wait that fails says how things stand."""
    async with Origin(json_ok) as origin:
        with pytest.raises(TimeoutError, match="0 requests, 0 in flight"):
            await origin.wait_for(lambda o: o.requests, 0.01)


async def test_a_missing_head_is_an_error_with_what_came() -> None:
    """A server that closes within the head is told from an empty answer."""

    async def script(connection: OriginConnection) -> None:
        connection.send(b"HTTP/1.1 2")
        await asyncio.sleep(0)

    async with Origin(script) as origin, RawClient(origin.host, origin.port) as client:
        with pytest.raises(ClosedByPeerError) as caught:
            await client.read_response()
        assert caught.value.partial == b"HTTP/1.1 2"
