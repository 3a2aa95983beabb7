"""Is a failing backend left alone, and found again when it is back?"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import pytest

from tests.e2e.harness import (
    ERROR_500,
    Guarded,
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
    SSE_HEAD,
    Gate,
    Origin,
    OriginConnection,
    RawRequest,
    Script,
    chunk,
    json_ok,
    respond,
)

TRIPS_AT_ONCE: Mapping[str, object] = {"breaker.failure_threshold": 1, "breaker.open_s": 0.1}


@contextlib.asynccontextmanager
async def tripped(
    script: Script, settings: Mapping[str, object] = TRIPS_AT_ONCE
) -> AsyncIterator[tuple[Origin, Guarded]]:
    """A sidecar whose breaker has just opened after one failure; `script` answers from then on."""
    async with Origin(respond(ERROR_500)) as origin, guarded(origin.url, settings) as side:
        assert (await side.ask(chat())).status == 500
        assert side.breaker_state == "open"
        for connection in origin.connections:
            connection.close()
        await origin.wait_for(lambda o: not o.open_count)
        origin.requests.clear()
        origin.script = script
        yield origin, side


async def until_probing_is_allowed(side: Guarded) -> None:
    await side.until(lambda guard: guard.breaker and not guard.breaker.open_remaining_s)


# -- what opens it ---------------------------------------------------------------------------


def sends(data: bytes, *, then: bytes = b"", reset: bool = False) -> Script:
    """Send these bytes instead of an answer, then (not in one packet) more, then close."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(data)
        await asyncio.sleep(0.01)  # a reset would overtake what was sent just before it
        connection.send(then)
        if reset:
            connection.reset()

    return script


def stays_silent_after(data: bytes) -> Script:
    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(data)
        await connection.wait_closed_by_peer()

    return script


@dataclass(frozen=True)
class Failure:
    """What a backend does wrong, and what comes of it."""

    script: Script
    outcome: str
    status: int
    reason: str = ""  # of the sidecar's own answer; "" where the backend's status was sent on
    settings: Mapping[str, object] = field(default_factory=dict)


