"""Does the backend never get more than it can bear, and is nobody treated unfairly by that?"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from functools import partial

import pytest

from sidecar.admission.guard import GuardSnapshot
from tests.e2e.harness import (
    CHAT,
    EMBEDDINGS,
    ERROR_500,
    Hand,
    answering,
    asked,
    assert_refusal,
    chat,
    guarded,
    number_of,
    on_both_loops,
    start_stream,
    status_line,
)
from tests.support.origin import (
    JSON_OK,
    LAST_CHUNK,
    Gate,
    Origin,
    OriginConnection,
    RawRequest,
    chunk,
    json_ok,
    respond,
)
from tests.support.wire import RawClient, request

ONE_SLOT = {"max_concurrent": 1}


def has_asked(count: int, guard: GuardSnapshot) -> bool:
    return guard.in_flight + guard.waiting == count


@on_both_loops
async def test_twenty_callers_get_three_slots_in_order_of_arrival() -> None:
    """The backend never sees more than three at once; who came first is served first."""
    async with (
        Origin(Gate()) as origin,
        guarded(origin.url) as side,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = []
        for number in range(20):
            client = await stack.enter_async_context(side.client())
            await client.send(chat(number))
            await side.until(partial(has_asked, number + 1))
            clients.append(client)
        assert (side.guard().in_flight, side.guard().waiting) == (3, 17)
        await origin.wait_for(lambda o: o.in_flight == 3)
        for number, client in enumerate(clients):
            origin.release()
            assert (await client.read_response("POST")).status == 200, number
        assert [number_of(each.body) for each in origin.requests] == list(range(20))
        assert origin.peak_in_flight == 3
        assert origin.accepted_count == 3, "kept connections are used again"


async def test_a_herd_that_comes_at_once_is_served_three_by_three() -> None:
    """Twenty callers in the same moment: all get their answer, never more than three at once."""
    async with Origin(json_ok) as origin, guarded(origin.url) as side:
        answers = await asyncio.gather(*(side.ask(chat(number)) for number in range(20)))
        assert [answer.status for answer in answers] == [200] * 20
        assert origin.peak_in_flight <= 3


@on_both_loops
async def test_a_slot_is_held_to_the_last_byte_of_a_stream() -> None:
    """While three answers stream, the fourth request waits for the very last byte of one."""
    hand = Hand()
    async with (
        Origin(hand) as origin,
        guarded(origin.url) as side,
        side.client() as first,
        side.client() as second,
        side.client() as third,
        side.client() as fourth,
    ):
        for count, client in enumerate((first, second, third), 1):
            await client.send(chat())
            start_stream(await asked(origin, count))
            await client.read_head()
            assert await client.read_chunk() == b"data: 1\n\n"
        await fourth.send(chat(4))
        await side.until_waiting(1)
        second_answer = origin.requests[1].connection
        second_answer.send(chunk(b"data: [DONE]\n\n"))
        assert await second.read_chunk() == b"data: [DONE]\n\n"
        assert side.guard().waiting == 1, "the last chunk is still to come"
        assert len(origin.requests) == 3
        hand.finish(second_answer, LAST_CHUNK)
        await origin.wait_for(lambda o: len(o.requests) == 4)
        assert origin.requests[3].connection is second_answer
        assert await second.read_chunk() == b""
        for index in (0, 2):
            hand.finish(origin.requests[index].connection, LAST_CHUNK)
        hand.finish(second_answer, status_line(200))
        assert (await fourth.read_response("POST")).status == 200


async def test_a_queued_answer_says_how_long_it_waited() -> None:
    """`x-sidecar-queue-ms` and Server-Timing tell the wait; who did not wait gets neither."""
    async with (
        Origin(Gate()) as origin,
        guarded(origin.url, ONE_SLOT) as side,
        side.client() as first,
        side.client() as second,
    ):
        loop = asyncio.get_running_loop()
        await first.send(chat())
        await origin.wait_for(lambda o: o.in_flight == 1)
        await second.send(chat())
        await side.until_waiting(1)
        waiting_since_s = loop.time()
        await asyncio.sleep(0.05)
        at_least_ms = (loop.time() - waiting_since_s) * 1000
        origin.release(2)
        unqueued = await first.read_response("POST")
        assert unqueued.value("x-sidecar-queue-ms") is None
        assert unqueued.value("server-timing") is None
        queued = await second.read_response("POST")
        told_ms = int(queued.value("x-sidecar-queue-ms") or 0)
        assert at_least_ms - 2 <= told_ms <= at_least_ms + 2000
        assert (queued.value("server-timing") or "").startswith("sidecar-queue;dur=")


async def test_who_comes_when_the_queue_is_full_is_told_so_at_once() -> None:
    """A full queue refuses newcomers with `queue_full`; those inside are not disturbed."""
    settings = ONE_SLOT | {"queue.max_waiting": 2}
    async with (
        Origin(Gate()) as origin,
        guarded(origin.url, settings) as side,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = []
        for count in range(1, 4):
            client = await stack.enter_async_context(side.client())
            await client.send(chat(count))
            await side.until(partial(has_asked, count))
            clients.append(client)
        async with side.client() as late:
            for _ in range(2):  # the connection stays usable
                await late.send(chat(9))
                refusal = await late.read_response("POST")
                assert_refusal(refusal, "queue_full", 503, retry=True)
                # (2 waiting + 1) x 5 s (nothing known yet) / 1 slot, and 10 to 20 % on top
                assert 16 <= int(refusal.value("retry-after") or 0) <= 18
        origin.release(3)
        for client in clients:
            assert (await client.read_response("POST")).status == 200
        assert [number_of(each.body) for each in origin.requests] == [1, 2, 3]


async def test_waiting_ends_with_the_queue_s_time_out() -> None:
    """After `queue.timeout_s` without a slot the answer is 504; the backend never hears of it."""
    settings = ONE_SLOT | {"queue.timeout_s": 0.1}
    async with (
        Origin(Gate()) as origin,
        guarded(origin.url, settings) as side,
        side.client() as first,
    ):
        await first.send(chat(1))
        await origin.wait_for(lambda o: o.in_flight == 1)
        refusal = await side.ask(chat(2))
        assert_refusal(refusal, "queue_timeout", 504, retry=True)
        # a few milliseconds less: the grain of the loop's clock
        assert 95 <= int(refusal.value("x-sidecar-queue-ms") or 0) < 2000
        origin.release()
        assert (await first.read_response("POST")).status == 200
        assert (await side.ask_released(origin, chat(3))).status == 200
        assert [number_of(each.body) for each in origin.requests] == [1, 3]
        assert (await side.metrics()).value("breaker_consecutive_failures") == 0


async def test_time_in_the_queue_does_not_eat_the_time_for_the_answer() -> None:
    """`timers.first_event_s` counts from the slot, not from the arrival."""
    settings = ONE_SLOT | {"timers.first_event_s": 0.5}
    hand = Hand()
    async with (
        Origin(hand) as origin,
        guarded(origin.url, settings) as side,
        side.client() as first,
        side.client() as second,
    ):
        await first.send(chat(1))
        await origin.wait_for(lambda o: o.in_flight == 1)
        start_stream(origin.requests[0].connection)
        await second.send(chat(2))
        await side.until(lambda guard: guard.oldest_wait_s > 0.4)
        hand.finish(origin.requests[0].connection, LAST_CHUNK)
        await origin.wait_for(lambda o: len(o.requests) == 2)
        await asyncio.sleep(0.2)  # together with the wait more than first_event_s
        hand.finish(origin.requests[1].connection, status_line(200))
        assert (await second.read_response("POST")).status == 200
        assert (await first.read_response("POST")).complete


# -- what takes no slot ----------------------------------------------------------------------


FREE = [("GET", "/health"), ("GET", "/v1/models"), ("POST", "/sessions"), ("GET", CHAT)]


@pytest.mark.parametrize(("method", "path"), FREE)
async def test_free_routes_pass_while_all_slots_are_taken(method: str, path: str) -> None:
    """Health, model lists and session calls never wait for inferences."""
    hand = Hand()
    async with (
        Origin(hand) as origin,
        guarded(origin.url, ONE_SLOT) as side,
        side.client() as busy,
        side.client() as free,
    ):
        await busy.send(chat())
        await origin.wait_for(lambda o: o.in_flight == 1)
        await free.send(request(method, path, b"{}" if method == "POST" else None))
        await origin.wait_for(lambda o: o.in_flight == 2)
        hand.finish(origin.requests[1].connection, status_line(200))
        assert (await free.read_response(method)).status == 200
        hand.finish(origin.requests[0].connection, status_line(200))
        assert (await busy.read_response("POST")).status == 200


async def test_free_routes_pass_while_the_breaker_is_open() -> None:
    """An operator can ask a failing backend's health through the sidecar."""
    async with (
        Origin(json_ok) as origin,
        guarded(origin.url, {"breaker.mode": "forced_open"}) as side,
    ):
        assert_refusal(await side.ask(chat()), "circuit_open", 503, retry=True)
        for method, path in FREE:
            data = request(method, path, b"{}" if method == "POST" else None)
            assert (await side.ask(data, method)).status == 200
        assert len(origin.requests) == len(FREE)


