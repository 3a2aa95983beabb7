"""Does a client get what the backend said: whole when it is whole, cut when it is cut, its own?"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import socket

import pytest

from tests.e2e.harness import (
    CHAT,
    Guarded,
    Hand,
    answering,
    asked,
    assert_refusal,
    chat,
    eventually,
    guarded,
    number_of,
    on_both_loops,
    start_stream,
    status_line,
)
from tests.support.origin import (
    CHUNKED_HEAD,
    JSON_OK,
    LAST_CHUNK,
    SSE_HEAD,
    Origin,
    OriginConnection,
    RawRequest,
    chunk,
    json_ok,
    respond,
)
from tests.support.wire import RawClient, request

GET = request("GET", "/v1/models")
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
OLD_UNTIL_CLOSE = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n"


def as_http10(data: bytes, *, keep: bool = False) -> bytes:
    """The same request from an HTTP/1.0 client."""
    field = b" HTTP/1.0\r\nConnection: keep-alive\r\n" if keep else b" HTTP/1.0\r\n"
    return data.replace(b" HTTP/1.1\r\n", field, 1)


# -- cut or whole ----------------------------------------------------------------------------

CUT_ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    "chunked": SSE_HEAD + chunk(b"half"),
    "within_a_chunk": SSE_HEAD + b"a\r\nhalf",
    "until_close": UNTIL_CLOSE + b"half",
    "until_close_http_1_0": OLD_UNTIL_CLOSE + b"half",
}
# A close is how an answer without length ends; only a reset tells that it is not whole.
CUTS = [
    pytest.param(name, ending, id=f"{name}-{ending}")
    for name in CUT_ANSWERS
    for ending in ("reset", "close")
    if not (name.startswith("until_close") and ending == "close")
]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(("name", "ending"), CUTS)
@on_both_loops
async def test_a_cut_answer_looks_cut(name: str, ending: str, version: str) -> None:
    """Whatever the framing: no client can take half an answer for a whole one."""
    half_is_here = asyncio.Event()

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(CUT_ANSWERS[name])
        await half_is_here.wait()  # a reset would overtake what was sent just before it
        if ending == "reset":
            connection.reset()

    async with Origin(script) as origin, guarded(origin.url) as side, side.client() as client:
        await client.send(chat() if version == "1.1" else as_http10(chat()))
        head = await client.read_head()
        await client.read_until(b"half")
        half_is_here.set()
        rest = await client.read_until_closed()
        assert not rest.endswith(b"0\r\n\r\n")
        ends_by_length = b"content-length" in head.lower() or b"chunked" in head.lower()
        assert ends_by_length or client.peer_reset
        assert ends_by_length == (version == "1.1" or name == "length")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    "whole",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfull",
        CHUNKED_HEAD + chunk(b"fu") + chunk(b"ll") + LAST_CHUNK,
        UNTIL_CLOSE + b"full",
        OLD_UNTIL_CLOSE + b"full",
    ],
)
async def test_a_whole_answer_looks_whole(whole: bytes, version: str) -> None:
    """Whatever the framing and the client's version, the end is a clean one."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(whole)

    async with Origin(script) as origin, guarded(origin.url) as side, side.client() as client:
        await client.send(chat() if version == "1.1" else as_http10(chat()))
        response = await client.read_response("POST")
        assert (response.body, response.complete) == (b"full", True)
        if version == "1.0":
            assert response.value("transfer-encoding") is None
            await client.wait_closed_by_peer()
            assert not client.peer_reset
        else:
            await client.send(chat())  # the connection outlives an answer without length
            assert (await client.read_response("POST")).body == b"full"
        assert side.breaker_state == "closed"
        assert (await side.metrics()).value("breaker_consecutive_failures") == 0


async def test_a_malformed_body_that_comes_with_the_head_is_a_bad_answer() -> None:
    """As long as nothing was sent to the client, the sidecar can still say what is wrong."""
    async with Origin(respond(SSE_HEAD + b"zz\r\n")) as origin, guarded(origin.url) as side:
        answer = await side.ask(chat())
        assert_refusal(answer, "upstream_bad_response", 502, retry=False)


