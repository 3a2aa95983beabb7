"""Is the backend asked on good connections only, on not too many, and where its name points now?"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sidecar.proxy.upstream import UpstreamConnection
from tests.e2e.harness import (
    CHAT,
    Guarded,
    Hand,
    asked,
    assert_refusal,
    chat,
    eventually,
    guarded,
    on_both_loops,
    status_line,
)
from tests.support.origin import JSON_OK, Origin, OriginConnection, RawRequest, json_ok
from tests.support.wire import request

GET = request("GET", "/models")

# -- a kept connection ends at the worst moment --------------------------------------------------

REPEATED = ("GET", "HEAD", "OPTIONS")
NOT_REPEATED = ("POST", "PUT", "PATCH", "DELETE")
every_method = pytest.mark.parametrize("method", [*REPEATED, *NOT_REPEATED])


def answer_to(got: RawRequest) -> bytes:
    return JSON_OK.removesuffix(b'{"ok":true}') if got.method == "HEAD" else JSON_OK


async def ends_unread(connection: OriginConnection) -> None:
    """Close while the next request is still in the kernel: it answers with a reset."""
    connection.pause_reading()
    sock = connection.transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(sock.fileno())) as twin, contextlib.suppress(BlockingIOError):
        twin.setblocking(False)
        while True:
            await asyncio.sleep(0)
            with contextlib.suppress(BlockingIOError):
                if twin.recv(1, socket.MSG_PEEK):
                    break
    connection.close()


async def ends_when_asked(connection: OriginConnection) -> None:
    await connection.read_request()
    connection.close()


async def resets_when_asked(connection: OriginConnection) -> None:
    await connection.read_request()
    connection.reset()


async def assert_repeated_or_told(side: Guarded, origin: Origin, method: str) -> None:
    """A safe request is answered nevertheless; any other is refused and never sent again."""
    body = b"{}" if method in ("POST", "PUT", "PATCH") else None
    response = await side.ask(request(method, "/thing", body), method)
    retries = (await side.metrics()).value("retries_total")
    sent = [each.method for each in origin.requests if each.target == "/thing"]
    if method in REPEATED:
        assert (response.status, retries) == (200, 1)
        assert len(sent) <= 2
    else:
        assert_refusal(response, "upstream_reset", 502, retry=False)
        assert f"the {method} was not repeated" in response.json()["error"]["message"]
        assert retries == 0
        assert len(sent) <= 1
    assert (await side.ask(GET, "GET")).json() == {"ok": True}


@every_method
@pytest.mark.parametrize("last_moment", [ends_unread, ends_when_asked, resets_when_asked])
@on_both_loops
async def test_a_kept_connection_that_ends_when_it_is_used(
    last_moment: Callable[[OriginConnection], Any], method: str
) -> None:
    """Whatever the backend has read of the request: only what is safe is sent once more."""

    async def script(connection: OriginConnection) -> None:
        first = connection is origin.connections[0]
        while True:
            connection.send(answer_to(await connection.read_request()))
            connection.answered()
            if first:
                await last_moment(connection)
                return

    async with Origin(script) as origin, guarded(origin.url) as side:
        assert (await side.ask(GET, "GET")).status == 200
        await assert_repeated_or_told(side, origin, method)


async def answer_all(connection: OriginConnection) -> None:
    while True:
        connection.send(answer_to(await connection.read_request()))
        connection.answered()


def end_now(connection: OriginConnection, *, reset: bool) -> None:
    """End a connection in the kernel, before any event loop has its turn."""
    sock = connection.transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(sock.fileno())) as twin:
        if reset:
            # To connect to no address at all (AF_UNSPEC) resets a connection on Linux.
            ctypes.CDLL(None).connect(twin.fileno(), bytes(16), 16)
        else:
            twin.shutdown(socket.SHUT_WR)


by_end_and_reset = pytest.mark.parametrize(
    "reset",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux only")),
    ],
    ids=["end", "reset"],
)


@every_method
@by_end_and_reset
@on_both_loops
async def test_a_kept_connection_that_ends_between_look_and_use(
    reset: bool, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very last moment: the kernel said that it was good, then the end came, then we wrote."""
    looks_alive = UpstreamConnection.looks_alive

    def looks_alive_then_ends(connection: UpstreamConnection) -> bool:
        alive = looks_alive(connection)
        if alive and not origin.connections[1:]:
            end_now(origin.connections[0], reset=reset)
        return alive

    async with Origin(answer_all) as origin, guarded(origin.url) as side:
        assert (await side.ask(GET, "GET")).status == 200
        monkeypatch.setattr(UpstreamConnection, "looks_alive", looks_alive_then_ends)
        await assert_repeated_or_told(side, origin, method)


