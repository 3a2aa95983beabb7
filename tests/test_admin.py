"""Does the admin port show what is so, to everybody who may ask, and hurt nobody?"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from sidecar.admin import server
from sidecar.admin.page import page
from sidecar.admin.server import build_app, build_runner
from sidecar.admin.views import StatusFacts, masked, status_dict
from sidecar.admission.answers import Permit, Ticket
from sidecar.admission.config import BreakerConfig, BreakerMode
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.recent import KEPT, RecentRefusals
from tests.support.facts import completion, refusal
from tests.support.guards import LOADING, WENT_WELL, ask, fail_until_open, make_guard

DOCS = Path(__file__).parent.parent / "docs" / "admin.md"
NOON = datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)
HOSTILE = "/<script>alert(1)</script>\x1b[31m\udcff"


class View:
    """A process as the admin port sees it, at a fixed moment: 100 s, noon."""

    def __init__(self) -> None:
        self.guards = [make_guard("inference"), make_guard("upgrade", breaker=None)]
        self.metrics = Metrics()
        self.ready = (True, "ready")
        self.drain_remaining_s: float | None = None
        self.refusals = RecentRefusals(wall_clock=lambda: NOON)
        self.broken = False

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        return self.metrics.render(accept)

    def readiness(self) -> tuple[bool, str]:
        return self.ready

    def status(self) -> StatusFacts:
        if self.broken:
            raise RuntimeError("a secret detail")
        return StatusFacts(
            version="1.2.3",
            upstream="http://me:secret@backend:18789",
            uptime_s=3725.5,
            drain_remaining_s=self.drain_remaining_s,
            now_s=100.0,
            at=NOON,
            guards=tuple(guard.snapshot(100.0) for guard in self.guards),
            recent_refusals=self.refusals.newest_first(),
        )


@pytest.fixture
def view() -> View:
    return View()


@pytest.fixture
async def admin(view: View) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    async with TestClient(TestServer(build_app(view))) as client:
        yield client


Admin = TestClient[web.Request, web.Application]


def status_of(view: View) -> dict[str, Any]:
    return status_dict(view.status())


# -- /status ------------------------------------------------------------------------------


def test_status_shows_who_holds_a_slot_and_who_waits(view: View) -> None:
    """One sees each request in flight and in the queue, with its age and its place."""
    guard = view.guards[0]
    first = ask(guard, "req-1", 90.0)
    assert isinstance(first, Permit)
    for number in (2, 3, 4, 5):
        ask(guard, f"req-{number}", 90.0 + number)
    shown = status_of(view)["guards"][0]
    assert [shown[key] for key in ("in_flight", "limit", "waiting", "max_waiting")] == [3, 3, 2, 64]
    assert shown["oldest_wait_s"] == 6.0
    assert shown["permits"][0] == {
        "request_id": "req-1",
        "method": "POST",
        "path": "/v1/messages",
        "caller": "key:1a2b3c4d",
        "age_s": 10.0,
        "waited_s": 0.0,
        "probe": False,
    }
    assert shown["tickets"] == [
        {
            "request_id": f"req-{number}",
            "method": "POST",
            "path": "/v1/messages",
            "caller": "key:1a2b3c4d",
            "waited_s": 10.0 - number,
            "position": place,
        }
        for place, number in ((1, 4), (2, 5))
    ]


def test_classes_that_share_a_breaker_show_it_and_whose_it_is(view: View) -> None:
    """One sees for each class whether it refuses, and where to look for the cause."""
    shares = make_guard("small", breaker_of=view.guards[0])
    view.guards.append(shares)
    fail_until_open(shares, 90.0)
    inference, upgrade, small = status_of(view)["guards"]
    assert small["breaker"] == inference["breaker"]
    assert small["breaker"]["state"] == "open"
    owners = [one["breaker_of"] for one in (inference, upgrade, small)]
    assert owners == ["inference", None, "inference"]
    html = page(status_of(view), "now")
    assert html.count(", 50.0 s to go") == 2
    assert html.count("(shared with inference)") == 1


def test_status_tells_when_and_why_the_breaker_opened(view: View) -> None:
    """State, failures, cause, moment of opening and time to go: enough to decide what to do."""
    fail_until_open(view.guards[0], 70.0)
    assert status_of(view)["guards"][0]["breaker"] == {
        "state": "open",
        "mode": "enforce",
        "failure_count": 5,
        "failure_threshold": 5,
        "open_remaining_s": 30.0,
        "tripped_by": "consecutive_failures",
        "trip_reason": "reset",
        "opened_at": "2026-03-01T11:59:30.123Z",
        "probes_in_flight": 0,
        "generation": 1,
        "late_results": 0,
        "would_refuse": 0,
        "condition": "normal",
        "probe_hold_s": 0.0,
        "window_calls": 0,
        "window_failures": 0,
        "window_slow": 0,
    }


def test_status_shows_a_probe_as_such(view: View) -> None:
    """While half-open one sees which request is the probe."""
    fail_until_open(view.guards[0], 20.0)
    ask(view.guards[0], "probing", 95.0)
    shown = status_of(view)["guards"][0]
    assert shown["breaker"]["state"] == "half_open"
    assert shown["breaker"]["opened_at"] is None
    assert shown["breaker"]["probes_in_flight"] == 1
    assert [permit["probe"] for permit in shown["permits"]] == [True]


def test_a_guard_without_breaker_says_so(view: View) -> None:
    """Upgrades have a limit and no breaker; `null` tells it."""
    assert status_of(view)["guards"][1]["breaker"] is None


def test_status_tells_of_a_drain(view: View) -> None:
    """During a shutdown the time left is shown."""
    assert (status_of(view)["state"], status_of(view)["drain_remaining_s"]) == ("serving", None)
    view.drain_remaining_s = 0.0
    assert (status_of(view)["state"], status_of(view)["drain_remaining_s"]) == ("draining", 0.0)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://backend:1", "http://backend:1"),
        ("http://me:pass@backend:1/base", "http://***@backend:1/base"),
        ("https://token@backend", "https://***@backend"),
        ("http://me:p@ss/w@rd@backend", "http://***@backend"),
        ("unix:/run/backend@1.sock", "unix:/run/backend@1.sock"),
    ],
)
def test_the_backends_password_is_masked(url: str, shown: str) -> None:
    """Whoever may look at the status does not learn how to log in to the backend."""
    assert masked(url) == shown


# -- recent refusals ----------------------------------------------------------------------


def test_recent_refusals_are_kept_newest_first_and_bounded(view: View) -> None:
    """The last 50 are there however many there were; answered requests are not among them."""
    for number in range(KEPT + 10):
        view.refusals.request(refusal(request_id=f"req-{number}"))
        view.refusals.request(completion(request_id="fine"))
    shown = status_of(view)["recent_refusals"]
    assert len(shown) == KEPT
    assert shown[0] == {
        "at": "2026-03-01T12:00:00.123Z",
        "request_id": f"req-{KEPT + 9}",
        "route": "inference",
        "reason": "queue_full",
        "path": "/v1/chat/completions",
        "caller": "key:1a2b3c4d",
    }


def test_recent_refusals_carry_the_time_of_day() -> None:
    """Without being given a clock they use the real one, in UTC."""
    refusals = RecentRefusals()
    refusals.request(refusal())
    assert refusals.newest_first()[0].at.tzinfo is UTC


# -- the page -----------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects what is on a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.loaded: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in ("href", "src"):
                self.loaded.append(value or "")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_shows_state_and_links(view: View) -> None:
    """One look tells whether all is well, and where to look further."""
    ask(view.guards[0], "req-1", 90.0)
    reader = Reader(page(status_of(view), "noon"))
    text = " ".join(reader.texts)
    assert "serving" in text
    assert "http://***@backend:18789" in text
    assert "up for 1 h 2 min" in text
    assert "1 of 3" in text
    assert "closed" in text
    assert "None." in text
    assert reader.links == ["/status", "/metrics", "/readyz", "/livez"]


def test_the_page_shows_an_open_breaker_a_drain_and_refusals(view: View) -> None:
    """In trouble it says what the trouble is."""
    fail_until_open(view.guards[0], 70.0)
    view.drain_remaining_s = 12.0
    view.refusals.request(refusal(reason="circuit_open"))
    text = "".join(Reader(page(status_of(view), "noon")).texts)
    assert "draining, at most 12 s to go" in text
    assert "open, 30.0 s to go: reset" in text
    assert "5 of 5" in text
    assert "circuit_open" in text


def test_the_page_shows_an_operators_override(view: View) -> None:
    """A breaker that only watches is not taken for one that guards."""
    view.guards[0].set_breaker_mode(BreakerMode.OBSERVE, 90.0)
    assert "(mode observe)" in page(status_of(view), "noon")


def test_the_page_shows_what_the_backend_says_of_itself(view: View) -> None:
    """A model that loads is told from one that is broken."""
    permit = ask(view.guards[0], "req-1", 70.0)
    assert isinstance(permit, Permit)
    view.guards[0].settle(permit, LOADING, 70.0)
    assert "closed; the backend is warming" in "".join(Reader(page(status_of(view), "noon")).texts)


def test_the_page_shows_a_limit_that_still_rises(view: View) -> None:
    """After a recovery one sees why requests wait although slots are free."""
    view.guards[0] = make_guard(breaker=BreakerConfig(open_s=10.0, ramp_s=20.0))
    fail_until_open(view.guards[0], 70.0)
    probe = ask(view.guards[0], "probe", 85.0)
    assert isinstance(probe, Permit)
    view.guards[0].settle(probe, WENT_WELL, 94.0)
    assert "0 of 1, rising to 3" in page(status_of(view), "noon")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (300, "5 min"), (90_000, "1 d 1 h")],
)
def test_durations_are_written_for_people(view: View, seconds: float, shown: str) -> None:
    """Nobody has to divide by 3,600."""
    status = status_of(view) | {"uptime_s": seconds}
    assert f"up for {shown};" in page(status, "noon")


def test_the_page_needs_nothing_else_and_runs_nothing(view: View) -> None:
    """No script and no other resource, so it works without network and under a strict policy."""
    reader = Reader(page(status_of(view), "noon"))
    assert "script" not in reader.tags
    assert reader.loaded == []


async def test_what_clients_send_cannot_become_markup(admin: Admin, view: View) -> None:
    """A path with tags in it is shown as text, and one with odd bytes breaks neither view."""
    view.refusals.request(refusal(path=HOSTILE))
    ask(view.guards[0], "req-1", 90.0, path=HOSTILE)
    html = await (await admin.get("/")).text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u001b[31m\\udcff" in html
    shown = await (await admin.get("/status")).json()
    assert shown["guards"][0]["permits"][0]["path"] == HOSTILE.replace("\udcff", "\\udcff")


# -- routes -------------------------------------------------------------------------------


async def test_the_policy_allows_exactly_the_pages_own_style(admin: Admin) -> None:
    """The browser runs and loads nothing but the style in the page itself."""
    answer = await admin.get("/")
    style = re.search(r"<style>(.*?)</style>", await answer.text(), re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/metrics", "/livez", "/readyz", "/status"])
async def test_head_works_everywhere(admin: Admin, path: str) -> None:
    """Checkers that only ask for the head get it, with the type and length of the answer."""
    got, head = await admin.get(path), await admin.head(path)
    assert (head.status, await head.read()) == (200, b"")
    assert head.headers["Content-Type"] == got.headers["Content-Type"]
    assert got.headers["Cache-Control"] == "no-store"


async def test_metrics_follow_the_accept_header(admin: Admin) -> None:
    """Prometheus gets OpenMetrics when it asks for it, everybody else the classic text."""
    classic = await admin.get("/metrics")
    assert classic.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    modern = await admin.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert modern.headers["Content-Type"].startswith("application/openmetrics-text")
    assert (await modern.read()).endswith(b"# EOF\n")


async def test_readiness_is_a_status_with_a_reason(admin: Admin, view: View) -> None:
    """A probe sees the status, a person why."""
    ready = await admin.get("/readyz")
    assert (ready.status, await ready.json()) == (200, {"ready": True, "reason": "ready"})
    view.ready = (False, "draining")
    unready = await admin.get("/readyz")
    assert (unready.status, await unready.json()) == (503, {"ready": False, "reason": "draining"})


async def test_other_paths_are_404_in_json(admin: Admin) -> None:
    """A misspelt path is told as such, in the form everything else has."""
    answer = await admin.get("/matrix")
    assert (answer.status, await answer.json()) == (404, {"error": "not_found", "path": "/matrix"})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_405_with_allow(admin: Admin, method: str) -> None:
    """Nothing can be changed here, and the answer says what can be done."""
    answer = await admin.request(method, "/status")
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET,HEAD"
    assert (await answer.json())["error"] == "method_not_allowed"


async def test_a_broken_view_harms_only_its_own_answer(admin: Admin, view: View) -> None:
    """A bug behind one route is a 500 without details; liveness and the rest go on."""
    view.broken = True
    broken = await admin.get("/status")
    assert (broken.status, "secret" in await broken.text()) == (500, False)
    assert (await admin.get("/livez")).status == 200
    assert (await admin.get("/metrics")).status == 200


# -- slow and broken clients --------------------------------------------------------------


class HugeView(View):
    """Answers with more than the kernel takes, and tells which task served it."""

    def __init__(self) -> None:
        super().__init__()
        self.task: asyncio.Future[asyncio.Task[Any] | None] = asyncio.Future()

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        self.task.set_result(asyncio.current_task())
        return b"x" * 100_000_000, accept or "text/plain"


async def test_a_client_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks and never reads costs neither memory nor a connection for long."""
    monkeypatch.setattr(server, "WRITE_S", 0.05)
    view = HugeView()
    async with TestServer(build_app(view)) as test_server:
        assert test_server.port is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", test_server.port, limit=1)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        task = await view.task
        assert task is not None
        await asyncio.wait([task])
        received = 0
        try:
            while piece := await reader.read(1_000_000):
                received += len(piece)
        except ConnectionResetError:
            pass
        writer.close()
        assert received < 100_000_000


