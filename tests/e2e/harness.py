"""How does a test get a whole sidecar in front of its backend, and look at it from outside?

    async with Origin(json_ok) as origin, guarded(origin.url, {"max_concurrent": 1}) as side:
        response = await side.ask(chat())

When the block is left without an error the sidecar is stopped and must have nothing left over:
no slot, no waiting request, no held byte, no connection, and no bug may have come to light.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.admission.guard import GuardSnapshot
from sidecar.app import Bound, Sidecar, running
from sidecar.settings.load import load
from tests.support.origin import SSE_HEAD, Origin, OriginConnection, RawRequest, Script, chunk
from tests.support.raw import Field
from tests.support.wire import RawClient, RawResponse, request

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"

on_both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
"""Marks a test that runs on uvloop and on asyncio."""

ERROR_500 = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
    b'Content-Length: 12\r\n\r\n{"no":"can"}'
)


def chat(number: int = 0, *, fields: Iterable[Field] = (), size: int = 0) -> bytes:
    """A chat completion request; `number` tells it from others, `size` pads its body (bytes)."""
    return request("POST", CHAT, json.dumps({"n": number, "pad": "x" * size}).encode(), fields)


def number_of(body: bytes) -> int:
    """The `number` of a `chat` request."""
    number: int = json.loads(body)["n"]
    return number


def status_line(status: int, fields: Iterable[str] = (), body: bytes = b"{}") -> bytes:
    """A whole response with that status."""
    lines = [f"HTTP/1.1 {status} Some Reason", f"Content-Length: {len(body)}", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class Scrape:
    """What `/metrics` said."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> float:
        """The sum over all series of `openclaw_sidecar_{name}` with these labels."""
        found = [
            sample.value
            for sample in self._samples
            if sample.name == f"openclaw_sidecar_{name}" and labels.items() <= sample.labels.items()
        ]
        assert found, f"no series {name} {labels}"
        return math.fsum(found)

    def by_label(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """All series of `name` that are not zero, by the value of one label."""
        return {
            sample.labels[label]: sample.value
            for sample in self._samples
            if sample.name == f"openclaw_sidecar_{name}"
            and labels.items() <= sample.labels.items()
            and sample.value
        }


class Guarded:
    """A running sidecar and its addresses."""

    def __init__(self, sidecar: Sidecar, bound: Bound) -> None:
        self.sidecar = sidecar
        self.listen = bound.listen
        self.admin = bound.admin

    @property
    def url(self) -> str:
        """The proxy's URL, for HTTP libraries."""
        return f"http://{self.listen}"

    def client(self) -> RawClient:
        """A connection to the proxy, to be opened by `async with`."""
        if self.listen.path is not None:
            return RawClient(unix_path=self.listen.path)
        return RawClient(self.listen.host, self.listen.port)

    async def ask(self, data: bytes, method: str = "POST") -> RawResponse:
        """Send one request on a connection of its own and return the answer."""
        async with self.client() as client:
            await client.send(data)
            return await client.read_response(method)

    async def ask_released(self, origin: Origin, data: bytes) -> RawResponse:
        """Like `ask`, where the backend is a `Gate`: it lets this one through."""
        origin.release()
        return await self.ask(data)

    # -- looking inside -------------------------------------------------------------------

    def guard(self, name: str = "inference") -> GuardSnapshot:
        """One class of routes at this moment."""
        return next(one for one in self.sidecar.snapshots() if one.name == name)

    async def until(
        self, condition: Callable[[GuardSnapshot], object], name: str = "inference"
    ) -> None:
        """Wait until a guard looks so. Nothing tells of it, so it is looked at again and again."""
        await eventually(lambda: condition(self.guard(name)), lambda: str(self.guard(name)))

    async def until_active(self, count: int) -> None:
        """Wait until so many requests are under way, guarded or not."""
        active = self.sidecar.proxy.handler.active
        await eventually(lambda: len(active) == count, lambda: f"{len(active)} are")

    async def until_waiting(self, count: int) -> None:
        """Wait until so many wait for a slot."""
        await self.until(lambda guard: guard.waiting == count)

    @property
    def breaker_state(self) -> str:
        """The inference breaker's state."""
        breaker = self.guard().breaker
        assert breaker is not None
        return breaker.state.value

    # -- the admin port -------------------------------------------------------------------

    async def admin_get(self, path: str, fields: Iterable[Field] = ()) -> RawResponse:
        """Ask the admin port."""
        async with RawClient(self.admin.host, self.admin.port) as client:
            await client.send(request("GET", path, fields=fields))
            return await client.read_response()

    async def status(self) -> dict[str, Any]:
        """What `/status` says."""
        status: dict[str, Any] = (await self.admin_get("/status")).json()
        return status

    async def metrics(self) -> Scrape:
        """What `/metrics` says."""
        return Scrape((await self.admin_get("/metrics")).body.decode())


async def asked(origin: Origin, count: int) -> OriginConnection:
    """Wait until the backend has got `count` requests; returns the connection of the last."""
    await origin.wait_for(lambda o: len(o.requests) >= count)
    return origin.requests[count - 1].connection


async def eventually(
    condition: Callable[[], object], say: Callable[[], str] = str, timeout_s: float = 5.0
) -> None:
    """Wait until `condition()` holds, where no event tells of it. `say` describes a failure."""
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline_s:
            raise TimeoutError(f"not so within {timeout_s} s: {say()}")
        await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def guarded(upstream: str, settings: Mapping[str, object] = {}) -> AsyncIterator[Guarded]:
    """Run a sidecar in this loop in front of `upstream`; `settings` by key (`breaker.open_s`)."""
    flags = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "log.requests": "false"}
    flags |= {"upstream": upstream, **{key: str(value) for key, value in settings.items()}}
    bugs: list[object] = []
    loop = asyncio.get_running_loop()
    test = asyncio.current_task()

    def on_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        bugs.append(context)
        # pytest-timeout raises in a signal handler, which uvloop runs as a callback: without
        # this a test that hangs would hang for ever.
        if isinstance(context.get("exception"), pytest.fail.Exception) and test is not None:
            test.cancel(str(context["exception"]))

    before = loop.get_exception_handler()
    loop.set_exception_handler(on_exception)
    try:
        async with running(load(flags, {}).settings.plain()) as (sidecar, bound):
            _report_bugs_to(bugs, sidecar)
            yield Guarded(sidecar, bound)
        assert not bugs, bugs
        assert_nothing_left(sidecar)
    finally:
        loop.set_exception_handler(before)