async def test_an_answer_that_takes_too_long_is_cut() -> None:
    """`timers.total_s` ends even a stream that is alive, and it looks cut."""
    async with (
        Origin(Hand()) as origin,
        guarded(origin.url, {"timers.total_s": 0.2}) as side,
        side.client() as client,
    ):
        await client.send(chat())
        start_stream(await asked(origin, 1))
        response = await client.read_response("POST")
        assert (response.status, response.complete) == (200, False)
        assert (await side.metrics()).value("requests_total", outcome="total_timeout") == 1
        assert (await side.metrics()).value("cut_streams_total") == 1
        answer = await side.ask(chat())
        assert_refusal(answer, "upstream_timeout", 504, retry=False)
        assert "timers.total_s" in answer.json()["error"]["message"]


@on_both_loops
async def test_bytes_arrive_as_they_were_sent_however_they_are_torn() -> None:
    """One byte a packet or all at once: heads, chunks and trailers come out the same."""
    answer = (
        b"HTTP/1.1 200 OK\r\nX-Case: a\r\nx-case: b\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;ext=1\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n"
    )

    async def script(connection: OriginConnection) -> None:
        while True:
            await connection.read_request()
            for byte in answer:
                connection.send(bytes([byte]))
                await asyncio.sleep(0)
            connection.answered()

    async with Origin(script) as origin, guarded(origin.url) as side, side.client() as client:
        for _ in range(2):
            for byte in chat(7):
                await client.send(bytes([byte]))
                await asyncio.sleep(0)
            head = await client.read_head()
            assert head.startswith(
                b"HTTP/1.1 200 OK\r\nX-Case: a\r\nx-case: b\r\nTransfer-Encoding: chunked\r\n"
            )
            assert await client.read_until(b"X-Sum: 1\r\n\r\n") == answer.partition(b"\r\n\r\n")[2]
        assert [number_of(each.body) for each in origin.requests] == [7, 7]
        assert origin.accepted_count == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_large_bodies_are_the_same_on_both_sides(framing: str) -> None:
    """Megabytes in pieces of all sizes cross without a byte changed, lost or doubled."""
    dice = random.Random(7)
    body = dice.randbytes(5_000_000)

    def answer(got: RawRequest) -> bytes:
        digest = hashlib.sha256(got.body).hexdigest().encode()
        return status_line(200, [f"X-Digest: {digest.decode()}"], body)

    async with (
        Origin(answering(answer)) as origin,
        guarded(origin.url) as side,
        side.client() as client,
    ):
        fields = "Content-Length: 5000000" if framing == "length" else "Transfer-Encoding: chunked"
        await client.send(f"POST {CHAT} HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n".encode())
        position = 0
        while position < len(body):
            piece = body[position : position + dice.randrange(1, 300_000)]
            position += len(piece)
            await client.send(chunk(piece) if framing == "chunked" else piece)
        if framing == "chunked":
            await client.send(LAST_CHUNK)
        response = await client.read_response("POST")
        assert response.value("x-digest") == hashlib.sha256(body).hexdigest()
        assert response.body == body


# -- whose answer ------------------------------------------------------------------------------


@on_both_loops
async def test_everybody_gets_the_answer_to_the_own_question() -> None:
    """Hundreds of requests over shared connections, some of them cut: nobody gets another's."""

    def answer(got: RawRequest) -> bytes:
        number = number_of(got.body)
        text = f"answer {number} ".encode() * (number % 50)
        if number % 3 == 0:
            return CHUNKED_HEAD + b"".join(chunk(text) for _ in range(3) if text) + LAST_CHUNK
        return status_line(200, body=text * 3)

    async def caller(side: Guarded, first: int) -> None:
        async with side.client() as client:
            for number in range(first, first + 40):
                await client.send(chat(number))
                response = await client.read_response("POST")
                assert response.body == f"answer {number} ".encode() * (number % 50) * 3

    async def leaver(side: Guarded) -> None:
        for _ in range(40):
            async with side.client() as client:
                await client.send(chat(49))

    async with (
        Origin(answering(answer)) as origin,
        guarded(origin.url, {"max_concurrent": 4}) as side,
    ):
        callers = [caller(side, first * 1000) for first in range(8)]
        await asyncio.gather(*callers, leaver(side))