@by_end_and_reset
@on_both_loops
async def test_a_connection_that_ended_before_is_not_used(reset: bool) -> None:
    """Not even a POST notices; nothing is sent there, nothing has to be repeated."""
    async with Origin(answer_all) as origin, guarded(origin.url) as side:
        for count in range(1, 6):
            assert (await side.ask(chat())).status == 200
            assert origin.accepted_count == count
            end_now(origin.connections[-1], reset=reset)
        assert (await side.metrics()).value("retries_total") == 0


# -- how many, and how long ---------------------------------------------------------------------


async def test_no_more_connections_are_kept_than_is_set() -> None:
    """After a burst `pool.max_idle` stay; those are used again."""
    settings = {"pool.max_idle": 2, "pool.idle_s": 60, "max_concurrent": 10}
    hand = Hand()
    async with Origin(hand) as origin, guarded(origin.url, settings) as side:
        burst = [asyncio.ensure_future(side.ask(chat(number))) for number in range(5)]
        await asked(origin, 5)
        for got in list(origin.requests):
            hand.finish(got.connection, JSON_OK)
        await asyncio.gather(*burst)
        await origin.wait_for(lambda o: o.open_count == 2)
        assert side.sidecar.proxy.upstream.idle_count == 2
        origin.script = json_ok
        again = asyncio.ensure_future(side.ask(chat()))
        hand.finish(await asked(origin, 6), JSON_OK)
        assert (await again).status == 200
        assert origin.accepted_count == 5


async def test_a_connection_does_not_serve_for_ever() -> None:
    """After `pool.max_age_s` even one that is never idle is replaced; no request notices."""
    loop = asyncio.get_running_loop()
    async with (
        Origin(json_ok) as origin,
        guarded(origin.url, {"pool.max_age_s": 0.2}) as side,
        side.client() as client,
    ):
        until_s = loop.time() + 0.5
        while loop.time() < until_s:
            await client.send(chat())
            assert (await client.read_response("POST")).status == 200
        assert 2 <= origin.accepted_count <= 4
        assert (await side.metrics()).value("retries_total") == 0


async def test_free_routes_cannot_take_more_connections_than_is_set() -> None:
    """Beyond `pool.max_connections` they are refused; what has a slot of its own is not."""
    hand = Hand()
    settings = {"pool.max_connections": 2}
    async with (
        Origin(hand) as origin,
        guarded(origin.url, settings) as side,
        side.client() as client,
    ):
        feeds = [asyncio.ensure_future(side.ask(GET, "GET")) for _ in range(2)]
        await asked(origin, 2)
        await client.send(GET)
        refusal = await client.read_response()
        assert_refusal(refusal, "upstream_busy", 503, retry=False)
        assert "pool.max_connections" in refusal.json()["error"]["message"]
        slot = asyncio.ensure_future(side.ask(chat()))
        hand.finish(await asked(origin, 3), JSON_OK)
        assert (await slot).status == 200
        for got in origin.requests[:2]:
            hand.finish(got.connection, JSON_OK)
        assert [(await feed).status for feed in feeds] == [200, 200]
        await client.send(GET)  # the refusal has not cost the connection
        hand.finish(await asked(origin, 4), JSON_OK)
        assert (await client.read_response()).status == 200
        metrics = await side.metrics()
        assert metrics.value("refusals_total", reason="upstream_busy") == 1
        assert metrics.value("breaker_consecutive_failures") == 0


async def test_connections_that_are_not_up_yet_count() -> None:
    """A herd on free routes does not slip past the limit while it connects."""
    settings = {"pool.max_connections": 3}
    async with Origin(Hand()) as origin, guarded(origin.url, settings) as side:
        herd = [asyncio.ensure_future(side.ask(GET, "GET")) for _ in range(20)]
        await eventually(lambda: sum(each.done() for each in herd) == 17)
        await asked(origin, 3)
        assert origin.accepted_count == 3
        for got in origin.requests:
            got.connection.send(JSON_OK)
        statuses = sorted([(await each).status for each in herd])
        assert statuses == [200] * 3 + [503] * 17


