"""Do classes of routes keep apart what their rules tell apart, from the socket on?"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable, Mapping

import pytest

from tests.e2e.harness import (
    CHAT,
    EMBEDDINGS,
    ERROR_500,
    Guarded,
    answering,
    asked,
    assert_refusal,
    guarded,
    on_both_loops,
    status_line,
)
from tests.support.origin import JSON_OK, Gate, Origin, OriginConnection, RawRequest, chunk, json_ok
from tests.support.raw import Field
from tests.support.wire import RawClient, RawResponse, request

SMALL = "llama-3.2-1b"


def with_classes(classes: object, settings: Mapping[str, object] = {}) -> dict[str, object]:
    """Settings with these classes."""
    return {"classes": json.dumps(classes), **settings}


SMALL_CLASS = {"small": {"models": [SMALL + "*"], "max_concurrent": 1}}


def body_for(model: str, *, pad: int = 0, last: bool = False) -> bytes:
    """A chat's body; the model stands first, or `last` behind so many bytes of messages."""
    messages = {"messages": [{"role": "user", "content": "\\" * pad}]}
    model_member = {"model": model}
    return json.dumps(messages | model_member if last else model_member | messages).encode()


def chat_for(model: str, fields: Iterable[Field] = ()) -> bytes:
    return request("POST", CHAT, body_for(model), fields)


def fails_for(*models: str, target: str = CHAT) -> Origin:
    """A backend that answers 500 for some models on one path, and well for everything else."""

    def answer(asked: RawRequest) -> bytes:
        failing = asked.target == target and asked.json().get("model") in models
        return ERROR_500 if failing else JSON_OK

    return Origin(answering(answer))


async def classes_of(side: Guarded) -> dict[str, float]:
    """How many requests were counted in each class."""
    scrape = await side.metrics()
    names = (*side.sidecar.settings.guards, "free")
    counts = {name: scrape.value("requests_total", route=name) for name in names}
    return {name: count for name, count in counts.items() if count}


async def send_slowly(client: RawClient, data: bytes, size: int) -> None:
    """Send so many bytes at a time, each taken by the kernel before the next."""
    for at in range(0, len(data), size):
        await client.send(data[at : at + size])
        await asyncio.sleep(0)


# -- apart ------------------------------------------------------------------------------------


async def test_a_failing_embedding_model_opens_only_its_own_class() -> None:
    """Chat goes on while embeddings are refused, and so do embeddings of another model."""
    classes = {"bge": {"routes": [f"POST {EMBEDDINGS}"], "models": ["bge-*"]}}
    settings = with_classes(classes, {"breaker.failure_threshold": 2})
    async with (
        fails_for("bge-m3", target=EMBEDDINGS) as origin,
        guarded(origin.url, settings) as side,
    ):
        failing = request("POST", EMBEDDINGS, body_for("bge-m3"))
        for _ in range(2):
            assert (await side.ask(failing)).status == 500
        assert_refusal(await side.ask(failing), "circuit_open", 503, retry=True)
        assert (await side.ask(chat_for("big"))).status == 200
        assert (await side.ask(request("POST", EMBEDDINGS, body_for("other")))).status == 200
        states = {
            name: guard.breaker.state.value
            for guard in side.sidecar.snapshots()
            if guard.breaker is not None
            for name in (guard.name,)
        }
        assert states == {"inference": "closed", "embeddings": "closed", "bge": "open"}
        assert len(origin.requests) == 4
        assert await classes_of(side) == {"bge": 3, "inference": 1, "embeddings": 1}


async def test_a_full_class_does_not_hold_up_the_others() -> None:
    """While the small model's slot and queue are full, the big one's are free."""
    classes = {"small": {**SMALL_CLASS["small"], "queue": {"max_waiting": 0}}}
    async with Origin(Gate()) as origin, guarded(origin.url, with_classes(classes)) as side:
        running = asyncio.create_task(side.ask(chat_for(SMALL)))
        await asked(origin, 1)
        assert_refusal(await side.ask(chat_for(SMALL)), "queue_full", 503, retry=True)
        big = asyncio.create_task(side.ask(chat_for("big")))
        await asked(origin, 2)  # before a slot of the other class is free again
        origin.release(2)
        assert [(await one).status for one in (running, big)] == [200, 200]
        assert (side.guard("small").limit, side.guard("inference").limit) == (1, 3)