FAILURES = {
    "reset_before_the_head": Failure(sends(b"", reset=True), "reset", 502, "upstream_reset"),
    "closed_before_the_head": Failure(sends(b""), "reset", 502, "upstream_reset"),
    "closed_within_the_head": Failure(sends(b"HTTP/1.1 20"), "reset", 502, "upstream_reset"),
    "500": Failure(respond(ERROR_500), "server_error", 500),
    "502": Failure(respond(status_line(502)), "server_error", 502),
    "504": Failure(respond(status_line(504)), "server_error", 504),
    "no_head_in_time": Failure(
        stays_silent_after(b""),
        "first_event_timeout",
        504,
        "upstream_timeout",
        {"timers.first_event_s": 0.1},
    ),
    "no_data_in_time": Failure(
        stays_silent_after(SSE_HEAD), "first_event_timeout", 200, "", {"timers.first_event_s": 0.5}
    ),
    "stalls": Failure(
        stays_silent_after(SSE_HEAD + chunk(b"data: 1\n\n")),
        "stall_timeout",
        200,
        "",
        {"timers.stall_s": 0.1},
    ),
    "short_content_length": Failure(
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), "cut", 200
    ),
    "reset_within_the_body": Failure(
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", reset=True), "cut", 200
    ),
    "no_last_chunk": Failure(sends(SSE_HEAD + chunk(b"data: 1\n\n")), "cut", 200),
    "reset_within_a_stream": Failure(
        sends(SSE_HEAD + chunk(b"data: 1\n\n"), reset=True), "cut", 200
    ),
    "malformed_chunk": Failure(sends(SSE_HEAD + chunk(b"data: 1\n\n"), then=b"zz\r\n"), "cut", 200),
    "malformed_head": Failure(
        sends(b"HTTP/1.1 two hundred\r\n\r\n"), "bad_response", 502, "upstream_bad_response"
    ),
    "no_http": Failure(
        sends(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "bad_response", 502, "upstream_bad_response"
    ),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_the_fifth_failure_in_a_row_opens_the_circuit(name: str) -> None:
    """Four are forgiven; after the fifth the backend is not asked any more."""
    failure = FAILURES[name]
    settings = {"max_concurrent": 5, **failure.settings}
    async with Origin(failure.script) as origin, guarded(origin.url, settings) as side:
        answers = await asyncio.gather(*(side.ask(chat(number)) for number in range(4)))
        assert side.breaker_state == "closed"
        answers.append(await side.ask(chat(4)))
        assert side.breaker_state == "open"
        for answer in answers:
            if failure.reason:
                assert_refusal(answer, failure.reason, failure.status, retry=False)
            else:
                assert answer.status == failure.status
                assert answer.complete is (answer.status != 200), "a cut answer looks cut"
        refusal = await side.ask(chat(5))
        assert_refusal(refusal, "circuit_open", 503, retry=True)
        assert len(origin.requests) == 5
        breaker = (await side.status())["guards"][0]["breaker"]
        assert (breaker["state"], breaker["trip_reason"]) == ("open", failure.outcome)
        metrics = await side.metrics()
        assert metrics.by_label("requests_total", "outcome") == {failure.outcome: 5, "refused": 1}
        assert metrics.by_label("breaker_transitions_total", "reason") == {
            "consecutive_failures": 1
        }
        assert metrics.by_label("breaker_state", "state", route="inference") == {"open": 1}


async def test_refused_connections_open_the_circuit() -> None:
    """A backend that is down is a failure of its own, told as `upstream_unreachable`."""
    async with Origin(json_ok) as origin:
        await origin.stop()
        async with guarded(origin.url) as side:
            for _ in range(5):
                assert side.breaker_state == "closed"
                answer = await side.ask(chat())
                assert_refusal(answer, "upstream_unreachable", 502, retry=False)
            assert_refusal(await side.ask(chat()), "circuit_open", 503, retry=True)
            assert (await side.metrics()).value("requests_total", outcome="connect_failed") == 5


async def test_a_connection_that_does_not_come_up_in_time_is_a_failure() -> None:
    """`timers.connect_s` bounds the TLS handshake too."""

    async def silent(connection: OriginConnection) -> None:
        await connection.wait_closed_by_peer()

    settings = {"timers.connect_s": 0.1, "breaker.failure_threshold": 1}
    async with (
        Origin(silent) as origin,
        guarded(origin.url.replace("http:", "https:"), settings) as side,
    ):
        answer = await side.ask(chat())
        assert_refusal(answer, "upstream_timeout", 504, retry=False)
        assert "timers.connect_s" in answer.json()["error"]["message"]
        assert side.breaker_state == "open"
        await origin.connections[0].wait_closed_by_peer()


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 501, 503, 505, 529])
async def test_an_answer_that_does_not_speak_of_failure_is_not_counted(status: int) -> None:
    """Mistakes of clients and a busy backend neither open the circuit nor forgive failures."""

    def answer(got: RawRequest) -> bytes:
        return status_line(status) if number_of(got.body) else ERROR_500

    async with Origin(answering(answer)) as origin, guarded(origin.url) as side:
        for _ in range(4):
            assert (await side.ask(chat(0))).status == 500
        for _ in range(6):
            assert (await side.ask(chat(1))).status == status
        assert side.breaker_state == "closed"
        assert (await side.ask(chat(0))).status == 500
        assert side.breaker_state == "open"


async def test_one_success_forgives_all_failures_before_it() -> None:
    """Only failures in a row open the circuit."""

    def answer(got: RawRequest) -> bytes:
        return JSON_OK if number_of(got.body) else ERROR_500

    async with Origin(answering(answer)) as origin, guarded(origin.url) as side:
        for number in (0, 0, 0, 0, 1, 0, 0, 0, 0):
            assert (await side.ask(chat(number))).status == (200 if number else 500)
        assert side.breaker_state == "closed"


# -- while it is open ------------------------------------------------------------------------


@on_both_loops
async def test_those_who_wait_are_refused_when_the_circuit_opens() -> None:
    """Nobody who waited is sent into the failing backend, and nobody waits for nothing."""
    settings = {"max_concurrent": 1, "breaker.failure_threshold": 1}
    async with (
        Origin(Hand()) as origin,
        guarded(origin.url, settings) as side,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(side.client()) for _ in range(6)]
        for count, client in enumerate(clients):
            await client.send(chat(count))
            await side.until_waiting(count)
        backend = await asked(origin, 1)
        backend.reset()
        first, *others = [await client.read_response("POST") for client in clients]
        assert_refusal(first, "upstream_reset", 502, retry=False)
        for other in others:
            assert_refusal(other, "circuit_open", 503, retry=True)
            assert other.value("x-sidecar-queue-ms")
        assert [number_of(each.body) for each in origin.requests] == [0]


async def test_a_refusal_takes_less_than_ten_milliseconds() -> None:
    """While the circuit is open callers hear it at once (the median: busy machines have peaks)."""
    async with (
        tripped(json_ok, {"breaker.failure_threshold": 1}) as (_, side),
        side.client() as client,
    ):
        times_s = []
        for _ in range(50):
            began_s = time.perf_counter()
            await client.send(chat())
            assert (await client.read_response("POST")).status == 503
            times_s.append(time.perf_counter() - began_s)
        assert statistics.median(times_s) < 0.010