async def test_a_path_in_disguise_is_guarded_all_the_same() -> None:
    """Spellings that a backend would take for an inference do not slip past the limit."""
    async with (
        Origin(json_ok) as origin,
        guarded(origin.url, {"breaker.mode": "forced_open"}) as side,
    ):
        for target in (
            "/v1/chat/completions?x=1",
            "/v1//chat/completions",
            "/v1/chat/completions/",
            "/v1/chat%2Fcompletions",
            "/v1/x/../chat/completions",
            "/V1/Chat/Completions",
            "http://test/v1/chat/completions",
        ):
            refusal = await side.ask(request("POST", target, b"{}"))
            assert refusal.value("x-sidecar-reason") == "circuit_open", target
        assert not origin.requests


async def test_failing_embeddings_leave_chat_alone() -> None:
    """Embeddings have a breaker of their own: it opens, and chat goes on."""

    def answer(got: RawRequest) -> bytes:
        return ERROR_500 if got.target == EMBEDDINGS else JSON_OK

    async with Origin(answering(answer)) as origin, guarded(origin.url) as side:
        for _ in range(5):
            assert (await side.ask(request("POST", EMBEDDINGS, b"{}"))).status == 500
        refusal = await side.ask(request("POST", EMBEDDINGS, b"{}"))
        assert_refusal(refusal, "circuit_open", 503, retry=True)
        assert (await side.ask(chat())).status == 200