# -- which class ------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("last", [False, True])
async def test_a_model_rule_chooses_its_class_though_the_body_comes_in_pieces(
    size: int, *, last: bool
) -> None:
    """Where packets end says nothing; the backend gets every byte as it was sent."""
    body = body_for(SMALL + "-instruct", pad=300, last=last)
    async with (
        Origin(json_ok) as origin,
        guarded(origin.url, with_classes(SMALL_CLASS)) as side,
        side.client() as client,
    ):
        await send_slowly(client, request("POST", CHAT, body), size)
        assert (await client.read_response("POST")).status == 200
        assert origin.requests[0].body == body
        assert await classes_of(side) == {"small": 1}


async def test_a_model_in_a_chunked_body_is_read_without_the_framing() -> None:
    """Clients that stream their upload get the same class, and their chunks arrive as sent."""
    body = body_for(SMALL, pad=50, last=True)
    framed = b"".join(chunk(body[at : at + 5]) for at in range(0, len(body), 5)) + b"0\r\n\r\n"
    head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with (
        Origin(json_ok) as origin,
        guarded(origin.url, with_classes(SMALL_CLASS)) as side,
        side.client() as client,
    ):
        await send_slowly(client, head + framed, 11)
        assert (await client.read_response("POST")).status == 200
        assert origin.requests[0].raw_body == framed
        assert await classes_of(side) == {"small": 1}


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[{"model":"llama-3.2-1b"}]}',
        b'{"model":"another"}',
        b'{"model":null}',
        b"model=llama-3.2-1b",
        b"",
    ],
)
async def test_a_body_without_the_model_falls_to_the_rule_without_model(body: bytes) -> None:
    """No JSON, no model, another model: the class that guarded the path before."""
    async with Origin(json_ok) as origin, guarded(origin.url, with_classes(SMALL_CLASS)) as side:
        assert (await side.ask(request("POST", CHAT, body))).status == 200
        assert await classes_of(side) == {"inference": 1}


async def test_the_whole_upload_is_not_waited_for_once_the_prefix_is_here() -> None:
    """A long upload asks for its slot in the class that its beginning names."""
    settings = with_classes(
        SMALL_CLASS, {"routes.model_prefix_bytes": 1024, "queue.body_buffer_bytes": 2048}
    )
    body = body_for(SMALL, pad=5000)
    async with (
        Origin(json_ok) as origin,
        guarded(origin.url, settings) as side,
        side.client() as client,
    ):
        message = request("POST", CHAT, body)
        await client.send(message[:4000])
        await side.until(lambda guard: guard.in_flight == 1, "small")
        assert side.guard("small").held_bytes == side.guard("inference").held_bytes == 0
        await client.send(message[4000:])
        assert (await client.read_response("POST")).status == 200
        assert origin.requests[0].body == body


async def test_a_model_behind_the_prefix_is_not_found() -> None:
    """What stands further back than is read falls to the rule without model, as documented."""
    settings = with_classes(SMALL_CLASS, {"routes.model_prefix_bytes": 1024})
    async with Origin(json_ok) as origin, guarded(origin.url, settings) as side:
        for last in (True, False):
            body = body_for(SMALL, pad=5000, last=last)
            assert (await side.ask(request("POST", CHAT, body))).status == 200
        assert await classes_of(side) == {"inference": 1, "small": 1}


async def test_a_model_in_the_path_needs_no_body() -> None:
    """Gemini's paths choose the class before the upload."""
    classes = {"flash": {"models": ["gemini-*-flash"]}}
    async with Origin(json_ok) as origin, guarded(origin.url, with_classes(classes)) as side:
        for model in ("gemini-2-flash", "gemini-2-pro"):
            target = f"/v1beta/models/{model}:generateContent"
            assert (await side.ask(request("POST", target, b"{}"))).status == 200
        assert await classes_of(side) == {"flash": 1, "inference": 1}


async def test_other_models_of_an_unguarded_path_pass_freely() -> None:
    """A class on a path that nothing else guards takes its models, and holds up no others."""
    classes = {"small": {"routes": ["POST /own"], "models": [SMALL], "max_concurrent": 1}}
    async with (
        Origin(Gate()) as origin,
        guarded(origin.url, with_classes(classes, {"queue.max_waiting": 0})) as side,
    ):
        running = asyncio.create_task(side.ask(request("POST", "/own", body_for(SMALL))))
        await asked(origin, 1)
        assert_refusal(
            await side.ask(request("POST", "/own", body_for(SMALL))), "queue_full", 503, retry=True
        )
        other = request("POST", "/own", body_for("other", pad=1000))
        async with side.client() as client:
            await client.send(other[:-1])
            await side.until(lambda guard: guard.held_bytes, "small")
            await client.send(other[-1:])
            await asked(origin, 2)
            origin.release(2)
            assert (await client.read_response("POST")).status == 200
        assert (await running).status == 200
        assert await classes_of(side) == {"small": 2, "free": 1}


