"""Is each limit a setting, does its refusal name it, and is it counted? (docs/limits.md)"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sidecar.proxy import client, door, recurring, upstream
from sidecar.proxy.request_body import KEEP_MAX
from sidecar.proxy.wire import bodies
from sidecar.settings.catalog import SETTINGS
from sidecar.settings.shown import plain_number
from sidecar.telemetry import request_log
from tests.e2e.harness import CHAT, EMBEDDINGS, Guarded, Scrape, chat, guarded
from tests.support.origin import JSON_OK, SSE_HEAD, Origin, OriginConnection, chunk
from tests.support.raw import ClosedByPeerError
from tests.support.wire import RawClient, RawResponse, request

DOCS = Path(__file__).parent.parent.parent / "docs" / "limits.md"
LONG = b"x" * 5000


async def backend(connection: OriginConnection) -> None:
    """Do what the path says."""
    while True:
        got = await connection.read_head()
        if b"/hang" in got:
            await connection.wait_closed_by_peer()
        elif b"/stream" in got:
            connection.send(SSE_HEAD + chunk(b"data: 1\n\n"))
            await connection.wait_closed_by_peer()
        elif b"/large-head" in got:
            connection.send(JSON_OK.replace(b"\r\n\r\n", b"\r\nX: " + LONG + b"\r\n\r\n"))
        elif b"/large" in got:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n")
            connection.send(bytes(30_000_000))
            await connection.wait_closed_by_peer()
        elif b"/tunnel" in got:
            connection.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
            )
            await connection.wait_closed_by_peer()
        else:
            await connection.read_body()
            connection.send(JSON_OK)
            connection.answered()


TUNNEL = request("GET", "/tunnel", fields=[("Connection", "Upgrade"), ("Upgrade", "x")])
UPLOAD = f"POST {CHAT} HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n".encode()
HANG = request("POST", f"/hang{CHAT}", b"{}")
EMBED = request("POST", EMBEDDINGS, b"{}")

Attack = Callable[[Guarded], Awaitable[RawResponse | None]]


def asks(data: bytes) -> Attack:
    """Send this; what is answered, or None where the connection just ends."""

    async def attack(side: Guarded) -> RawResponse | None:
        async with side.client() as client:
            await client.send(data)
            try:
                answer = await client.read_response("POST")
            except ClosedByPeerError:
                return None
            if answer.status == 101:
                await client.wait_closed_by_peer()
            return answer

    return attack


def after(*held: bytes, last: bytes) -> Attack:
    """Send each of these on a connection of its own, and when all are at work, the last."""

    async def attack(side: Guarded) -> RawResponse | None:
        async with contextlib.AsyncExitStack() as stack:
            for number, data in enumerate(held, 1):
                client = await stack.enter_async_context(side.client())
                await client.send(data)
                await side.until_active(number)
            async with side.client() as client:
                await client.send(last)
                return await client.read_response("POST")

    return attack


async def drips(side: Guarded) -> RawResponse | None:
    """Send a body so slowly that each wait is short and all of them together are not."""
    async with side.client() as client:
        await client.send(UPLOAD)
        while not client.received:
            await client.send(b"x")
            await side.admin_get("/livez")
        return await client.read_response("POST")


async def takes_nothing(side: Guarded) -> RawResponse | None:
    """Ask for a lot and read none of it."""
    async with side.client() as client:
        client.pause_reading()
        await client.send(request("GET", "/large"))
        await side.until_active(1)
        await side.until_active(0)
        return None


async def connects_once_more(side: Guarded) -> RawResponse | None:
    """Connect once more than is allowed; the first one, which is idle, goes."""
    async with side.client() as first, side.client():
        await first.wait_closed_by_peer()
        return None


async def connects_once_more_from_one_address(side: Guarded) -> RawResponse | None:
    """Likewise while the first is at work; another address gets in."""
    async with side.client() as first:
        await first.send(request("GET", "/hang"))
        await side.until_active(1)
        async with RawClient(side.listen.host, side.listen.port, local="127.0.0.2") as other:
            await other.send(chat())
            assert (await other.read_response("POST")).status == 200
        return await asks(b"")(side)


@dataclass(frozen=True)
class Limit:
    """How one limit is reached, what the client is told (None: nothing), and what counts it."""

    key: str
    value: object
    attack: Attack
    status: int | None
    metric: str
    others: Mapping[str, object] = field(default_factory=dict)


def refusals(reason: str) -> str:
    return f'refusals_total{{reason="{reason}"}}'


def ended(reason: str) -> str:
    return f'client_connections_ended_total{{reason="{reason}"}}'


def outcome(name: str) -> str:
    return f'requests_total{{outcome="{name}"}}'


NO_QUEUE = {"queue.max_waiting": 0}
SMALL_BUFFER = {"queue.body_buffer_bytes": 500}
LIMITS = [
    Limit(
        "limits.head_bytes", 2000,
        asks(request("GET", "/", fields=[("X", "x" * 3000)])), 431, refusals("head_too_large"),
    ),
    Limit(
        "limits.head_bytes", 2000,
        asks(request("GET", "/" + "x" * 3000)), 414, refusals("head_too_large"),
    ),
    Limit(
        "limits.head_fields", 5,
        asks(request("GET", "/", fields=[("X", "x")] * 6)), 431, refusals("head_too_large"),
    ),
    Limit("timers.head_s", 0.05, asks(b"GET / HTTP"), 408, refusals("head_timeout")),
    Limit("timers.keepalive_s", 0.05, asks(b""), None, ended("idle_timeout")),
    Limit("limits.max_connections", 1, connects_once_more, None, ended("made_room")),
    Limit(
        "limits.max_connections", 1,
        after(request("GET", "/hang"), last=b""), 503, refusals("too_many_connections"),
    ),
    Limit(
        "limits.max_connections_per_address", 1,
        connects_once_more_from_one_address, 503, ended("turned_away"),
    ),
    Limit("timers.body_stall_s", 0.05, asks(UPLOAD), 408, refusals("body_timeout")),
    Limit(
        "limits.body_min_bytes_per_s", 100_000,
        drips, 408, refusals("body_timeout"), {"timers.body_stall_s": 0.2},
    ),
    Limit(
        "queue.max_bytes", 1000,
        asks(UPLOAD + LONG), 503, refusals("queue_full"), SMALL_BUFFER,
    ),
    Limit(
        "queue.max_waiting", 1,
        after(HANG, HANG, last=HANG), 503, refusals("queue_full"), {"max_concurrent": 1},
    ),
    Limit(
        "queue.timeout_s", 0.05,
        after(HANG, last=HANG), 504, refusals("queue_timeout"), {"max_concurrent": 1},
    ),
    Limit("max_concurrent", 1, after(HANG, last=HANG), 503, refusals("queue_full"), NO_QUEUE),
    Limit(
        "embeddings.max_concurrent", 1,
        after(EMBED.replace(b"/v1", b"/hang/v1", 1), last=EMBED),
        503, refusals("queue_full"), NO_QUEUE,
    ),
    Limit("max_upgrades", 1, after(TUNNEL, last=TUNNEL), 503, refusals("queue_full")),
    Limit("timers.first_event_s", 0.05, asks(HANG), 504, outcome("first_event_timeout")),
    Limit(
        "timers.stall_s", 0.05,
        asks(request("POST", f"/stream{CHAT}", b"{}")), 200, outcome("stall_timeout"),
    ),
    Limit("timers.total_s", 0.05, asks(HANG), 504, outcome("total_timeout")),
    Limit("timers.write_stall_s", 0.05, takes_nothing, None, outcome("client_stalled")),
    Limit("timers.tunnel_idle_s", 0.05, asks(TUNNEL), 101, ended("tunnel_idle")),
    Limit(
        "limits.response_head_bytes", 2000,
        asks(request("GET", "/large-head")), 502, refusals("upstream_bad_response"),
    ),
]  # fmt: skip

# These are no refusals: the request goes on, later.
WAITED_FOR = {"max_concurrent", "embeddings.max_concurrent"}
# Reached in tests of their own: tests/e2e/test_leaving.py, tests/e2e/test_limit.py.
ELSEWHERE = {"timers.connect_s", "queue.body_buffer_bytes"}


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{limit.key}-{limit.status}")
async def test_each_limit_is_a_setting_named_in_its_refusal_and_counted(limit: Limit) -> None:
    """Whoever meets a limit is told which, and whoever operates the sidecar sees it."""
    settings = {limit.key: limit.value, **limit.others}
    async with Origin(backend) as origin, guarded(origin.url, settings) as side:
        answer = await limit.attack(side)
        assert (answer and answer.status) == limit.status
        if answer is not None and answer.status >= 400:
            message = answer.json()["error"]["message"]
            assert re.search(rf"\([^)]*\b{re.escape(limit.key)}\b[^)]*\)", message), message
        async with asyncio.timeout(5):
            while not counted(await side.metrics(), limit.metric):
                pass  # counted a moment after the answer


def counted(scrape: Scrape, metric: str) -> float:
    """The value of `name{label="value"}`."""
    name, labels = re.fullmatch(r"(\w+)\{(.*)\}", metric).groups()  # type: ignore[union-attr]
    return scrape.value(name, **dict(re.findall(r'(\w+)="(\w+)"', labels)))


# -- the document ------------------------------------------------------------------------------


def rows(section: str) -> list[list[str]]:
    """The cells of a section's table."""
    text = DOCS.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.split("\n") if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