async def test_bytes_behind_an_answer_are_nobodys() -> None:
    """What a backend sends beyond its answer is never the next one's answer."""
    stray = status_line(200, body=b"stray")

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(JSON_OK + stray)
        await connection.wait_closed_by_peer()

    async with Origin(script) as origin, guarded(origin.url) as side, side.client() as client:
        for count in range(1, 4):
            await client.send(GET)
            assert (await client.read_response()).json() == {"ok": True}
            await origin.connections[-1].wait_closed_by_peer()
            assert origin.accepted_count == count


async def test_bytes_on_an_idle_connection_are_nobodys() -> None:
    """A backend that talks unasked (Node's late 408) is not taken for one that answers."""
    async with Origin(json_ok) as origin, guarded(origin.url) as side, side.client() as client:
        await client.send(GET)
        await client.read_response()
        origin.connections[0].send(status_line(408))
        await origin.connections[0].wait_closed_by_peer()
        await client.send(GET)
        assert (await client.read_response()).json() == {"ok": True}


def send_behind_the_loop_s_back(connection: OriginConnection, data: bytes) -> None:
    """Have bytes in the peer's kernel before its event loop can see them; b"" closes."""
    pseudo = connection.transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(pseudo.fileno())) as sock:
        if data:
            sock.send(data)
        else:
            sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("data", [status_line(408), b""], ids=["unasked_bytes", "end"])
@on_both_loops
async def test_a_kept_connection_with_something_to_read_is_not_used_again(data: bytes) -> None:
    """Even before the event loop knows: the kernel is asked about an end or unasked bytes."""
    async with Origin(json_ok) as origin, guarded(origin.url) as side:
        assert (await side.ask(chat())).status == 200
        send_behind_the_loop_s_back(origin.connections[0], data)
        assert side.sidecar.proxy.upstream.kept() is None
        assert (await side.ask(chat())).json() == {"ok": True}
        assert origin.accepted_count == 2


# -- kept connections --------------------------------------------------------------------------


async def closes_on_the_second(connection: OriginConnection) -> None:
    """A backend whose kept connections die just when the next request arrives."""
    await connection.read_request()
    connection.send(JSON_OK)
    connection.answered()
    await connection.read_request()
    connection.reset()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@on_both_loops
async def test_a_safe_request_on_a_stale_connection_is_repeated(method: str) -> None:
    """The backend closed the kept connection meanwhile: nobody notices, it is asked again."""
    async with Origin(closes_on_the_second) as origin, guarded(origin.url) as side:
        assert (await side.ask(GET, "GET")).status == 200
        assert (await side.ask(request(method, "/health"), method)).status == 200
        assert [each.method for each in origin.requests] == ["GET", method, method]
        assert origin.accepted_count == 2
        assert (await side.metrics()).value("retries_total") == 1


@pytest.mark.parametrize("path", [CHAT, "/sessions"])
async def test_a_post_on_a_stale_connection_is_never_repeated(path: str) -> None:
    """It may have been executed; the 502 says so."""
    async with Origin(closes_on_the_second) as origin, guarded(origin.url) as side:
        assert (await side.ask(request("POST", path, b"{}"))).status == 200
        refusal = await side.ask(request("POST", path, b"{}"))
        assert_refusal(refusal, "upstream_reset", 502, retry=False)
        assert "not repeated" in refusal.json()["error"]["message"]
        assert len(origin.requests) == 2
        assert (await side.metrics()).value("retries_total") == 0


async def test_a_request_is_repeated_once_only() -> None:
    """A fresh connection that is reset too is the backend's failure."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        if len(origin.requests) == 1:
            connection.send(JSON_OK)
            connection.answered()
            await connection.read_request()
        connection.reset()

    async with Origin(script) as origin, guarded(origin.url) as side:
        assert (await side.ask(GET, "GET")).status == 200
        refusal = await side.ask(GET, "GET")
        assert_refusal(refusal, "upstream_reset", 502, retry=False)
        assert len(origin.requests) == 3
        assert_refusal(await side.ask(GET, "GET"), "upstream_reset", 502, retry=False)
        assert len(origin.requests) == 4, "on a fresh connection nothing is repeated"


async def test_a_request_whose_answer_had_begun_is_not_repeated() -> None:
    """Half a head is an answer: the backend has dealt with the request."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(JSON_OK)
        connection.answered()
        await connection.read_request()
        connection.send(b"HTTP/1.1 200 ")

    async with Origin(script) as origin, guarded(origin.url) as side:
        assert (await side.ask(GET, "GET")).status == 200
        assert_refusal(await side.ask(GET, "GET"), "upstream_reset", 502, retry=False)
        assert len(origin.requests) == 2


