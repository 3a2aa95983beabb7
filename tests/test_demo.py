"""Does the demo backend speak OpenAI's API, and does it fail exactly as ordered?"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import openai
import pytest
import uvloop

from sidecar.demo.backend import RunningDemo, start_demo
from sidecar.demo.faults import DESCRIPTIONS, Fault
from tests.support.raw import ClosedByPeerError
from tests.support.wire import RawClient, RawResponse, request

TOKENS = 6
ROOT = Path(__file__).parents[1]

CHAT = "/v1/chat/completions"
PLAIN = {"messages": [{"role": "user", "content": "hello there"}]}
STREAMED = {**PLAIN, "stream": True}


@pytest.fixture
async def demo() -> AsyncIterator[RunningDemo]:
    demo = await start_demo(tokens=TOKENS, ms_per_token=0)
    yield demo
    await demo.stop()


@pytest.fixture
async def sdk(demo: RunningDemo) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{demo.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


@pytest.fixture
async def web(demo: RunningDemo) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(demo.url) as session:
        yield session


def raw(demo: RunningDemo) -> RawClient:
    address = urlsplit(demo.url)
    assert address.hostname is not None
    assert address.port is not None
    return RawClient(address.hostname, address.port)


def post(body: object, path: str = CHAT) -> bytes:
    return request("POST", path, json.dumps(body).encode())


async def answer(demo: RunningDemo, body: object, path: str = CHAT) -> RawResponse:
    async with raw(demo) as client:
        await client.send(post(body, path))
        return await client.read_response("POST")


# The real SDK.


async def test_chat_answers_the_sdk(sdk: openai.AsyncOpenAI) -> None:
    """A plain chat completion has text, a finish reason and usage."""
    done = await sdk.chat.completions.create(
        model="any", messages=[{"role": "user", "content": "hello there"}]
    )
    assert done.choices[0].message.content == "This answer comes from the demo"
    assert done.choices[0].finish_reason == "stop"
    assert done.model == "any"
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (2, TOKENS)


async def test_chat_streams_to_the_sdk(sdk: openai.AsyncOpenAI) -> None:
    """A stream has the role, a chunk per token, the finish reason and the usage asked for."""
    stream = await sdk.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "hello there"}],
        max_completion_tokens=4,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    role, *content, finish, usage = chunks
    assert role.choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in content] == [
        "This",
        " answer",
        " comes",
        " from",
    ]
    assert finish.choices[0].finish_reason == "length"
    assert usage.usage is not None
    assert usage.usage.total_tokens == 2 + 4


async def test_completions_answer_the_sdk_both_ways(sdk: openai.AsyncOpenAI) -> None:
    """The older completions endpoint gives the same text plain and streamed."""
    plain = await sdk.completions.create(model="demo", prompt="hello")
    stream = await sdk.completions.create(model="demo", prompt="hello", stream=True)
    pieces = [chunk.choices[0].text async for chunk in stream]
    assert len(pieces) == TOKENS + 1
    assert "".join(pieces) == plain.choices[0].text


async def test_responses_answer_the_sdk_both_ways(sdk: openai.AsyncOpenAI) -> None:
    """The responses endpoint gives the same text plain and as events that the SDK assembles."""
    plain = await sdk.responses.create(model="demo", input="hello there")
    assert plain.status == "completed"
    async with sdk.responses.stream(model="demo", input="hello there") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds.count("response.output_text.delta") == TOKENS
    assert kinds[-1] == "response.completed"
    assert final.output_text == plain.output_text != ""
    cut = await sdk.responses.create(model="demo", input="hello", max_output_tokens=2)
    assert cut.status == "incomplete"


async def test_embeddings_answer_the_sdk(sdk: openai.AsyncOpenAI) -> None:
    """Vectors have the size asked for, are the same for the same input, as floats and base64."""
    packed = await sdk.embeddings.create(model="demo", input=["a", "b"], dimensions=8)
    floats = await sdk.embeddings.create(
        model="demo", input="a", dimensions=8, encoding_format="float"
    )
    assert len(packed.data) == 2
    assert packed.data[0].embedding == floats.data[0].embedding
    assert packed.data[0].embedding != packed.data[1].embedding
    assert len(floats.data[0].embedding) == 8


async def test_models_are_listed_to_the_sdk(sdk: openai.AsyncOpenAI) -> None:
    """There is one model."""
    assert [model.id async for model in sdk.models.list()] == ["demo"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.ERROR_500, openai.InternalServerError),
        (Fault.ERROR_503, openai.InternalServerError),
        (Fault.ERROR_429, openai.RateLimitError),
        (Fault.LOADING, openai.InternalServerError),
        (Fault.RESET, openai.APIConnectionError),
        (Fault.CUT, openai.APIConnectionError),
        (Fault.SHORT, openai.APIConnectionError),
    ],
)
async def test_the_sdk_raises_its_own_errors(
    demo: RunningDemo, sdk: openai.AsyncOpenAI, fault: Fault, expected: type[Exception]
) -> None:
    """Each failing answer is what the SDK takes for that failure; the next request is well."""
    demo.backend.faults.set(fault, count=1)
    with pytest.raises(expected):
        await sdk.embeddings.create(model="demo", input="a")
    assert (await sdk.embeddings.create(model="demo", input="a")).data


async def test_an_error_within_a_stream_reaches_the_sdk(
    demo: RunningDemo, sdk: openai.AsyncOpenAI
) -> None:
    """The SDK gets tokens, then an error."""
    demo.backend.faults.set(Fault.ERROR_IN_STREAM, after_tokens=2)
    stream = await sdk.completions.create(model="demo", prompt="hello", stream=True)
    chunks = aiter(stream)
    assert [(await anext(chunks)).choices[0].text for _ in range(2)] == ["This", " answer"]
    with pytest.raises(openai.APIError, match="failed while it was answering"):
        await anext(chunks)


# On the wire.


async def test_events_are_written_one_by_one(demo: RunningDemo) -> None:
    """Every event is a chunk of its own and the last one is [DONE]."""
    response = await answer(demo, STREAMED)
    assert response.value("content-type") == "text/event-stream"
    assert response.complete
    assert len(response.chunks) == 1 + TOKENS + 1
    assert response.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("fault", [Fault.ERROR_503, Fault.ERROR_429])
async def test_busy_answers_say_when_to_come_back(demo: RunningDemo, fault: Fault) -> None:
    """503 and 429 carry Retry-After and OpenAI's error shape."""
    demo.backend.faults.set(fault)
    response = await answer(demo, PLAIN)
    assert response.status == int(fault.removeprefix("error_"))
    assert response.value("retry-after") == "1"
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}


