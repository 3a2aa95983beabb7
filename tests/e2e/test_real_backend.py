"""Does all this hold in front of a real model server? llama.cpp with a tiny random model."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.harness import Guarded, guarded, on_both_loops
from tests.support.llama import LlamaServer
from tests.support.wire import RawClient, RawResponse, request

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello there"}]
LONG = 1900  # tokens; about 1.6 s of this model's time on an idle machine


async def ask_directly(server: LlamaServer, path: str) -> RawResponse:
    """Ask the model server past the sidecar."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    async with RawClient(host, int(port)) as client:
        await client.send(request("GET", path))
        return await client.read_response()


async def busy_slots(server: LlamaServer) -> int:
    """How many inferences llama.cpp has in progress."""
    slots: list[dict[str, Any]] = (await ask_directly(server, "/slots")).json()
    return sum(slot["is_processing"] for slot in slots)


async def tokens_generated(server: LlamaServer) -> int:
    """How many tokens llama.cpp has generated since it started, for all requests that ended."""
    text = (await ask_directly(server, "/metrics")).body.decode()
    found = re.search(r"^llamacpp:tokens_predicted_total (\d+)$", text, re.MULTILINE)
    assert found
    return int(found[1])


async def generate(sdk: AsyncOpenAI, tokens: int) -> int:
    """Stream a completion to its end; the number of pieces with text."""
    stream = await sdk.chat.completions.create(
        model="tiny-random",
        messages=HELLO,
        max_tokens=tokens,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    return len([1 async for each in stream if each.choices and each.choices[0].delta.content])


def sdk_for(side: Guarded) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{side.url}/v1", api_key="none", max_retries=0)


@on_both_loops
async def test_plain_and_streamed_answers_of_a_real_model(llama_server: LlamaServer) -> None:
    """Every token comes through; health, model list and metrics of the server too."""
    async with guarded(llama_server.url) as side, sdk_for(side) as sdk:
        plain = await sdk.chat.completions.create(
            model="tiny-random", messages=HELLO, max_tokens=8, extra_body={"ignore_eos": True}
        )
        assert plain.choices[0].message.content
        assert plain.usage is not None
        assert plain.usage.completion_tokens == 8
        assert await generate(sdk, 8) == 8
        assert [model.id async for model in sdk.models.list()] == ["tiny-random"]
        assert (await side.ask(request("GET", "/health"), "GET")).json() == {"status": "ok"}
        metrics = await side.metrics()
        assert metrics.by_label("requests_total", "outcome", route="inference") == {"ok": 2}
        assert metrics.by_label("requests_total", "outcome", route="free") == {"ok": 2}


async def test_a_real_server_never_has_more_than_the_limit_in_progress(
    llama_server: LlamaServer,
) -> None:
    """Six at once on a limit of two: the server's own slots say that two ran at a time."""
    async with guarded(llama_server.url, {"max_concurrent": 2}) as side, sdk_for(side) as sdk:
        calls = asyncio.gather(*(generate(sdk, 200) for _ in range(6)))
        seen = set()
        while not calls.done():
            seen.add(await busy_slots(llama_server))
        assert await calls == [200] * 6
        assert max(seen) == 2


async def test_cancelling_a_stream_frees_the_slot_of_a_real_server(
    llama_server: LlamaServer,
) -> None:
    """The server stops in the middle of its generation, because it sees the caller leave."""
    before = await tokens_generated(llama_server)
    async with guarded(llama_server.url) as side, sdk_for(side) as sdk:
        stream = await sdk.chat.completions.create(
            model="tiny-random",
            messages=HELLO,
            max_tokens=LONG,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async with stream:
            pieces = 0
            async for _ in stream:
                pieces += 1
                if pieces == 5:
                    break
            assert await busy_slots(llama_server) == 1
        await side.until(lambda guard: guard.in_flight == 0)
        while await busy_slots(llama_server):
            pass
        assert await tokens_generated(llama_server) - before < LONG
        metrics = await side.metrics()
        assert metrics.by_label("client_cancels_total", "phase") == {"streaming": 1}