def _report_bugs_to(bugs: list[object], sidecar: Sidecar) -> None:
    def on_bug() -> None:
        bugs.append(sys.exc_info())
        sys.excepthook(*sys.exc_info())

    sidecar.proxy.handler.on_bug = on_bug
    sidecar._on_bug = on_bug  # type: ignore[method-assign]


def assert_nothing_left(sidecar: Sidecar) -> None:
    """Nothing is held by requests that are over."""
    for guard in sidecar.snapshots():
        assert (guard.in_flight, guard.waiting, guard.held_bytes) == (0, 0, 0), guard
        assert not guard.permits
    assert not sidecar.proxy.handler.active
    assert not sidecar.proxy.upstream.busy


# -- what tests of refusals share ----------------------------------------------------------------

RETRY_FIELDS = ("Retry-After", "retry-after-ms")


def assert_refusal(response: RawResponse, reason: str, status: int, *, retry: bool) -> None:
    """The sidecar said no, for that reason, in the way that semantics and SDKs want it."""
    assert (response.status, response.value("x-sidecar-reason")) == (status, reason)
    assert response.value("content-type") == "application/json"
    assert response.complete
    assert response.value("x-request-id")
    error = response.json()["error"]
    assert list(response.json()) == ["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert (error["code"], error["param"]) == (reason, None)
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert error["message"].startswith("openclaw-sidecar: ")
    if not retry:
        assert not any(response.value(name) for name in RETRY_FIELDS)
        return
    seconds, milliseconds = (int(response.value(name) or 0) for name in RETRY_FIELDS)
    assert seconds >= 1
    assert seconds == math.ceil(milliseconds / 1000)
    assert response.value("x-should-retry") == ("false" if milliseconds > 60_000 else None)


# -- scripts ---------------------------------------------------------------------------------


class Hand:
    """A script whose answers the test sends itself, byte by byte, by `request.connection.send`."""

    def __init__(self) -> None:
        self._done: dict[OriginConnection, asyncio.Event] = {}

    async def __call__(self, connection: OriginConnection) -> None:
        """Read requests; stay with each until it is finished or its client leaves."""
        while True:
            await connection.read_request()
            done = self._done[connection] = asyncio.Event()
            finished = asyncio.ensure_future(done.wait())
            try:
                await asyncio.wait(
                    {finished, *connection.endings}, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                finished.cancel()

    def finish(self, connection: OriginConnection, last: bytes = b"") -> None:
        """Send the last bytes of the answer; the connection may serve another request."""
        connection.send(last)
        connection.answered()
        self._done[connection].set()


def answering(answer: Callable[[RawRequest], bytes]) -> Script:
    """A script that answers each request with the bytes that `answer` makes for it."""

    async def script(connection: OriginConnection) -> None:
        while True:
            connection.send(answer(await connection.read_request()))
            connection.answered()

    return script


def start_stream(connection: OriginConnection, event: bytes = b"data: 1\n\n") -> None:
    """Send the head and the first event of a streamed answer."""
    connection.send(SSE_HEAD + chunk(event))