async def test_loading_shows_on_health_too(demo: RunningDemo, web: aiohttp.ClientSession) -> None:
    """A model that is loading is neither healthy nor ready, and says so as llama.cpp does."""
    for path in ("/health", "/readyz"):
        assert (await web.get(path)).status == 200
    demo.backend.faults.set(Fault.LOADING)
    for path in ("/health", "/readyz"):
        response = await web.get(path)
        assert response.status == 503
        assert (await response.json())["error"]["message"] == "Loading model"


async def see_cuts() -> None:
    demo = await start_demo(tokens=TOKENS, ms_per_token=0)
    for body in (PLAIN, STREAMED):
        for fault, is_reset in ((Fault.CUT, True), (Fault.SHORT, False)):
            demo.backend.faults.set(fault, count=1)
            async with raw(demo) as client:
                await client.send(post(body))
                response = await client.read_response("POST")
                assert response.status == 200
                assert response.body
                assert not response.complete
                assert client.peer_reset is is_reset
    demo.backend.faults.set(Fault.RESET, count=1)
    async with raw(demo) as client:
        await client.send(post(PLAIN))
        with pytest.raises(ClosedByPeerError):
            await client.read_response("POST")
        assert client.peer_reset
        assert not client.received
    assert demo.backend.stats.together.in_flight == 0
    assert demo.backend.stats.together.aborted_by_client == 0
    await demo.stop()


async def test_cut_answers_are_cut_as_ordered() -> None:
    """A cut or reset ends with RST, short with FIN; none is counted as a client's leaving."""
    await see_cuts()


def test_cut_answers_are_cut_as_ordered_on_uvloop() -> None:
    """The same on uvloop."""
    uvloop.run(see_cuts())