async def test_a_full_chat_leaves_embeddings_alone() -> None:
    """Embeddings have slots of their own."""
    async with (
        Origin(Gate()) as origin,
        guarded(origin.url, ONE_SLOT) as side,
        side.client() as busy,
    ):
        await busy.send(chat())
        await origin.wait_for(lambda o: o.in_flight == 1)
        async with side.client() as other:
            await other.send(request("POST", EMBEDDINGS, b"{}"))
            await origin.wait_for(lambda o: o.in_flight == 2)
            assert (side.guard().in_flight, side.guard("embeddings").in_flight) == (1, 1)
            origin.release(2)
            assert (await other.read_response("POST")).status == 200
        assert (await busy.read_response("POST")).status == 200


# -- uploads ---------------------------------------------------------------------------------


async def test_a_slow_uploader_holds_no_slot() -> None:
    """Only a body that has arrived asks for the slot; meanwhile others are served."""
    async with (
        Origin(json_ok) as origin,
        guarded(origin.url, ONE_SLOT) as side,
        side.client() as slow,
    ):
        whole = chat(1, size=1000)
        await slow.send(whole[:-500])
        await side.until(lambda guard: guard.held_bytes > 0)
        assert (side.guard().in_flight, side.guard().waiting) == (0, 0)
        assert (await side.ask(chat(2))).status == 200
        await slow.send(whole[-500:])
        assert (await slow.read_response("POST")).status == 200
        assert [number_of(each.body) for each in origin.requests] == [2, 1]
        assert side.guard().held_bytes == 0


@pytest.mark.parametrize("framing", ["length", "chunked"])
@on_both_loops
async def test_a_body_larger_than_the_buffer_is_passed_on_as_it_arrives(framing: str) -> None:
    """With `queue.body_buffer_bytes` of the body here, the backend gets it and then the rest."""
    hand = Hand()
    body = bytes(range(256)) * 40
    settings = {"queue.body_buffer_bytes": 4000}
    async with (
        Origin(hand) as origin,
        guarded(origin.url, settings) as side,
        side.client() as client,
    ):
        half = len(body) // 2
        if framing == "length":
            first, rest = body[:half], body[half:]
            field = f"Content-Length: {len(body)}"
        else:
            first, rest = chunk(body[:half]), chunk(body[half:]) + b"0\r\nX-Sum: 1\r\n\r\n"
            field = "Transfer-Encoding: chunked"
        head = f"POST {CHAT} HTTP/1.1\r\nHost: test\r\n{field}\r\n\r\n".encode()
        await client.send(head + first)
        await origin.wait_for(lambda o: o.connections and first in o.connections[0].received)
        assert side.guard().in_flight == 1
        await client.send(rest)
        await origin.wait_for(lambda o: o.requests[0].complete)
        assert origin.requests[0].body == body
        assert origin.requests[0].raw_body == first + rest
        hand.finish(origin.connections[0], status_line(200))
        assert (await client.read_response("POST")).status == 200