async def test_a_kept_connection_that_the_backend_closed_is_not_used() -> None:
    """A backend that closes idle connections costs no POST; and they are not counted as kept."""
    async with Origin(json_ok) as origin, guarded(origin.url) as side:
        assert (await side.ask(chat())).status == 200
        assert (await side.metrics()).value("connections", side="upstream_idle") == 1
        origin.connections[0].close()
        await origin.connections[0].ended()
        counts = side.sidecar.proxy.connection_counts
        await eventually(lambda: counts()["upstream_idle"] == 0)
        assert (await side.ask(chat())).status == 200
        assert origin.accepted_count == 2
        assert (await side.metrics()).value("breaker_consecutive_failures") == 0


@pytest.mark.parametrize(("idle_s", "connections"), [(0, 3), (60, 1)])
async def test_connections_are_kept_for_as_long_as_is_set(idle_s: float, connections: int) -> None:
    """`pool.idle_s` 0 means never to use one again."""
    async with Origin(json_ok) as origin, guarded(origin.url, {"pool.idle_s": idle_s}) as side:
        for _ in range(3):
            assert (await side.ask(chat())).status == 200
        assert origin.accepted_count == connections


async def test_connections_idle_too_long_are_closed() -> None:
    """Before the backend does it: `pool.idle_s` after their last use."""
    async with Origin(json_ok) as origin, guarded(origin.url, {"pool.idle_s": 0.1}) as side:
        await asyncio.gather(*(side.ask(chat()) for _ in range(3)))
        await origin.wait_for(lambda o: o.open_count == 0)
        assert (await side.ask(chat())).status == 200


async def test_a_backend_that_wants_no_kept_connection_is_obeyed() -> None:
    """`Connection: close` of the backend ends its connection, not the client's."""
    answer = status_line(200, ["Connection: close"])
    async with Origin(respond(answer)) as origin, guarded(origin.url) as side:
        async with side.client() as client:
            for _ in range(3):
                await client.send(chat())
                response = await client.read_response("POST")
                assert (response.status, response.value("connection")) == (200, None)
        assert origin.accepted_count == 3


# -- the shape of requests and answers -----------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 11\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_an_answer_without_a_body_ends_with_its_head(method: str, answer: bytes) -> None:
    """HEAD, 204 and 304 have none whatever their fields say; both connections stay usable."""
    async with Origin(respond(answer)) as origin, guarded(origin.url) as side:
        async with side.client() as client:
            for _ in range(3):
                await client.send(request(method, "/health"))
                head = await client.read_head()
                assert head.startswith(answer.removesuffix(b"\r\n"))
            await client.send(request("HEAD", "/health"))
            await client.read_head()
            assert client.stream.unread == b""
        assert origin.accepted_count == 1