# -- where the name points -----------------------------------------------------------------------

Address = tuple[str, int]


NAME = "backend.test"


class Names:
    """What the resolver says of `NAME`, in place of the system's."""

    def __init__(self) -> None:
        self.addresses: list[Address] = []
        self.lookups = 0
        self.failure: OSError | None = None
        self._real = asyncio.get_running_loop().getaddrinfo

    async def getaddrinfo(self, host: str, *args: Any, **more: Any) -> list[tuple[Any, ...]]:
        """Instead of the loop's."""
        if host != NAME:
            return list(await self._real(host, *args, **more))
        self.lookups += 1
        if self.failure is not None:
            raise self.failure
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, address) for address in self.addresses]


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names.getaddrinfo)
    return names


def refusing() -> Address:
    """Where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return "127.0.0.1", sock.getsockname()[1]


@contextlib.contextmanager
def silent() -> Iterator[Address]:
    """Where a connection neither comes up nor is refused: nobody accepts, and the queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield "127.0.0.1", listener.getsockname()[1]


def named(identity: str) -> Any:
    """A backend that says who it is."""

    async def script(connection: OriginConnection) -> None:
        while True:
            await connection.read_request()
            connection.send(status_line(200, body=identity.encode()))
            connection.answered()

    return script


def address_of(origin: Origin) -> Address:
    return origin.host, origin.port


@on_both_loops
async def test_an_address_that_refuses_is_passed_over(names: Names) -> None:
    """The next of the name's addresses is tried at once; no request notices."""
    async with Origin(json_ok) as origin, guarded(f"http://{NAME}") as side:
        names.addresses = [refusing(), refusing(), address_of(origin)]
        assert (await side.ask(chat())).status == 200
        assert (await side.metrics()).value("breaker_consecutive_failures") == 0


@on_both_loops
async def test_an_address_that_is_silent_is_not_waited_for(names: Names) -> None:
    """After a quarter of a second the next one is tried beside it (RFC 8305)."""
    loop = asyncio.get_running_loop()
    async with Origin(json_ok) as origin, guarded(f"http://{NAME}") as side:
        with silent() as hole:
            names.addresses = [hole, address_of(origin)]
            began_s = loop.time()
            assert (await side.ask(chat())).status == 200
            assert 0.2 < loop.time() - began_s < 2


@on_both_loops
async def test_a_name_without_a_good_address_is_a_failure(names: Names) -> None:
    """All refused, all silent, or no such name: said as such, and counted."""
    async with guarded(f"http://{NAME}", {"timers.connect_s": 0.4}) as side:
        with silent() as hole:
            names.addresses = [refusing(), refusing()]
            refusal = await side.ask(chat())
            assert_refusal(refusal, "upstream_unreachable", 502, retry=False)
            names.addresses = [hole]
            refusal = await side.ask(chat())
            assert_refusal(refusal, "upstream_timeout", 504, retry=False)
            names.failure = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            refusal = await side.ask(chat())
            assert_refusal(refusal, "upstream_unreachable", 502, retry=False)
            assert "Name or service not known" in refusal.json()["error"]["message"]
            assert (await side.metrics()).value("breaker_consecutive_failures") == 3


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@on_both_loops
async def test_a_name_that_points_elsewhere_is_followed(names: Names, busy: bool) -> None:
    """By each new connection; and without a pause in traffic, once `pool.max_age_s` is over."""
    settings = {"pool.idle_s": 60, "pool.max_age_s": 0.2} if busy else {"pool.idle_s": 0.05}
    async with (
        Origin(named("old")) as old,
        Origin(named("new")) as new,
        guarded(f"http://{NAME}", settings) as side,
    ):
        names.addresses = [address_of(old)]
        assert (await side.ask(chat())).body == b"old"
        names.addresses = [address_of(new)]
        if not busy:
            await old.wait_for(lambda o: o.open_count == 0)
            assert (await side.ask(chat())).body == b"new"
        else:
            while (await side.ask(chat())).body == b"old":
                pass
        assert names.lookups == 2


async def test_localhost_is_found_by_the_system_s_own_resolver() -> None:
    """Also where it has an IPv6 address at which nobody listens."""
    async with Origin(json_ok) as origin, guarded(f"http://localhost:{origin.port}") as side:
        assert (await side.ask(request("POST", CHAT, b"{}"))).status == 200
