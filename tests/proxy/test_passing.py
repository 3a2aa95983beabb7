"""Does a whole exchange cross byte for byte, framing and trailers included?"""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.proxy.running import data_path
from tests.support.origin import Origin, OriginConnection, respond
from tests.support.wire import request

_both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])

BODY = b'5;a=b;c="d"\r\nhello\r\nA\r\n0123\r\n6789\r\n00\r\nX-Sum: 1\r\nx-sum:\t2 \r\n\r\n'
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n" + BODY


@_both_loops
@pytest.mark.parametrize("path", ["/free", "/v1/chat/completions"])
async def test_chunks_extensions_and_trailers_cross_both_ways(path: str) -> None:
    """Chunk sizes, extensions and trailers are the sender's, up and down."""
    async with Origin(respond(CHUNKED)) as origin, data_path(origin.url) as way:
        async with way.client() as client:
            await client.send(
                f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
                + BODY
            )
            response = await client.read_response("POST")
            assert client.received.endswith(b"\r\n\r\n" + BODY)
            assert response.value("trailer") == "X-Sum"
        assert origin.requests[0].raw_body == BODY


async def test_http10_gets_the_content_without_chunks() -> None:
    """A client that knows no chunks gets what is in them, ended by the end of the connection."""
    async with (
        Origin(respond(CHUNKED)) as origin,
        data_path(origin.url) as way,
        way.client() as client,
    ):
        await client.send(b"GET /free HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = await client.read_until_closed()
        assert answer.endswith(b"\r\n\r\nhello0123\r\n6789")
        assert b"Transfer-Encoding" not in answer
        assert not client.peer_reset


async def test_an_answer_of_http10_becomes_one_of_http11() -> None:
    """Also one without a length: it gets chunks, and the client's connection lives on."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(b"HTTP/1.0 200 Fine\r\nX-Old: 1\r\n\r\nhello")

    async with Origin(script) as origin, data_path(origin.url) as way, way.client() as client:
        for _ in range(2):
            await client.send(request("GET", "/free"))
            response = await client.read_response()
            assert response.head.startswith(b"HTTP/1.1 200 Fine\r\nX-Old: 1\r\n")
            assert (response.body, response.complete) == (b"hello", True)


_LARGE = 200_000
_FILLS_THE_SOCKET = {
    "a body": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _LARGE + bytes(_LARGE),
    "a head": b"HTTP/1.1 204 Fine\r\nX: " + b"y" * _LARGE + b"\r\n\r\n",
}


@_both_loops
@pytest.mark.parametrize("answer", _FILLS_THE_SOCKET.values(), ids=_FILLS_THE_SOCKET.keys())
async def test_a_slow_reader_does_not_stop_the_next_request(answer: bytes) -> None:
    """A connection whose last answer filled a client's socket is read again for the next one."""
    async with (
        Origin(respond(answer)) as origin,
        data_path(origin.url) as way,
        way.client() as client,
    ):
        for _ in range(5):
            await client.send(request("GET", "/free"))
            async with asyncio.timeout(5):
                assert len((await client.read_response()).body) in {0, _LARGE}
            (served,) = way.server.handler.connections
            sock = served.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's least
        assert origin.accepted_count == 1