async def test_interim_answers_are_passed_on() -> None:
    """103 Early Hints and the like reach an HTTP/1.1 client, each as it came; never one of 1.0."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
    processing = b"HTTP/1.1 102 Processing\r\n\r\n"
    async with Origin(respond(hints + processing + JSON_OK)) as origin, guarded(origin.url) as side:
        response = await side.ask(chat())
        assert (response.interim, response.status) == ([hints, processing], 200)
        old = await side.ask(as_http10(chat()))
        assert (old.interim, old.status) == ([], 200)


async def test_an_old_client_may_keep_its_connection() -> None:
    """HTTP/1.0 with keep-alive gets answers with a length, one after the other."""
    async with Origin(json_ok) as origin, guarded(origin.url) as side:
        async with side.client() as client:
            for _ in range(3):
                await client.send(as_http10(chat(), keep=True))
                response = await client.read_response("POST")
                assert response.json() == {"ok": True}
                assert response.value("connection") == "keep-alive"
        assert origin.requests[0].request_line.endswith("HTTP/1.1")


async def test_a_client_that_wants_to_close_is_obeyed() -> None:
    """After its answer the connection ends cleanly."""
    async with Origin(json_ok) as origin, guarded(origin.url) as side, side.client() as client:
        await client.send(chat(fields=[("Connection", "close")]))
        response = await client.read_response("POST")
        assert response.complete
        assert response.value("connection") == "close"
        await client.wait_closed_by_peer()
        assert not client.peer_reset


@on_both_loops
async def test_pipelined_requests_are_answered_in_order() -> None:
    """Guarded and free ones, all sent at once: one answer after the other."""

    def answer(got: RawRequest) -> bytes:
        return status_line(200, body=got.target.encode() + got.body)

    numbers = [chat(1), GET, chat(2), request("GET", "/last")]
    async with (
        Origin(answering(answer)) as origin,
        guarded(origin.url) as side,
        side.client() as client,
    ):
        await client.send(b"".join(numbers))
        bodies = [(await client.read_response("POST")).body for _ in numbers]
        assert [body[:8] for body in bodies] == [b"/v1/chat", b"/v1/mode", b"/v1/chat", b"/last"]
        assert [number_of(each.body) for each in origin.requests if each.body] == [1, 2]
        assert origin.peak_in_flight == 1


async def test_a_long_pipeline_does_not_pile_up() -> None:
    """A client that sends ahead without end is read only as far as it is served."""
    count = 3000
    async with Origin(json_ok) as origin, guarded(origin.url) as side, side.client() as client:
        sending = asyncio.ensure_future(client.send(request("GET", "/p") * count))
        for _ in range(count):
            assert (await client.read_response()).status == 200
        await sending
        assert len(origin.requests) == count


@pytest.mark.parametrize("path", [CHAT, "/upload"])
@on_both_loops
async def test_a_backend_may_answer_before_the_upload_ends(path: str) -> None:
    """A 413 reaches a client that is still sending, whole; then the connection ends."""
    body = b'{"error":"too large"}'
    settings = {"queue.body_buffer_bytes": 1000}

    async def script(connection: OriginConnection) -> None:
        await connection.read_head()
        connection.send(status_line(413, body=body))
        await connection.wait_closed_by_peer()

    async with (
        Origin(script) as origin,
        guarded(origin.url, settings) as side,
        side.client() as client,
    ):
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n".encode()
        await client.send(head + bytes(100_000))
        response = await client.read_response("POST")
        assert (response.status, response.body) == (413, body)
        assert response.value("connection") == "close"
        with contextlib.suppress(ConnectionError):
            await client.send(bytes(1_000_000))  # a client may notice late
        await client.wait_closed_by_peer()
        assert not client.peer_reset, "a reset could take the answer away from the client"
        await origin.connections[0].wait_closed_by_peer()


async def test_answer_and_upload_may_overlap() -> None:
    """A backend that echoes while the client still sends: both directions flow."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_head()
        connection.send(SSE_HEAD)
        for _ in range(3):
            connection.send(chunk(await connection.read_exactly(5)))
        connection.send(LAST_CHUNK)
        await connection.wait_closed_by_peer()

    async with Origin(script) as origin, guarded(origin.url) as side, side.client() as client:
        await client.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 15\r\n\r\n")
        await client.read_head()
        for piece in (b"first", b"secnd", b"third"):
            await client.send(piece)
            assert await client.read_chunk() == piece
        assert await client.read_chunk() == b""


