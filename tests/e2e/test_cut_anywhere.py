"""Can a client always tell that an answer is not whole, wherever the backend broke it off?

For each way to frame an answer the connection is cut behind every single byte of it, by an end and
by a reset. Each time the client sees a cut answer or a 502, it counts as a failure, and the next
request gets its own answer, on another connection.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import Guarded, chat, guarded, status_line
from tests.support.certificates import Certificates
from tests.support.origin import JSON_OK, LAST_CHUNK, SSE_HEAD, Origin, OriginConnection, chunk
from tests.support.wire import RawClient, RawResponse, request

ANSWERS: dict[str, bytes] = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + b"0123456789" * 2,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"a;x=y\r\n0123456789\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n",
    "sse": SSE_HEAD + chunk(b"data: one\n\n") + chunk(b"data: [DONE]\n\n") + LAST_CHUNK,
    "after_interim": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + JSON_OK,
    "until_close": b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n0123456789",
    "http_1_0": b"HTTP/1.0 200 OK\r\n\r\n0123456789",
}
WITHOUT_LENGTH = ("until_close", "http_1_0")

End = Callable[[OriginConnection], None]


def end_below_tls(connection: OriginConnection) -> None:
    """A FIN of which TLS knows nothing, as if somebody on the way had sent it."""
    sock = connection.transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(sock.fileno())) as twin:
        twin.shutdown(socket.SHUT_WR)


class Cutting:
    """A backend that cuts `answer` where the request says, and answers everything else."""

    def __init__(self, answer: bytes, end: End) -> None:
        self.answer = answer
        self._end = end

    async def __call__(self, connection: OriginConnection) -> None:
        while True:
            got = await connection.read_request()
            if got.method == "GET":
                connection.send(status_line(200, body=got.target.encode()))
                connection.answered()
                continue
            connection.send(self.answer[: got.json()["n"]])
            for _ in range(3):  # turns of the loop, until it is in the socket
                await asyncio.sleep(0)
            self._end(connection)
            await asyncio.wait(connection.endings, return_when=asyncio.FIRST_COMPLETED)


def failures(side: Guarded) -> int:
    breaker = side.guard().breaker
    assert breaker is not None
    return breaker.failure_count


async def assert_next_is_clean(
    side: Guarded, client: RawClient, target: str, *, kept: bool
) -> None:
    """On another connection, and on the same if that was `kept`."""
    if kept:
        await client.send(request("GET", target))
        assert (await client.read_response()).body.decode() == target
        assert client.stream.unread == b""
    assert (await side.ask(request("GET", target), "GET")).body.decode() == target


def assert_is_cut(response: RawResponse, *, in_head: bool) -> None:
    """A 502 that says why, as long as nothing has been sent; else broken off."""
    if in_head or response.status != 200:
        assert response.status == 502
        assert response.complete
        assert response.json()["error"]["code"] in {"upstream_reset", "upstream_bad_response"}
    else:
        assert not response.complete


async def cut_everywhere(
    side: Guarded, backend: Cutting, version: str, *, ends_look_whole: bool = False
) -> None:
    """Cut the answer behind each of its bytes. `ends_look_whole`: an end is how it ends."""
    body_at = len(backend.answer) - len(backend.answer.rpartition(b" 200 OK")[2])
    body_at = backend.answer.index(b"\r\n\r\n", body_at) + 4
    for at in range(len(backend.answer)):
        before = failures(side)
        async with RawClient(side.listen.host, side.listen.port) as client:
            await client.send(chat(at).replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
            response = await client.read_response("POST")
            if ends_look_whole and at >= body_at:
                assert (response.status, response.complete) == (200, True)
                assert response.body == backend.answer[body_at:at]
            else:
                assert_is_cut(response, in_head=at < body_at)
                assert failures(side) == before + 1
            kept = version == "1.1" and response.complete
            await assert_next_is_clean(side, client, f"/behind-{at}", kept=kept)


# More failures in a row than there are bytes, and nothing that waits for time to pass.
SETTINGS: dict[str, object] = {"breaker.failure_threshold": 1000}


@pytest.mark.parametrize("end", [OriginConnection.close, OriginConnection.reset])
@pytest.mark.parametrize(
    ("name", "version"),
    [*((name, "1.1") for name in ANSWERS), ("chunked", "1.0"), ("until_close", "1.0")],
)
async def test_an_answer_cut_behind_any_byte_is_known_to_be_cut(
    name: str, end: End, version: str
) -> None:
    """Also by a client of HTTP/1.0. Only where an end is the answer's end it must be believed."""
    backend = Cutting(ANSWERS[name], end)
    whole = name in WITHOUT_LENGTH and end is OriginConnection.close
    async with Origin(backend) as origin, guarded(origin.url, SETTINGS) as side:
        await cut_everywhere(side, backend, version, ends_look_whole=whole)
        assert (await side.metrics()).value("retries_total") == 0


@pytest.mark.parametrize("end", [end_below_tls, OriginConnection.reset])
@pytest.mark.parametrize("name", ["length", "chunked", "until_close"])
async def test_an_answer_truncated_within_tls_is_known_to_be_cut(
    name: str, end: End, tmp_path: Path
) -> None:
    """There even an answer without length: only TLS's own end is one."""
    own = Certificates(tmp_path)
    trust = {"upstream_tls.ca_file": own.settings["upstream_tls.ca_file"]}
    backend = Cutting(ANSWERS[name], end)
    async with (
        Origin(backend, tls=own.server) as origin,
        guarded(origin.url, SETTINGS | trust) as side,
    ):
        await cut_everywhere(side, backend, "1.1")
        assert (await side.metrics()).value("retries_total") == 0