DEFAULTS = {setting.key: setting.default for setting in SETTINGS.values()}


def test_the_document_lists_each_limit_with_its_default_and_its_metric() -> None:
    """What docs/limits.md says of a setting is what the code does and the test above looks at."""
    documented = {row[0].strip("`"): row for row in rows("Settings")}
    assert documented.keys() == {limit.key for limit in LIMITS} | ELSEWHERE
    tested = {(limit.key, limit.metric) for limit in LIMITS}
    for key, (_, default, _, metric) in documented.items():
        meant = DEFAULTS[key]
        assert default == ("off" if meant is None else str(plain_number(meant))), key
        if key not in WAITED_FOR | ELSEWHERE:
            assert (key, metric.strip("`")) in tested
    bounds = {key for key in DEFAULTS if re.match(r"limits\.|timers\.|queue\.|max_", key)}
    no_bounds = {"limits.ipv6_prefix_bits", "timers.first_event_per_kib_s"}
    assert bounds - documented.keys() == no_bounds


def test_the_document_tells_the_constants_as_they_are() -> None:
    """The numbers in docs/limits.md that are no settings are those in the code."""
    told = [tuple(map(int, re.findall(r"[0-9]+", row[1]))) for row in rows("Constants")]
    assert told == [
        (bodies.CHUNK_LINE_MAX,),
        (bodies.TRAILERS_MAX,),
        (15, recurring._DIGITS_MAX),
        (client._EMPTY_LINES_MAX,),
        (client._AHEAD_MAX,),
        (KEEP_MAX,),
        (door._TOLD_AT_ONCE,),
        (request_log._UNREAD_PER_S,),
        (recurring._PATH_TOLD_MAX, recurring._METHOD_TOLD_MAX),
        (client._LINGER_S,),
        (upstream._FILES_WAIT_S,),
    ]