async def test_a_backend_that_does_not_read_slows_the_client_down() -> None:
    """An upload is not piled up in the sidecar while the backend takes nothing."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_head()
        connection.pause_reading()
        await connection.wait_closed_by_peer()

    async with Origin(script) as origin, guarded(origin.url) as side, side.client() as client:
        size = 64 * 1024 * 1024
        await client.send(
            f"POST /up HTTP/1.1\r\nHost: t\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        sending = asyncio.ensure_future(client.send(bytes(size)))
        await origin.wait_for(lambda o: o.requests)
        await asyncio.sleep(0.2)
        assert not sending.done()
        busy = side.sidecar.proxy.upstream.busy
        assert sum(each.transport.get_write_buffer_size() for each in busy) < 1024 * 1024
        origin.connections[0].resume_reading()
        await sending
        client.abort()
        await origin.connections[0].wait_closed_by_peer()


async def test_heads_cross_with_what_belongs_to_one_hop_replaced() -> None:
    """Order, case and repeats stay; hop-by-hop fields and claims of origin go; Via and id come."""
    answer = status_line(
        200, ["Server: x", "Keep-Alive: timeout=5", "Set-Cookie: a", "set-cookie: b"]
    )
    fields = [
        ("X-One", "1"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("Connection", "keep-alive, X-Secret"),
        ("X-Secret", "hop"),
        ("x-one", "2"),
        ("X-Request-Id", "mine-1"),
    ]
    async with Origin(respond(answer)) as origin, guarded(origin.url) as side:
        response = await side.ask(request("GET", "/a%20b/../c?q=%2F", fields=fields), "GET")
        got = origin.requests[0]
        assert got.target == "/a%20b/../c?q=%2F"
        assert got.fields[:3] == [("Host", "test"), ("X-One", "1"), ("x-one", "2")]
        assert sorted(got.fields[3:]) == [
            ("Via", "1.1 openclaw-sidecar"),
            ("X-Request-Id", "mine-1"),
        ]
        assert response.values("set-cookie") == ["a", "b"]
        assert response.value("keep-alive") is None
        assert response.value("via") == "1.1 openclaw-sidecar"
        assert response.value("x-request-id") == "mine-1"


@pytest.mark.parametrize(
    "data",
    [
        b"POST /x HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /x HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: t\r\nContent-Length: +3\r\n\r\nabc",
        b"POST /x HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: t\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: t\r\nX: a\r\n b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: t\nX: a\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /x HTTP/1.1\r\n\r\n",
        b"GET x HTTP/1.1\r\nHost: t\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused(data: bytes) -> None:
    """Nothing ambiguous reaches the backend, and nothing behind it is read as a request."""
    async with Origin(json_ok) as origin, guarded(origin.url) as side, side.client() as client:
        await client.send(data + GET)
        refusal = await client.read_response()
        assert_refusal(refusal, "bad_request", 400, retry=False)
        assert refusal.value("connection") == "close"
        assert await client.read_until_closed() == b""
        assert not origin.connections


@pytest.mark.parametrize("path", [CHAT, "/upload"])
async def test_a_malformed_upload_is_refused(path: str) -> None:
    """A bad chunk size ends the request with 400; a backend that got part of it sees a cut."""
    async with Origin(Hand()) as origin, guarded(origin.url) as side, side.client() as client:
        head = f"POST {path} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        await client.send(head + b"3\r\nabc\r\n")
        await asyncio.sleep(0.05)
        await client.send(b"zz\r\n" + GET)
        assert_refusal(await client.read_response("POST"), "bad_request", 400, retry=False)
        assert await client.read_until_closed() == b""
        assert not any(each.complete for each in origin.requests)
        assert side.breaker_state == "closed"


async def test_a_head_that_is_too_large_or_too_slow_is_refused() -> None:
    """431 and 408 say what was exceeded; the connection ends."""
    settings = {"limits.head_bytes": 1024, "timers.head_s": 0.1}
    async with Origin(json_ok) as origin, guarded(origin.url, settings) as side:
        large = await side.ask(request("GET", "/x", fields=[("X-Large", "x" * 2000)]), "GET")
        assert_refusal(large, "head_too_large", 431, retry=False)
        slow = await side.ask(b"GET /x HTTP/1.1\r\nHost:", "GET")
        assert_refusal(slow, "head_timeout", 408, retry=False)
        assert not origin.connections


async def test_an_idle_connection_is_closed_in_the_end() -> None:
    """After `timers.keepalive_s`, before its first request as after its last; without a word."""
    async with (
        Origin(json_ok) as origin,
        guarded(origin.url, {"timers.keepalive_s": 0.1}) as side,
        side.client() as silent,
        side.client() as served,
    ):
        await served.send(chat())
        await served.read_response("POST")
        for client in (silent, served):
            assert await RawClient.read_until_closed(client) == b""
            assert not client.peer_reset
