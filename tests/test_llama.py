"""Does the real llama.cpp server of the tests answer the real OpenAI SDK?"""

from __future__ import annotations

from openai import AsyncOpenAI

from tests.support.llama import LlamaServer, health


async def test_it_answers_plain_and_streamed(llama_server: LlamaServer) -> None:
    """The server is ready, generates real tokens and streams them one by one."""
    assert health(llama_server.url) == 200
    async with AsyncOpenAI(base_url=f"{llama_server.url}/v1", api_key="none") as client:
        plain = await client.chat.completions.create(
            model="tiny-random",
            messages=[{"role": "user", "content": "hello there"}],
            max_tokens=6,
        )
        assert plain.choices[0].message.content
        assert plain.usage is not None
        assert plain.usage.completion_tokens == 6
        stream = await client.chat.completions.create(
            model="tiny-random",
            messages=[{"role": "user", "content": "hello there"}],
            max_tokens=6,
            stream=True,
        )
        tokens = [
            chunk.choices[0].delta.content
            async for chunk in stream
            if chunk.choices and chunk.choices[0].delta.content
        ]
        assert len(tokens) == 6