async def test_expect_continue_is_answered_before_the_model_is_known() -> None:
    """A client that waits for 100 Continue is not left waiting for its class."""
    body = body_for(SMALL)
    message = request("POST", CHAT, body, [("Expect", "100-continue")])
    async with (
        Origin(json_ok) as origin,
        guarded(origin.url, with_classes(SMALL_CLASS)) as side,
        side.client() as client,
    ):
        await client.send(message[: -len(body)])
        assert (await client.stream.read_head()).startswith(b"HTTP/1.1 100 ")
        await client.send(body)
        assert (await client.read_response("POST")).status == 200
        assert origin.requests[0].body == body
        assert origin.requests[0].value("expect") is None
        assert await classes_of(side) == {"small": 1}


# -- while the class is open ------------------------------------------------------------------


async def test_a_client_that_leaves_before_its_model_is_known_leaves_nothing() -> None:
    """Its bytes are given back, and it is counted in the class that it was in so far."""
    message = chat_for(SMALL)
    async with Origin(json_ok) as origin, guarded(origin.url, with_classes(SMALL_CLASS)) as side:
        async with side.client() as client:
            await client.send(message[:-5])
            await side.until(lambda _: any(guard.held_bytes for guard in side.sidecar.snapshots()))
        await side.until(lambda _: not any(g.held_bytes for g in side.sidecar.snapshots()))
        counted = (await side.metrics()).by_label("client_cancels_total", "route")
        assert counted == {"inference": 1}
        assert not origin.requests


async def test_nothing_is_uploaded_when_every_class_refuses() -> None:
    """A request that would be refused whatever its model is refused at its head."""
    classes = {"small": {"models": [SMALL], "breaker": "inference"}}
    settings = with_classes(classes, {"breaker.failure_threshold": 1})
    async with fails_for("big") as origin, guarded(origin.url, settings) as side:
        assert (await side.ask(chat_for("big"))).status == 500
        async with side.client() as client:
            await client.send(chat_for(SMALL)[:-5])
            refused = await client.read_response("POST")
        assert_refusal(refused, "circuit_open", 503, retry=True)
        assert len(origin.requests) == 1


async def test_a_full_class_refuses_nobody_whose_model_is_not_known_yet() -> None:
    """A flood in one class cannot keep the others' requests from saying what they are."""
    classes = {"small": {"models": [SMALL], "queue": {"max_bytes": 1_048_576}}}
    settings = with_classes(
        classes, {"queue.max_bytes": 300_000, "queue.body_buffer_bytes": 200_000}
    )
    message = chat_for(SMALL)
    async with Origin(json_ok) as origin, guarded(origin.url, settings) as side:
        inference, small = (side.sidecar._guards[name] for name in ("inference", "small"))
        inference.hold_bytes(300_000)
        async with side.client() as client:
            await client.send(message[:-5])
            await side.until(lambda guard: guard.held_bytes, "small")
            await client.send(message[-5:])
            assert (await client.read_response("POST")).status == 200
        small.hold_bytes(1_048_576)
        async with side.client() as client:
            await client.send(message[:-5])
            refused = await client.read_response("POST")
        assert_refusal(refused, "queue_full", 503, retry=True)
        inference.release_bytes(300_000)
        small.release_bytes(1_048_576)
        assert len(origin.requests) == 1


