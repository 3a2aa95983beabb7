"""Who connects and connects: does good traffic go on, does the log stay short, is all as before?"""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from tests.abuse.backend import Backend
from tests.abuse.conftest import PLACES
from tests.abuse.good_traffic import GoodTraffic
from tests.abuse.process import Sidecar, sidecar
from tests.abuse.sockets import ask, connect, connections, read_all, read_now, reset
from tests.e2e.harness import CHAT
from tests.support.wire import request

STORM = 2000


def test_connections_that_are_reset_at_once(plain: Sidecar) -> None:
    """Thousands of them leave nothing behind, no line in the log and no open file."""
    lines, files = len(plain.lines()), plain.open_files()
    with GoodTraffic(plain.proxy, new=False) as good:
        for _ in range(STORM):
            reset(connect(plain.proxy))
        plain.until_gained("client_connections_ended_total", STORM, reason="client_left_idle")
    assert len(plain.lines()) - lines == len(good.took_s)
    assert plain.open_files() <= files + 2, "the backend's kept connection, and a scrape"


CHAT_HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n".encode()
PHASES = {
    "in_the_head": (b"GET /free HTT", "", "client_left_in_head"),
    "in_the_body": (CHAT_HEAD + b"{", "", "client_left_in_request"),
    "in_a_free_body": (CHAT_HEAD.replace(b"/v1", b"/x") + b"{", "", "client_left_in_request"),
    "before_the_answer": (request("GET", "/hang"), "", "client_left_in_request"),
    "in_a_stream": (request("GET", "/stream"), "data: 1", "client_left_in_request"),
    "in_a_large_answer": (request("GET", "/big"), "Content-Length", "client_left_in_request"),
    "after_the_answer": (request("GET", "/free"), "ok", "client_left_idle"),
    "in_a_tunnel": (
        request("GET", "/tunnel", fields=[("Connection", "Upgrade"), ("Upgrade", "x")]),
        "101",
        "client_left_in_request",
    ),
}


@pytest.mark.parametrize("phase", PHASES)
def test_resets_in_every_phase(plain: Sidecar, phase: str) -> None:
    """Whatever a client was doing, nothing of it is left, on neither side."""
    first, seen, end = PHASES[phase]
    count = 50
    with GoodTraffic(plain.proxy):
        for _ in range(count // 10):
            with connections(plain.proxy, 10, first=first) as socks:
                for sock in socks if seen else []:
                    assert seen.encode() in sock.recv(300)
        plain.until_gained("client_connections_ended_total", count, reason=end)


def test_resets_while_they_wait_for_a_slot(plain: Sidecar) -> None:
    """A queue full of clients that vanish is empty again, and the slots go to others."""
    count = 60
    chat = request("POST", f"/hang{CHAT}", b"{}")
    for _ in range(3):
        with connections(plain.proxy, count, first=chat), GoodTraffic(plain.proxy):
            plain.until_gained("waiting", count - 3, route="inference")
    plain.until_quiet()
    assert plain.gained("client_cancels_total", phase="queued") == 3 * (count - 3)
    with GoodTraffic(plain.proxy, guarded=True):
        pass


# -- running out of places and of files -------------------------------------------------------

OPEN_FILES = 100


def storm(port: int, count: int) -> list[socket.socket]:
    """Connections that are not waited for: some may never be accepted."""
    socks = []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(("127.0.0.1", port))
        socks.append(sock)
    return socks


def test_running_out_of_files(backend: Backend) -> None:
    """Accept storms neither spin nor flood the log; existing traffic goes on; then all is well."""
    with (
        sidecar(backend.url, open_files=OPEN_FILES) as attacked,
        GoodTraffic(attacked.proxy, new=False) as good,
    ):
        # Each of these is at work and keeps two files open, so that none can make room.
        busy = [connect(attacked.proxy) for _ in range(OPEN_FILES // 4 - 5)]
        for sock in busy:
            sock.sendall(request("GET", "/hang"))
        waves = [storm(attacked.proxy, 300) for _ in range(3)]
        time.sleep(0.2)
        before_s, began_s = attacked.cpu_s(), time.monotonic()
        answered = len(good.took_s)
        time.sleep(1.0)
        spent = (attacked.cpu_s() - before_s) / (time.monotonic() - began_s)
        assert not good.error, good.error
        assert len(good.took_s) > answered, "existing connections are served"
        assert spent < 0.5, f"{spent:.0%} of a core, for good traffic alone it is 10 %"
        for sock in [*busy, *(sock for wave in waves for sock in wave)]:
            reset(sock)
        attacked.until_quiet(clients=1)
        other = [line for line in attacked.lines() if line.get("path") != "/free"]
        assert len(other) < 150, "hundreds of connections, a second or two"
        with GoodTraffic(attacked.proxy):
            pass  # newcomers too
        assert attacked.open_files() < 40


def test_no_file_left_for_the_backend(backend: Backend) -> None:
    """It is said to be our own want, for each request; the breaker does not hear of it."""
    count = 10
    settings = {"max_concurrent": count, "log.level": "error"}
    with sidecar(backend.url, settings, open_files=OPEN_FILES) as attacked:
        # The admin port has no limit of its own: its connections eat up the files.
        with (
            connections(attacked.proxy, count) as socks,
            connections(attacked.admin, OPEN_FILES),
        ):
            while attacked.open_files() < OPEN_FILES:
                pass  # another process: nothing to await
            for sock in socks:
                sock.sendall(request("POST", CHAT, b"{}", [("Connection", "close")]))
            answers = [read_all(sock) for sock in socks]
        refused = [answer for answer in answers if b"out_of_files" in answer]
        assert refused
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in refused)
        assert all(b"(ulimit -n)" in answer for answer in refused)
        # One who is refused and leaves makes room for another.
        assert all(b" 200 OK" in answer for answer in answers if answer not in refused)
        scrape = attacked.metrics()
        assert scrape.value("refusals_total", reason="out_of_files") == len(refused)
        assert scrape.value("breaker_consecutive_failures", route="inference") == 0


def test_a_storm_at_a_full_door(tight: Sidecar) -> None:
    """With all places at work, newcomers are told so, most without a word, a few with a line."""
    hang = request("GET", "/hang")
    with connections(tight.proxy, PLACES, first=hang):
        tight.until_gained("connections", PLACES, side="upstream_busy")
        answer = ask(tight.proxy, b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"limits.max_connections)" in answer
        lines = len(tight.lines())
        socks = storm(tight.proxy, 300)
        tight.until_gained("client_connections_total", PLACES + 301)
        told = sum(b" 503 " in read_now(sock) for sock in socks)
        assert 1 <= told <= 2 * PLACES // 4, "a quarter of the places, for 2 s"
        for sock in socks:
            reset(sock)
        tight.until_gained("client_connections_ended_total", 301, reason="turned_away")
        for sock in storm(tight.proxy, 300):
            reset(sock)
        assert len(tight.lines()) - lines < 100
    with GoodTraffic(tight.proxy):
        pass