async def test_the_runner_serves_and_stops_with_an_idle_client(view: View) -> None:
    """A connection that says nothing does not hold up the end of the process."""
    runner = build_runner(build_app(view))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    idle_reader, idle_writer = await asyncio.open_connection(host, port)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body) == {"alive": True}
    async with asyncio.timeout(5):
        await runner.cleanup()
        assert await idle_reader.read() == b""
    idle_writer.close()
    writer.close()


# -- documentation ------------------------------------------------------------------------


def test_every_route_is_documented_and_every_documented_route_exists(view: View) -> None:
    """docs/admin.md lists each route, and no other."""
    documented = set(re.findall(r"^\| `(/\w*)` \|", DOCS.read_text(), re.MULTILINE))
    routes = {resource.canonical for resource in build_app(view).router.resources()}
    assert documented == routes


def test_the_documented_status_has_the_real_shape(view: View) -> None:
    """The example in docs/admin.md has every key of a real answer, in its order."""
    view.guards = [make_guard(max_concurrent=1)]
    assert isinstance(ask(view.guards[0], "holds", 90.0), Permit)
    assert isinstance(ask(view.guards[0], "waits", 90.0), Ticket)
    view.refusals.request(refusal())
    example = json.loads(re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)[0])
    assert _shape(example) == _shape(status_of(view))


def _shape(value: object) -> object:
    """Keys in their order, without the values."""
    if isinstance(value, dict):
        return [(key, _shape(inner)) for key, inner in value.items()]
    return [_shape(inner) for inner in value] if isinstance(value, list) else None