async def test_a_broken_body_is_refused_before_its_model_is_known() -> None:
    """Malformed framing gets its 400, not a class."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with Origin(json_ok) as origin, guarded(origin.url, with_classes(SMALL_CLASS)) as side:
        async with side.client() as client:
            await client.send(head + b'5\r\n{"mod\r\n')
            await client.send(b"nonsense\r\n")
            assert_refusal(await client.read_response("POST"), "bad_request", 400, retry=False)
        assert not origin.requests


# -- breakers and time-outs -------------------------------------------------------------------


async def test_a_shared_breaker_refuses_the_waiting_of_all_its_classes_at_once() -> None:
    """Nobody who waits in another class reaches the backend that has just failed."""
    classes = {"small": {"models": [SMALL], "max_concurrent": 1, "breaker": "inference"}}
    settings = with_classes(classes, {"breaker.failure_threshold": 1, "queue.timeout_s": 25})

    async def script(connection: OriginConnection) -> None:
        asked = await connection.read_request()
        if asked.json()["model"] == "big":
            connection.send(ERROR_500)
            connection.answered()
        await connection.wait_closed_by_peer()

    async with Origin(script) as origin, guarded(origin.url, settings) as side:
        running = asyncio.create_task(side.ask(chat_for(SMALL)))
        await asked(origin, 1)
        waiting = [asyncio.create_task(side.ask(chat_for(SMALL))) for _ in range(3)]
        await side.until(lambda guard: guard.waiting == 3, "small")
        assert (await side.ask(chat_for("big"))).status == 500
        for answer in await asyncio.gather(*waiting):
            assert_refusal(answer, "circuit_open", 503, retry=True)
        assert len(origin.requests) == 2
        scrape = await side.metrics()
        assert scrape.by_label("breaker_transitions_total", "route") == {"inference": 1}
        assert scrape.by_label("breaker_state", "route", state="open") == {"inference": 1}
        assert scrape.by_label("refusals_total", "route") == {"small": 3}
        status = {guard["name"]: guard for guard in (await side.status())["guards"]}
        assert status["small"]["breaker"]["state"] == "open"
        assert status["small"]["breaker_of"] == "inference"
        assert status["upgrade"]["breaker_of"] is None
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_a_class_without_breaker_never_refuses_for_the_backends_sake() -> None:
    """`breaker: none` passes every failure on."""
    classes = {"small": {"models": [SMALL], "breaker": "none"}}
    settings = with_classes(classes, {"breaker.failure_threshold": 1})
    async with fails_for(SMALL) as origin, guarded(origin.url, settings) as side:
        for _ in range(4):
            assert (await side.ask(chat_for(SMALL))).status == 500
        assert (await side.ask(chat_for("big"))).status == 200


async def silent(connection: OriginConnection) -> None:
    """Take each request and say nothing."""
    await connection.read_request()
    await connection.wait_closed_by_peer()


async def test_each_class_has_its_own_time_outs() -> None:
    """The small model's request is given up while the big one's still may take its time."""
    classes = {"small": {"models": [SMALL], "timers": {"first_event_s": 0.05}}}
    async with Origin(silent) as origin, guarded(origin.url, with_classes(classes)) as side:
        big = asyncio.create_task(side.ask(chat_for("big")))
        await asked(origin, 1)
        answer = await side.ask(chat_for(SMALL))
        assert_refusal(answer, "upstream_timeout", 504, retry=False)
        assert "no data within 0.05 s" in answer.json()["error"]["message"]
        assert side.guard("inference").in_flight == 1
        big.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await big


async def test_a_long_prompt_may_take_longer_to_its_first_word() -> None:
    """The time-out grows with the body's size, and says how long it was."""
    settings = {"timers.first_event_s": 0.05, "timers.first_event_per_kib_s": 0.01}
    async with Origin(silent) as origin, guarded(origin.url, settings) as side:

        async def within(size: int, path: str = CHAT) -> str:
            answer = await side.ask(request("POST", path, b" " * size))
            assert_refusal(answer, "upstream_timeout", 504, retry=False)
            message: str = answer.json()["error"]["message"]
            return message

        assert "no data within 0.15 s" in await within(10 * 1024)
        assert "no data within 0.05 s" in await within(0)
        assert "no data within 0.06 s" in await within(1024, "/free")


async def test_a_probe_is_not_given_longer_for_a_long_prompt() -> None:
    """`breaker.probe_s` bounds a probe, so that recovery never hangs on the longest prompt."""
    settings = {
        "breaker.failure_threshold": 1,
        "breaker.open_s": 0.05,
        "breaker.probe_s": 0.1,
        "timers.first_event_per_kib_s": 1,
    }
    async with (
        Origin(answering(lambda _: status_line(500))) as origin,
        guarded(origin.url, settings) as side,
    ):
        assert (await side.ask(chat_for("big"))).status == 500
        origin.script = silent
        for connection in origin.connections:
            connection.close()
        await side.until(lambda guard: guard.breaker and not guard.breaker.open_remaining_s)
        probe: RawResponse = await side.ask(request("POST", CHAT, b" " * 10_240))
        assert "no data within 0.1 s" in probe.json()["error"]["message"]
