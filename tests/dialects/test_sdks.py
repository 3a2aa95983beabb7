"""Do the real SDKs raise on a stream that was ended in the dialect's own words?"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.dialects.corpus import ANTHROPIC_TEXT, OPENAI_TEXT, RESPONSES_TEXT, Stream
from tests.dialects.observing import judge_of
from tests.support.origin import SSE_HEAD, Origin, OriginConnection, Script, chunk, sse

MESSAGE = "The backend broke off its answer."
CODE = "upstream_reset"
ASKED: list[Any] = [{"role": "user", "content": "hello"}]


def _ended(stream: Stream, count: int) -> list[bytes]:
    """The first events of a stream, then what the judge of it has for its end."""
    judge = judge_of(stream)
    pieces = [event.raw for event in stream.events[:count]]
    for piece in pieces:
        judge.feed(piece)
    error = judge.error_event(MESSAGE, CODE)
    assert error is not None
    assert judge.at_boundary
    return [*pieces, error]


def _broken_off(pieces: Iterable[bytes]) -> Script:
    """Send these, then close the connection without the last chunk: the answer looks cut."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(SSE_HEAD)
        for piece in pieces:
            connection.send(chunk(piece))
        await connection.drain()

    return script


@contextlib.asynccontextmanager
async def _openai_before(script: Script) -> AsyncIterator[AsyncOpenAI]:
    async with (
        Origin(script) as origin,
        AsyncOpenAI(base_url=f"{origin.url}/v1", api_key="x", max_retries=0, timeout=5) as sdk,
    ):
        yield sdk


@contextlib.asynccontextmanager
async def _anthropic_before(script: Script) -> AsyncIterator[AsyncAnthropic]:
    async with (
        Origin(script) as origin,
        AsyncAnthropic(base_url=origin.url, api_key="x", max_retries=0, timeout=5) as sdk,
    ):
        yield sdk


async def _chat(sdk: AsyncOpenAI) -> AsyncIterator[str]:
    stream = await sdk.chat.completions.create(model="m", messages=ASKED, stream=True)
    async for each in stream:
        for choice in each.choices:
            yield choice.delta.content or ""


async def _responses(sdk: AsyncOpenAI) -> AsyncIterator[str]:
    stream = await sdk.responses.create(model="m", input="hello", stream=True)
    async for event in stream:
        if event.type == "response.output_text.delta":
            yield event.delta


async def _responses_helper(sdk: AsyncOpenAI) -> AsyncIterator[str]:
    async with sdk.responses.stream(model="m", input="hello") as stream:
        async for event in stream:
            if event.type == "response.output_text.delta":
                yield event.delta


async def _messages(sdk: AsyncAnthropic) -> AsyncIterator[str]:
    stream = await sdk.messages.create(model="m", max_tokens=9, messages=ASKED, stream=True)
    async for event in stream:
        if event.type == "content_block_delta" and event.delta.type == "text_delta":
            yield event.delta.text


async def _messages_helper(sdk: AsyncAnthropic) -> AsyncIterator[str]:
    async with sdk.messages.stream(model="m", max_tokens=9, messages=ASKED) as stream:
        async for text in stream.text_stream:
            yield text


class Heard:
    """The text that came, also when an error followed."""

    text = ""

    async def all_of(self, texts: AsyncIterator[str]) -> None:
        """Listen to the end."""
        async for text in texts:
            self.text += text


# The stream, who asks for it, how many events come before it breaks, and the text in these.
OPENAI: dict[str, tuple[Stream, Any, int, str]] = {
    "chat": (OPENAI_TEXT, _chat, 3, 'Hello "friend"\n'),
    "chat, at once": (OPENAI_TEXT, _chat, 0, ""),
    "responses": (RESPONSES_TEXT, _responses, 6, 'Hi "there'),
    "responses, at once": (RESPONSES_TEXT, _responses, 0, ""),
    "responses helper": (RESPONSES_TEXT, _responses_helper, 6, 'Hi "there'),
}
ANTHROPIC: dict[str, tuple[Any, int, str]] = {
    "messages": (_messages, 5, 'Hello "World"'),
    "messages, at once": (_messages, 0, ""),
    "messages helper": (_messages_helper, 5, 'Hello "World"'),
}


@pytest.mark.parametrize(("stream", "ask", "count", "text"), OPENAI.values(), ids=OPENAI)
async def test_openai_raises(stream: Stream, ask: Any, count: int, text: str) -> None:
    """APIError with our message and code, and the text until then was handed on."""
    got = Heard()
    async with _openai_before(_broken_off(_ended(stream, count))) as sdk:
        with pytest.raises(openai.APIError, match="broke off its answer") as raised:
            await got.all_of(ask(sdk))
    assert (raised.value.code, raised.value.type) == (CODE, "api_error")
    assert got.text == text


@pytest.mark.parametrize(("ask", "count", "text"), ANTHROPIC.values(), ids=ANTHROPIC)
async def test_anthropic_raises(ask: Any, count: int, text: str) -> None:
    """APIStatusError with our message and code, and the text until then was handed on."""
    got = Heard()
    async with _anthropic_before(_broken_off(_ended(ANTHROPIC_TEXT, count))) as sdk:
        with pytest.raises(anthropic.APIStatusError, match="broke off its answer") as raised:
            await got.all_of(ask(sdk))
    assert CODE in str(raised.value.body)
    assert got.text == text


async def test_without_our_words_half_an_answer_passes_for_a_whole_one() -> None:
    """Why they are needed: a clean end is all that the SDKs look for."""
    got = Heard()
    half = [event.raw for event in OPENAI_TEXT.events[:3]]
    async with _openai_before(sse(half)) as sdk:
        await got.all_of(_chat(sdk))
    half = [event.raw for event in ANTHROPIC_TEXT.events[:5]]
    async with _anthropic_before(sse(half)) as sdk:
        await got.all_of(_messages(sdk))
    assert got.text == 'Hello "friend"\nHello "World"'


@pytest.mark.parametrize(
    ("stream", "ask", "begins"),
    [
        (OPENAI_TEXT, _chat, 'Hello "friend"'),
        (RESPONSES_TEXT, _responses_helper, 'Hi "there!'),
        (ANTHROPIC_TEXT, _messages_helper, 'Hello "World"!'),
    ],
    ids=["chat", "responses", "messages"],
)
async def test_heartbeats_are_not_noticed(stream: Stream, ask: Any, begins: str) -> None:
    """Before the first event and between any two."""
    heartbeat = judge_of(stream).heartbeat()
    assert heartbeat is not None
    script = sse(piece for event in stream.events for piece in (heartbeat, heartbeat, event.raw))
    before = _anthropic_before(script) if stream is ANTHROPIC_TEXT else _openai_before(script)
    got = Heard()
    async with before as sdk:
        await got.all_of(ask(sdk))
    assert got.text.startswith(begins)
