"""Does the real `openai` SDK get from the sidecar what it knows how to deal with?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from sidecar.demo.backend import Backend, start_demo
from sidecar.demo.faults import Fault
from tests.e2e.harness import Guarded, guarded, on_both_loops

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
TOKENS = 6


@dataclass(frozen=True)
class Setup:
    """The SDK, the sidecar, the demo backend."""

    sdk: AsyncOpenAI
    side: Guarded
    backend: Backend
    backend_url: str

    async def plain(self, **options: float) -> str:
        """One plain completion's text."""
        sdk = self.sdk.with_options(**options) if options else self.sdk  # type: ignore[arg-type]
        answer = await sdk.chat.completions.create(model="demo", messages=HELLO)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == TOKENS
        return answer.choices[0].message.content or ""

    async def streamed(self) -> str:
        """One streamed completion's text."""
        stream = await self.sdk.chat.completions.create(model="demo", messages=HELLO, stream=True)
        return "".join([each.choices[0].delta.content or "" async for each in stream])


@contextlib.asynccontextmanager
async def sdk_before(
    settings: Mapping[str, object] = {}, ms_per_token: float = 1.0
) -> AsyncIterator[Setup]:
    """The SDK (without retries, unless a test wants them) before sidecar and demo backend."""
    demo = await start_demo(tokens=TOKENS, ms_per_token=ms_per_token)
    try:
        async with (
            guarded(demo.url, settings) as side,
            AsyncOpenAI(base_url=f"{side.url}/v1", api_key="test", max_retries=0) as sdk,
        ):
            yield Setup(sdk, side, demo.backend, demo.url)
    finally:
        await demo.stop()


@on_both_loops
async def test_plain_and_streamed_completions_are_those_of_the_backend() -> None:
    """The same text as without the sidecar, in every dialect the SDK speaks."""
    async with (
        sdk_before() as setup,
        AsyncOpenAI(base_url=f"{setup.backend_url}/v1", api_key="test") as direct,
    ):
        text = await setup.plain()
        assert text
        assert await setup.streamed() == text
        without = await direct.chat.completions.create(model="demo", messages=HELLO)
        assert without.choices[0].message.content == text
        response = await setup.sdk.responses.create(model="demo", input="hello")
        assert response.output_text == text
        completion = await setup.sdk.completions.create(model="demo", prompt="hello")
        assert completion.choices[0].text == text
        vectors = await setup.sdk.embeddings.create(model="demo", input=["a", "b"])
        assert len(vectors.data) == 2
        assert [model.id async for model in setup.sdk.models.list()]


async def test_twenty_callers_at_once() -> None:
    """All of them get their answer; the backend never runs more than three."""
    async with sdk_before() as setup:
        texts = await asyncio.gather(
            *(setup.plain() if number % 2 else setup.streamed() for number in range(20))
        )
        assert len(set(texts)) == 1
        assert setup.backend.stats.together.total == 20
        assert setup.backend.stats.together.peak_in_flight == 3


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        (Fault.ERROR_500, openai.InternalServerError, 500),
        (Fault.ERROR_503, openai.InternalServerError, 503),
        (Fault.ERROR_429, openai.RateLimitError, 429),
        (Fault.RESET, openai.InternalServerError, 502),
    ],
)
async def test_the_sdk_raises_its_own_exceptions(
    fault: Fault, error: type[openai.APIStatusError], status: int
) -> None:
    """The backend's errors come through, the sidecar's own look like the backend's."""
    async with sdk_before() as setup:
        setup.backend.faults.set(fault)
        for call in (setup.plain, setup.streamed):
            with pytest.raises(error) as caught:
                await call()
            assert caught.value.status_code == status
            assert caught.value.body
            sidecar_reason = caught.value.response.headers.get("x-sidecar-reason")
            assert sidecar_reason == ("upstream_reset" if fault is Fault.RESET else None)