async def test_a_stream_may_end_without_saying_so(demo: RunningDemo) -> None:
    """no_done ends the framing cleanly, with neither finish reason nor [DONE]."""
    demo.backend.faults.set(Fault.NO_DONE, after_tokens=2)
    response = await answer(demo, STREAMED)
    assert response.complete
    assert len(response.chunks) == 1 + 2
    assert b"[DONE]" not in response.body
    assert b'"finish_reason":"' not in response.body


async def test_an_error_within_a_stream_is_followed_by_done(demo: RunningDemo) -> None:
    """error_in_stream sends an error event, then the end's mark; Responses say `failed`."""
    demo.backend.faults.set(Fault.ERROR_IN_STREAM)
    *_, error, done, _ = (await answer(demo, STREAMED)).body.split(b"\n\n")
    assert error.startswith(b'data: {"error":{')
    assert done == b"data: [DONE]"
    events = (await answer(demo, {"input": "hello", "stream": True}, "/v1/responses")).body
    assert b"event: error\n" in events
    assert events.split(b"\n\n")[-2].startswith(b"event: response.failed\n")


@pytest.mark.parametrize(
    ("fault", "body", "part"),
    [
        (Fault.HANG, PLAIN, b""),
        (Fault.HANG_AFTER_HEAD, PLAIN, b"Content-Length: "),
        (Fault.HANG_AFTER_HEAD, STREAMED, b'"role":"assistant"'),
        (Fault.STALL, PLAIN, b'"choices":'),
        (Fault.STALL, STREAMED, b'" comes"'),
    ],
)
async def test_silence_lasts_until_the_client_leaves(
    demo: RunningDemo, fault: Fault, body: object, part: bytes
) -> None:
    """A hanging backend has sent what it should, and counts the client that gives up."""
    demo.backend.faults.set(fault)
    async with raw(demo) as client:
        await client.send(post(body))
        await client.read_until(part)
        await demo.backend.stats.wait_for(lambda count: count.in_flight)
        assert not client.peer_closed
        client.abort()
        await demo.backend.stats.wait_for(lambda count: count.aborted_by_client)
    assert demo.backend.stats.by_route[CHAT].aborted_by_client == 1
    assert demo.backend.stats.together.in_flight == 0


async def test_stopping_cuts_what_hangs(demo: RunningDemo) -> None:
    """A demo that is told to stop does not wait for a fault to end."""
    demo.backend.faults.set(Fault.HANG_AFTER_HEAD)
    async with raw(demo) as client:
        await client.send(post(STREAMED))
        await client.read_until(b"assistant")
        await demo.stop()
        await client.wait_closed_by_peer()


async def test_slow_is_ten_times_slower() -> None:
    """The fault `slow` stretches the time between tokens."""
    loop = asyncio.get_running_loop()
    demo = await start_demo(tokens=2, ms_per_token=5)
    times_s = []
    for fault in (Fault.NONE, Fault.SLOW):
        demo.backend.faults.set(fault)
        began_s = loop.time()
        await answer(demo, PLAIN)
        times_s.append(loop.time() - began_s)
    await demo.stop()
    assert times_s[0] >= 0.010
    assert times_s[1] >= 0.100


# Switching and counting.


async def test_a_fault_may_be_for_the_next_few_only(web: aiohttp.ClientSession) -> None:
    """With a count the fault ends by itself; requests that are wrong do not use it up."""
    switched = await web.post("/demo/fault", json={"fault": "error_500", "count": 2})
    assert (await switched.json())["count"] == 2
    statuses = [(await web.post(CHAT, json=body)).status for body in (PLAIN, {}, PLAIN, PLAIN)]
    assert statuses == [500, 400, 500, 200]
    shown = await (await web.get("/demo/fault")).json()
    assert (shown["fault"], shown["count"]) == ("none", None)
    assert shown["faults"].keys() == set(Fault)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"fault": "stal"}, "did you mean stall?"),
        ({"fault": "xyz"}, ", ".join(Fault)),
        ({}, ", ".join(Fault)),
        ({"fault": "hang", "times": 2}, "unknown key times; the keys are fault, count"),
        ({"fault": "hang", "count": 0}, "count is a whole number, 1 or more"),
        ({"fault": "hang", "after_tokens": True}, "after_tokens is a whole number, 0 or more"),
    ],
)
async def test_a_wrong_fault_is_refused_with_the_right_names(
    demo: RunningDemo, web: aiohttp.ClientSession, wish: object, said: str
) -> None:
    """400 says what would be right, and nothing is switched."""
    response = await web.post("/demo/fault", json=wish)
    assert response.status == 400
    assert said in (await response.json())["error"]["message"]
    assert demo.backend.faults.current is Fault.NONE