async def test_bodies_kept_for_those_without_a_slot_are_bounded() -> None:
    """Over `queue.max_bytes` a newcomer is refused; the bytes are free again when one is served."""
    settings = ONE_SLOT | {"queue.max_bytes": 3000, "queue.body_buffer_bytes": 3000}
    async with (
        Origin(Gate()) as origin,
        guarded(origin.url, settings) as side,
        side.client() as first,
        side.client() as second,
    ):
        await first.send(chat(1, size=2000))
        await origin.wait_for(lambda o: o.in_flight == 1)
        await second.send(chat(2, size=2000))
        await side.until_waiting(1)
        assert 2000 < side.guard().held_bytes < 2100, "what was sent on is not held any more"
        refusal = await side.ask(chat(3, size=2000))
        assert_refusal(refusal, "queue_full", 503, retry=True)
        assert "queue.max_bytes" in refusal.json()["error"]["message"]
        origin.release(2)
        assert (await first.read_response("POST")).status == 200
        assert (await second.read_response("POST")).status == 200
        assert (await side.ask_released(origin, chat(4, size=2000))).status == 200


async def test_an_uploader_that_stops_is_given_up() -> None:
    """Nothing of the body for `timers.body_stall_s`: 408, and whatever was held is free again."""
    settings = ONE_SLOT | {"timers.body_stall_s": 0.1, "queue.body_buffer_bytes": 1000}
    async with Origin(Hand()) as origin, guarded(origin.url, settings) as side:
        # before the slot, and with the slot while the rest is passed on
        for sent in (500, 1500):
            async with side.client() as client:
                await client.send(chat(size=3000)[: sent + 200])
                refusal = await client.read_response("POST")
                assert_refusal(refusal, "body_timeout", 408, retry=False)
                assert "timers.body_stall_s" in refusal.json()["error"]["message"]
                await client.wait_closed_by_peer()
        assert side.guard().in_flight == side.guard().held_bytes == 0
        assert len(origin.requests) == 1
        assert side.breaker_state == "closed"


EXPECT = [("Expect", "100-continue")]


def split(data: bytes) -> tuple[bytes, bytes]:
    """A request's head and body."""
    head, _, body = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", body


async def test_the_sidecar_asks_for_the_body_of_a_guarded_request() -> None:
    """`Expect: 100-continue` is answered by the sidecar; the backend is not asked for it again."""
    async with (
        Origin(json_ok) as origin,
        guarded(origin.url) as side,
        side.client() as client,
    ):
        head, body = split(chat(fields=EXPECT))
        await client.send(head)
        assert await client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert not origin.connections
        await client.send(body)
        response = await client.read_response("POST")
        assert (response.status, response.interim) == (200, [])
        assert origin.requests[0].value("expect") is None


async def test_a_refused_request_need_not_send_its_body() -> None:
    """While the breaker is open `Expect: 100-continue` gets the refusal instead of a 100."""
    async with (
        Origin(json_ok) as origin,
        guarded(origin.url, {"breaker.mode": "forced_open"}) as side,
        side.client() as client,
    ):
        await client.send(split(chat(fields=EXPECT))[0])
        refusal = await client.read_response("POST")
        assert_refusal(refusal, "circuit_open", 503, retry=True)
        assert refusal.interim == []
        assert refusal.value("connection") == "close"
        await client.wait_closed_by_peer()


async def test_on_free_routes_the_backend_asks_for_the_body() -> None:
    """`Expect` reaches the backend, and its 100 reaches the client."""
    interim = b"HTTP/1.1 100 Continue\r\nX-From: backend\r\n\r\n"

    async def script(connection: OriginConnection) -> None:
        await connection.read_head()
        connection.send(interim)
        await connection.read_body()
        connection.send(JSON_OK)
        await connection.wait_closed_by_peer()

    async with Origin(script) as origin, guarded(origin.url) as side, side.client() as client:
        head, body = split(request("POST", "/upload", b"x" * 100, EXPECT))
        await client.send(head)
        assert await client.read_head() == interim
        await client.send(body)
        assert (await client.read_response("POST")).status == 200
        assert origin.requests[0].body == body
        assert origin.requests[0].value("expect") == "100-continue"