@pytest.mark.parametrize(("open_s", "least", "most"), [(60, 66, 72), (10, 11, 12), (0.5, 1, 1)])
async def test_a_refusal_tells_when_the_next_probe_may_pass(
    open_s: float, least: int, most: int
) -> None:
    """Retry-After is the rest of the open time and 10 to 20 % on top, at least one second."""
    settings = {"breaker.failure_threshold": 1, "breaker.open_s": open_s}
    async with tripped(json_ok, settings) as (_, side):
        refusal = await side.ask(chat())
        assert_refusal(refusal, "circuit_open", 503, retry=True)
        assert least <= int(refusal.value("retry-after") or 0) <= most
        breaker = (await side.status())["guards"][0]["breaker"]
        assert 0 < breaker["open_remaining_s"] <= open_s


# -- finding out whether the backend is back ---------------------------------------------------


@on_both_loops
async def test_after_the_open_time_exactly_one_request_probes() -> None:
    """All others are refused with `probing`, until the first data closes the circuit again."""
    hand = Hand()
    async with tripped(hand) as (origin, side), side.client() as probe:
        await until_probing_is_allowed(side)
        await probe.send(chat(1))
        backend = await asked(origin, 1)
        assert side.breaker_state == "half_open"
        answers = await asyncio.gather(*(side.ask(chat(2)) for _ in range(10)))
        for answer in answers:
            assert_refusal(answer, "probing", 503, retry=True)
            assert int(answer.value("retry-after") or 0) <= 6
        assert (await side.status())["guards"][0]["permits"][0]["probe"] is True
        assert len(origin.requests) == 1
        start_stream(backend)
        await probe.read_head()
        await probe.read_chunk()
        assert side.breaker_state == "closed", "recovery need not wait for the last byte"
        async with side.client() as other:
            await other.send(chat(3))
            hand.finish(await asked(origin, 2), status_line(200))
            assert (await other.read_response("POST")).status == 200
        hand.finish(backend, LAST_CHUNK)
        assert await probe.read_chunk() == b""
        assert side.breaker_state == "closed"
        metrics = await side.metrics()
        assert metrics.by_label("breaker_transitions_total", "reason") == {
            "consecutive_failures": 1,
            "open_time_over": 1,
            "probe_succeeded": 1,
        }


async def test_a_plain_answer_to_the_probe_closes_the_circuit() -> None:
    """Traffic flows again after one success."""
    async with tripped(json_ok) as (_, side):
        await until_probing_is_allowed(side)
        answers = [await side.ask(chat(number)) for number in range(3)]
        assert [answer.status for answer in answers] == [200] * 3
        assert side.breaker_state == "closed"


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_failed_probe_opens_the_circuit_again(status: int) -> None:
    """A backend that is still failing, or still too busy, gets another `breaker.open_s` of rest."""
    async with tripped(respond(status_line(status))) as (origin, side):
        await until_probing_is_allowed(side)
        assert (await side.ask(chat())).status == status
        assert side.breaker_state == "open"
        assert_refusal(await side.ask(chat()), "circuit_open", 503, retry=True)
        assert len(origin.requests) == 1
        metrics = await side.metrics()
        assert metrics.value("breaker_transitions_total", reason="probe_failed") == 1


async def test_a_probe_that_says_nothing_leaves_the_question_open() -> None:
    """A 404 neither closes nor opens: the next request probes."""

    def answer(got: RawRequest) -> bytes:
        return JSON_OK if number_of(got.body) else status_line(404)

    async with tripped(answering(answer)) as (_, side):
        await until_probing_is_allowed(side)
        assert (await side.ask(chat(0))).status == 404
        assert side.breaker_state == "half_open"
        assert (await side.ask(chat(1))).status == 200
        assert side.breaker_state == "closed"


async def test_a_client_that_leaves_its_probe_frees_the_place() -> None:
    """Somebody who hangs up cannot keep everybody else out."""
    hand = Hand()
    async with tripped(hand) as (origin, side):
        await until_probing_is_allowed(side)
        async with side.client() as leaver:
            await leaver.send(chat())
            await asked(origin, 1)
        await side.until(lambda guard: guard.in_flight == 0)
        assert side.breaker_state == "half_open"
        async with side.client() as next_one:
            await next_one.send(chat())
            hand.finish(await asked(origin, 2), status_line(200))
            assert (await next_one.read_response("POST")).status == 200
        assert side.breaker_state == "closed"