async def test_counts_tell_what_runs_at_once(demo: RunningDemo, web: aiohttp.ClientSession) -> None:
    """In flight, peak and total are right, together and by route."""
    demo.backend.faults.set(Fault.HANG_AFTER_HEAD, count=3)
    async with raw(demo) as a, raw(demo) as b, raw(demo) as c:
        for client in (a, b, c):
            await client.send(post(STREAMED))
            await client.read_until(b"assistant")
        await web.post("/v1/embeddings", json={"input": "a"})
        stats = await (await web.get("/demo/stats")).json()
    assert (stats["in_flight"], stats["peak_in_flight"], stats["total"]) == (3, 4, 4)
    assert stats["routes"][CHAT]["peak_in_flight"] == 3
    assert stats["routes"]["/v1/embeddings"] == {
        "in_flight": 0,
        "peak_in_flight": 1,
        "total": 1,
        "aborted_by_client": 0,
    }


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, "{", None),
        (CHAT, "[]", None),
        (CHAT, "{}", "messages"),
        (CHAT, '{"messages": "hello"}', "messages"),
        (CHAT, '{"messages": [], "max_tokens": 0}', "max_tokens"),
        (CHAT, '{"messages": [], "model": 1}', "model"),
        ("/v1/completions", '{"prompt": 1}', "prompt"),
        ("/v1/responses", '{"input": {}}', "input"),
        ("/v1/embeddings", '{"input": []}', "input"),
        ("/v1/embeddings", '{"input": "a", "dimensions": 100000}', "dimensions"),
    ],
)
async def test_wrong_requests_are_explained(
    web: aiohttp.ClientSession, path: str, body: str, param: str | None
) -> None:
    """400 in OpenAI's shape, with the field at fault."""
    response = await web.post(path, data=body)
    assert response.status == 400
    error = (await response.json())["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_unknown_paths_and_methods_are_explained(web: aiohttp.ClientSession) -> None:
    """404 and 405 are in OpenAI's shape too."""
    assert (await (await web.get("/nothing")).json())["error"]["message"]
    wrong = await web.get(CHAT)
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")
    assert "use POST" in (await wrong.json())["error"]["message"]


async def test_token_lists_and_parts_are_understood(web: aiohttp.ClientSession) -> None:
    """Prompts may come as parts, inputs of embeddings as token numbers."""
    parts = [{"role": "user", "content": [{"type": "text", "text": "one two three"}, {"x": 1}]}]
    chat = await (await web.post(CHAT, json={"messages": parts})).json()
    assert chat["usage"]["prompt_tokens"] == 3
    assert chat["model"] == "demo"
    vectors = await (await web.post("/v1/embeddings", json={"input": [1, 2]})).json()
    assert len(vectors["data"]) == 1


def test_the_document_lists_every_fault_and_route() -> None:
    """docs/demo.md says of each fault what the program says."""
    document = (ROOT / "docs" / "demo.md").read_text()
    for fault, text in DESCRIPTIONS.items():
        assert f"| `{fault}` | {text} |" in document
    assert DESCRIPTIONS.keys() == set(Fault)


# Alone.


def test_it_runs_alone_until_interrupted() -> None:
    """`python -m sidecar.demo` says where it is and ends cleanly; a taken port is one line."""
    command = [sys.executable, "-W", "error", "-m", "sidecar.demo", "--port"]
    with subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line.startswith("demo backend on http://127.0.0.1:")
        port = line.rpartition(":")[2]
        second = subprocess.run(
            [*command, port], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert second.returncode == 1
        assert second.stderr.startswith(f"cannot listen on 127.0.0.1:{port}: ")
        assert second.stderr.count("\n") == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0


@pytest.mark.parametrize("wrong", [["--port", "70000"], ["--tokens", "0"], ["--ms-per-token=-1"]])
def test_wrong_arguments_are_refused(wrong: list[str]) -> None:
    """Wrong use exits with 2 and says why."""
    ended = subprocess.run(
        [sys.executable, "-m", "sidecar.demo", *wrong],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 2
    assert f"argument {wrong[0].split('=')[0]}: " in ended.stderr
