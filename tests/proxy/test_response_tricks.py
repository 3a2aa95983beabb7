"""Can a backend's odd answer pass for another one, or spill into another client's?"""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.response_tricks import CUT, EVIL, UNREADABLE, WHOLE, Answer
from tests.proxy.running import OK, SENTINEL, DataPath, data_path, recording
from tests.support.origin import Origin, OriginConnection, Script
from tests.support.wire import RawClient, RawResponse, request

_both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


def answering(answer: Answer, seen: asyncio.Event) -> Script:
    """Give that answer to whoever asks for anything but the sentinel; go on when it was `seen`."""

    async def script(connection: OriginConnection) -> None:
        while True:
            asked = await connection.read_request()
            if asked.target == SENTINEL:
                connection.send(OK)
                connection.answered()
                continue
            connection.send(answer.raw)
            if answer.then or (answer.closes and answer.body):
                await seen.wait()
                connection.send(answer.then)
            if answer.closes:
                return

    return script


async def assert_all_get_their_own(path: DataPath, client: RawClient) -> None:
    """Requests after the trick, on the same connection and on others, get their own answers."""
    if not client.peer_closed:
        await client.send(request("GET", SENTINEL))
        assert (await client.read_response()).body == b"ok"
        assert client.stream.unread == b""
    for _ in range(2):
        answered = await path.ask(request("GET", SENTINEL))
        assert (answered.status, answered.body) == (200, b"ok")
    assert b"evil" not in client.received
    assert b"Evil" not in client.received


async def ask_for(answer: Answer) -> RawResponse:
    seen = asyncio.Event()
    seen.set()
    async with Origin(answering(answer, seen)) as origin, data_path(origin.url) as path:
        async with path.client() as client:
            await client.send(request(answer.method, "/trick"))
            response = await client.read_response(answer.method)
            await assert_all_get_their_own(path, client)
        assert path.facts[0].status == answer.status
        return response


@_both_loops
@pytest.mark.parametrize("answer", UNREADABLE, ids=lambda answer: answer.name)
async def test_what_cannot_be_read_becomes_a_502(answer: Answer) -> None:
    """Nothing of an answer that is no answer, or could be two, reaches a client."""
    response = await ask_for(answer)
    assert response.status == 502
    assert response.json()["error"]["code"] in {"upstream_bad_response", "upstream_reset"}


@_both_loops
@pytest.mark.parametrize("answer", WHOLE, ids=lambda answer: answer.name)
async def test_what_is_whole_ends_where_it_says(answer: Answer) -> None:
    """Bytes behind an answer are nobody's answer."""
    response = await ask_for(answer)
    assert (response.status, response.body) == (answer.status, answer.body)
    assert response.complete
    assert response.value("set-cookie") is None
    if answer.status == 204:
        assert response.value("content-length") is None
        assert response.value("transfer-encoding") is None
    for head in response.interim:
        assert b"content-length" not in head.lower()
        assert b"transfer-encoding" not in head.lower()


@_both_loops
@pytest.mark.parametrize("answer", CUT, ids=lambda answer: answer.name)
async def test_what_breaks_off_looks_broken_off(answer: Answer) -> None:
    """A client can tell that an answer which began well did not end well."""
    seen = asyncio.Event()
    async with (
        Origin(answering(answer, seen)) as origin,
        data_path(origin.url) as path,
        path.client() as client,
    ):
        await client.send(request(answer.method, "/trick"))
        head = await client.read_head()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        await client.read_until(answer.body)
        seen.set()
        rest = await client.read_until_closed()
        assert b"0\r\n\r\n" not in rest
        assert b"HTTP/1.1" not in rest
        await assert_all_get_their_own(path, client)


@_both_loops
async def test_an_answer_to_an_http10_client_that_is_cut_is_reset() -> None:
    """Where only the connection's end ends an answer, a cut one ends in a reset."""
    seen = asyncio.Event()
    answer = next(answer for answer in CUT if answer.name == "an end within a chunk")
    async with (
        Origin(answering(answer, seen)) as origin,
        data_path(origin.url) as path,
        path.client() as client,
    ):
        await client.send(b"GET /trick HTTP/1.0\r\n\r\n")
        await client.read_until(answer.body)
        seen.set()
        await client.read_until_closed()
        assert client.peer_reset


@_both_loops
async def test_an_answer_sent_later_unasked_is_thrown_away() -> None:
    """What a backend says on a kept connection between requests is not the next one's answer."""
    async with Origin(recording) as origin, data_path(origin.url) as path, path.client() as client:
        for number in range(1, 6):
            await client.send(request("GET", f"/{number}"))
            assert (await client.read_response()).body == b"ok"
            kept = origin.connections[-1]
            assert origin.accepted_count == number
            kept.send(EVIL)
            await kept.wait_closed_by_peer()


@_both_loops
async def test_an_answer_sent_unasked_in_the_same_moment_is_thrown_away() -> None:
    """Even bytes that wait in the kernel when a kept connection is taken spoil it."""
    async with Origin(recording) as origin, data_path(origin.url) as path:
        async with path.client() as client:
            for number in range(20):
                await client.send(request("GET", f"/{number}"))
                assert (await client.read_response()).body == b"ok"
                origin.connections[-1].send(EVIL)  # and at once, before anybody reads:
        assert origin.accepted_count == 20


@_both_loops
async def test_a_backend_that_ignores_a_body_and_answers_it_is_not_believed() -> None:
    """CL.0: what a backend takes for a second request is answered to nobody."""

    async def ignores_bodies(connection: OriginConnection) -> None:
        while True:
            await connection.read_head()
            connection.send(OK)

    smuggled = request("GET", "/smuggled")
    async with Origin(ignores_bodies) as origin, data_path(origin.url) as path:
        for _ in range(5):
            async with path.client() as client:
                await client.send(request("POST", "/free", smuggled))
                assert (await client.read_response("POST")).body == b"ok"
                await client.send(request("GET", SENTINEL))
                assert (await client.read_response()).body == b"ok"
                assert client.stream.unread == b""
        for connection in origin.connections:
            _, found, rest = bytes(connection.received).partition(smuggled)
            assert not (found and rest), "a connection with two answers was used again"


async def test_pipelined_requests_get_their_answers_in_order() -> None:
    """The n-th answer is the n-th request's, whatever each says about its connection."""

    async def echo(connection: OriginConnection) -> None:
        while True:
            asked = await connection.read_request()
            body = asked.target.encode()
            close = b"Connection: close\r\n" if asked.target.endswith("close") else b""
            connection.send(
                b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (close, len(body), body)
            )
            connection.answered()
            if close:
                return

    targets = [f"/{number}{'close' * (number % 3 == 0)}" for number in range(30)]
    async with Origin(echo) as origin, data_path(origin.url) as path, path.client() as client:
        await client.send(b"".join(request("GET", target) for target in targets))
        answers = [(await client.read_response()).body.decode() for _ in targets]
        assert answers == targets