async def test_a_probe_that_hangs_opens_the_circuit_again() -> None:
    """`breaker.probe_s` without data ends the probe, however long `timers.first_event_s` is."""
    async with tripped(Hand(), {**TRIPS_AT_ONCE, "breaker.probe_s": 0.15}) as (origin, side):
        await until_probing_is_allowed(side)
        answer = await side.ask(chat())
        assert_refusal(answer, "upstream_timeout", 504, retry=False)
        assert side.breaker_state == "open"
        await origin.requests[0].connection.wait_closed_by_peer()
        assert_refusal(await side.ask(chat()), "circuit_open", 503, retry=True)


async def test_several_probes_may_be_asked_for() -> None:
    """`breaker.probes` at a time, `breaker.probe_successes` of them close the circuit."""
    settings = {**TRIPS_AT_ONCE, "breaker.probes": 2, "breaker.probe_successes": 2}
    async with (
        tripped(Gate(), settings) as (origin, side),
        side.client() as first,
        side.client() as second,
    ):
        await until_probing_is_allowed(side)
        for count, client in enumerate((first, second), 1):
            await client.send(chat())
            await asked(origin, count)
        assert_refusal(await side.ask(chat()), "probing", 503, retry=True)
        origin.release()
        assert (await first.read_response("POST")).status == 200
        assert side.breaker_state == "half_open"
        origin.release()
        assert (await second.read_response("POST")).status == 200
        assert side.breaker_state == "closed"


@pytest.mark.parametrize("ends_well", [True, False])
async def test_results_from_before_the_outage_are_late(ends_well: bool) -> None:
    """An old answer neither closes an open circuit nor harms one closed since; it is counted."""
    hand = Hand()
    async with (
        Origin(hand) as origin,
        guarded(origin.url, TRIPS_AT_ONCE) as side,
        side.client() as early,
        side.client() as later,
        side.client() as failing,
    ):
        for count, client in enumerate((early, later), 1):
            await client.send(chat())
            start_stream(await asked(origin, count))
            await client.read_head()
        await failing.send(chat())
        hand.finish(await asked(origin, 3), ERROR_500)
        assert (await failing.read_response("POST")).status == 500
        assert side.breaker_state == "open"
        hand.finish(origin.requests[0].connection, LAST_CHUNK)
        assert (await early.read_chunk(), await early.read_chunk()) == (b"data: 1\n\n", b"")
        assert side.breaker_state == "open"
        assert (await side.metrics()).value("late_results_total") == 1

        await until_probing_is_allowed(side)
        async with side.client() as probe:
            await probe.send(chat())
            hand.finish(await asked(origin, 4), status_line(200))
            assert (await probe.read_response("POST")).status == 200
        assert side.breaker_state == "closed"
        if ends_well:
            hand.finish(origin.requests[1].connection, LAST_CHUNK)
        else:
            origin.requests[1].connection.reset()
        await later.read_until_closed() if not ends_well else await later.read_until(LAST_CHUNK)
        await side.until(lambda guard: guard.in_flight == 0)
        assert side.breaker_state == "closed"
        assert (await side.metrics()).value("late_results_total") == 2


# -- operators -------------------------------------------------------------------------------


async def test_an_operator_may_keep_the_circuit_open() -> None:
    """`breaker.mode: forced_open` refuses everything; time does not change that."""
    settings = {"breaker.mode": "forced_open", "breaker.open_s": 0.05}
    async with Origin(json_ok) as origin, guarded(origin.url, settings) as side:
        for _ in range(3):
            refusal = await side.ask(chat())
            assert_refusal(refusal, "circuit_open", 503, retry=True)
            await asyncio.sleep(0.05)
        assert not origin.connections
        metrics = await side.metrics()
        assert metrics.by_label("breaker_mode", "mode", route="inference") == {"forced_open": 1}


async def test_an_operator_may_only_watch() -> None:
    """`breaker.mode: observe` decides and counts, and refuses nothing."""
    settings = {"breaker.mode": "observe"}
    async with Origin(respond(ERROR_500)) as origin, guarded(origin.url, settings) as side:
        for _ in range(8):
            assert (await side.ask(chat())).status == 500
        assert len(origin.requests) == 8
        assert side.breaker_state == "open"
        metrics = await side.metrics()
        assert metrics.value("would_refuse_total", route="inference") == 3
        assert metrics.value("refusals_total") == 0


async def test_an_operator_may_do_without() -> None:
    """`breaker.mode: disabled` neither counts nor refuses."""
    settings = {"breaker.mode": "disabled"}
    async with Origin(respond(ERROR_500)) as origin, guarded(origin.url, settings) as side:
        for _ in range(8):
            assert (await side.ask(chat())).status == 500
        assert len(origin.requests) == 8
        assert side.breaker_state == "closed"
        assert (await side.metrics()).value("breaker_consecutive_failures") == 0