async def test_on_free_routes_the_backend_may_refuse_the_body() -> None:
    """A final answer instead of the 100 reaches the client, who need not send the body."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_head()
        connection.send(status_line(417))
        await connection.wait_closed_by_peer()

    async with Origin(script) as origin, guarded(origin.url) as side, side.client() as client:
        await client.send(split(request("POST", "/upload", b"x" * 100, EXPECT))[0])
        refusal = await client.read_response("POST")
        assert (refusal.status, refusal.interim) == (417, [])
        assert refusal.value("connection") == "close"
        await client.wait_closed_by_peer()


# -- readers ---------------------------------------------------------------------------------

LARGE = 32 * 1024 * 1024  # more than all socket buffers on the way hold together


async def read_all(client: RawClient) -> int:
    response = await client.read_response("POST")
    assert response.complete
    return len(response.body)


@on_both_loops
async def test_a_slow_reader_keeps_its_slot_until_its_bytes_are_in_the_socket() -> None:
    """The next request is let in when the answer has left the sidecar, not before."""
    answer = status_line(200, body=bytes(LARGE))
    async with (
        Origin(respond(answer)) as origin,
        guarded(origin.url, ONE_SLOT) as side,
        side.client() as slow,
        side.client() as next_one,
    ):
        await slow.send(chat(1))
        await slow.read_head()
        slow.pause_reading()
        await next_one.send(chat(2))
        await side.until_waiting(1)
        await asyncio.sleep(0.2)  # nothing happens, for as long as nothing is read
        assert (side.guard().in_flight, side.guard().waiting) == (1, 1)
        assert len(origin.requests) == 1
        kept_bytes = sum(
            each.transport.get_write_buffer_size()
            for each in side.sidecar.proxy.handler.connections
        )
        assert kept_bytes < 1024 * 1024, "the backend is slowed down, the answer is not piled up"
        slow.resume_reading()
        assert len(await slow.read_exactly(LARGE)) == LARGE
        assert await read_all(next_one) == LARGE


@on_both_loops
async def test_a_reader_that_stopped_loses_its_slot() -> None:
    """No byte taken for `timers.write_stall_s`: the exchange ends, and the answer looks cut."""
    answer = status_line(200, body=bytes(LARGE))
    settings = ONE_SLOT | {"timers.write_stall_s": 0.2}
    async with (
        Origin(respond(answer)) as origin,
        guarded(origin.url, settings) as side,
        side.client() as stopped,
        side.client() as next_one,
    ):
        await stopped.send(chat(1))
        await stopped.read_head()
        stopped.pause_reading()
        await next_one.send(chat(2))
        assert await read_all(next_one) == LARGE
        stopped.resume_reading()
        assert len(await stopped.read_until_closed()) < LARGE
        assert stopped.peer_reset
        metrics = await side.metrics()
        assert metrics.value("requests_total", outcome="client_stalled") == 1
        assert metrics.value("breaker_consecutive_failures") == 0
        assert origin.connections[0].peer_closed


async def test_a_reader_that_is_slow_but_steady_gets_its_whole_answer() -> None:
    """`timers.write_stall_s` is for clients that take nothing; who takes a little is not cut."""
    answer = status_line(200, body=bytes(LARGE))
    loop = asyncio.get_running_loop()
    async with (
        Origin(respond(answer)) as origin,
        guarded(origin.url, {"timers.write_stall_s": 0.3}) as side,
    ):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)  # sees each step
            sock.setblocking(False)
            await loop.sock_connect(sock, (side.listen.host, side.listen.port))
            await loop.sock_sendall(sock, chat())
            taken, until_s = 0, loop.time() + 1.0
            while loop.time() < until_s:
                taken += len(await loop.sock_recv(sock, 16 * 1024))
                await asyncio.sleep(0.02)
            assert side.guard().in_flight == 1
            while taken < LARGE:
                taken += len(await loop.sock_recv(sock, 1024 * 1024))
        await side.until(lambda guard: guard.in_flight == 0)
        assert (await side.metrics()).value("requests_total", outcome="ok") == 1