async def test_the_sdk_reads_the_sidecar_s_refusal() -> None:
    """Message, code and type stand where the SDK looks for them; the request id too."""
    async with sdk_before({"breaker.mode": "forced_open"}) as setup:
        with pytest.raises(openai.InternalServerError) as caught:
            await setup.plain()
        assert caught.value.status_code == 503
        assert (caught.value.code, caught.value.type) == ("circuit_open", "server_error")
        assert "circuit breaker is open" in caught.value.message
        assert caught.value.request_id


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.SHORT])
async def test_the_sdk_does_not_take_half_an_answer_for_a_whole_one(fault: Fault) -> None:
    """A cut body raises, and a cut stream says in the SDK's own words what happened."""
    async with sdk_before() as setup:
        setup.backend.faults.set(fault)
        with pytest.raises(openai.APIConnectionError):
            await setup.plain()
        with pytest.raises(openai.APIError, match="openclaw-sidecar: the backend"):
            await setup.streamed()


async def test_the_sdk_s_retry_comes_when_it_was_told_to_and_succeeds() -> None:
    """One retry is enough to outlive a short outage: it honours the breaker's Retry-After."""
    settings = {"breaker.failure_threshold": 1, "breaker.open_s": 0.5}
    async with sdk_before(settings) as setup:
        setup.backend.faults.set(Fault.ERROR_500, count=1)
        with pytest.raises(openai.InternalServerError):
            await setup.plain()
        assert setup.side.breaker_state == "open"
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await setup.plain(max_retries=1)
        took_s = loop.time() - began_s
        assert took_s >= 0.99, "told was a second, the shortest there is"
        assert setup.side.breaker_state == "closed"
        assert setup.backend.stats.together.total == 2
        metrics = await setup.side.metrics()
        assert metrics.by_label("refusals_total", "reason") == {"circuit_open": 1}


async def test_the_sdk_does_not_retry_what_is_not_worth_waiting_for() -> None:
    """A circuit that stays open for minutes says so, and the SDK believes it."""
    settings = {"breaker.failure_threshold": 1, "breaker.open_s": 300}
    async with sdk_before(settings) as setup:
        setup.backend.faults.set(Fault.ERROR_500, count=1)
        for status in (500, 503):
            with pytest.raises(openai.InternalServerError) as caught:
                await setup.plain(max_retries=2 if status == 503 else 0)
            assert caught.value.status_code == status
        metrics = await setup.side.metrics()
        assert metrics.by_label("refusals_total", "reason") == {"circuit_open": 1}


async def test_a_full_queue_makes_the_sdk_come_back_later() -> None:
    """More callers than places: the SDK's retries bring all of them through in the end."""
    settings = {"max_concurrent": 1, "queue.max_waiting": 1}
    async with sdk_before(settings, ms_per_token=10) as setup:
        for _ in range(12):  # now the sidecar knows how long a slot is held
            await setup.plain()
        texts = await asyncio.gather(*(setup.plain(max_retries=10) for _ in range(5)))
        assert len(set(texts)) == 1
        assert setup.backend.stats.together.peak_in_flight == 1
        assert (await setup.side.metrics()).value("refusals_total", reason="queue_full") >= 1


@on_both_loops
async def test_the_sdk_s_own_time_out_stops_the_backend() -> None:
    """A caller that gives up is seen, and the backend works no longer for it."""
    async with sdk_before() as setup:
        setup.backend.faults.set(Fault.HANG)
        with pytest.raises(openai.APITimeoutError):
            await setup.plain(timeout=0.2)
        await setup.side.until(lambda guard: guard.in_flight == 0)
        metrics = await setup.side.metrics()
        assert metrics.by_label("client_cancels_total", "phase") == {"prefill": 1}


@on_both_loops
async def test_closing_a_stream_stops_the_backend() -> None:
    """A caller that has read enough frees the slot."""
    async with sdk_before(ms_per_token=1000) as setup:
        stream = await setup.sdk.chat.completions.create(model="demo", messages=HELLO, stream=True)
        async with stream:
            async for _ in stream:
                break
        await setup.side.until(lambda guard: guard.in_flight == 0)
        counts = setup.backend.stats.together
        await setup.side.until(lambda _: counts.aborted_by_client == 1)
        assert counts.in_flight == 0
