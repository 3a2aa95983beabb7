"""How does a test get the bare data path in front of an origin, with nothing around it?

async with Origin(recording) as origin, data_path(origin.url) as path:
    async with path.client() as client: ...
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from sidecar.admission.answers import Transition
from sidecar.admission.config import GuardConfig, QueueConfig
from sidecar.admission.guard import Guard
from sidecar.admission.routes import RouteRule, RouteTable
from sidecar.proxy.config import ProxyConfig
from sidecar.proxy.server import ProxyServer, RouteClass
from sidecar.telemetry.facts import RequestFact
from tests.support.origin import Origin, OriginConnection
from tests.support.wire import RawClient, RawResponse, request

FREE = b"/free"
GUARDED = b"/v1/chat/completions"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SENTINEL = "/sentinel"

ROUTES = RouteTable([RouteRule("POST", "**/chat/completions", "inference")])
# Without a breaker, because these tests let the backend fail as often as they like.
UNBROKEN = GuardConfig(max_concurrent=3, queue=QueueConfig(), breaker=None)


@dataclass(slots=True)
class DataPath:
    """The proxy as a test sees it."""

    server: ProxyServer
    port: int
    facts: list[RequestFact]

    def client(self) -> RawClient:
        """A connection to the proxy, to be opened by `async with`."""
        return RawClient("127.0.0.1", self.port)

    async def ask(self, data: bytes, method: str = "GET") -> RawResponse:
        """Send one request on a connection of its own and return the answer."""
        async with self.client() as client:
            await client.send(data)
            return await client.read_response(method)

    async def settle(self, origin: Origin) -> None:
        """Wait until all that was sent before has reached the origin: a later request has."""
        seen = len(origin.requests)
        answer = await self.ask(request("GET", SENTINEL))
        assert answer.status == 200, answer
        await origin.wait_for(
            lambda o: any(asked.target == SENTINEL for asked in o.requests[seen:])
        )


@contextlib.asynccontextmanager
async def data_path(
    upstream: str, config: ProxyConfig | None = None, *, guard: GuardConfig = UNBROKEN
) -> AsyncIterator[DataPath]:
    """Run the data path in front of `upstream`; a bug in it fails the test."""
    bugs: list[str] = []
    facts: list[RequestFact] = []
    config = replace(config or ProxyConfig(), upstream=upstream)
    timers = config.timers
    server = ProxyServer(
        config,
        ROUTES,
        {
            "inference": RouteClass(new_guard("inference", guard), guard.queue.timeout_s, timers),
            "upgrade": RouteClass(new_guard("upgrade"), 1.0, timers),
        },
        probe_s=60,
        on_request=facts.append,
        on_bug=lambda: bugs.append(traceback.format_exc()),
    )
    port = await server.listen_tcp("127.0.0.1", 0)
    try:
        yield DataPath(server, port, facts)
    finally:
        await server.stop()
    assert not bugs, "\n".join(bugs)


def new_guard(name: str, config: GuardConfig = UNBROKEN) -> Guard:
    """A guard that nobody observes."""
    return Guard(name, config, random=lambda: 0.5, on_transition=_nobody)


def _nobody(_: Transition) -> None:
    """Take no notice of a transition."""


async def recording(connection: OriginConnection) -> None:
    """Answer each request with two bytes, a HEAD with none; what came is kept in `received`."""
    while True:
        asked = await connection.read_request()
        connection.send(OK.removesuffix(b"ok") if asked.method == "HEAD" else OK)
        connection.answered()
