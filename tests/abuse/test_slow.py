"""Who is slow on purpose: does good traffic go on, and does the slow one end?"""

from __future__ import annotations

import json
import time

import pytest

from tests.abuse.backend import Backend
from tests.abuse.conftest import PLACES, SLOTS
from tests.abuse.good_traffic import GoodTraffic
from tests.abuse.process import Sidecar, sidecar
from tests.abuse.sockets import connect, connections, drip, flood, read_all, read_now, reset
from tests.e2e.harness import CHAT

MANY = 40


def refusal_of(answer: bytes) -> tuple[int, str, str]:
    """Status, reason and message of the sidecar's own answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    return int(head.split(b" ")[1]), error["code"], error["message"]


@pytest.mark.parametrize("start", [b"GET /", b"GET /free HTTP/1.1\r\nHost: a\r\nX: "])
def test_heads_that_never_end(tight: Sidecar, start: bytes) -> None:
    """They drip without pause; each is refused when `timers.head_s` is over, and counted."""
    with GoodTraffic(tight.proxy):
        with connections(tight.proxy, MANY) as socks:
            for sock in socks:
                sock.sendall(start)
            began_s = time.monotonic()
            drip(socks, b"x" * 100, lambda: time.monotonic() - began_s > 0.8)
            for sock in socks:
                status, reason, message = refusal_of(read_all(sock))
                assert (status, reason) == (408, "head_timeout")
                assert "timers.head_s" in message
        tight.until_gained("client_connections_ended_total", MANY, reason="unreadable")
        assert tight.gained("refusals_total", reason="head_timeout") == MANY


def test_a_head_that_comes_byte_by_byte_is_not_read_again_for_each(plain: Sidecar) -> None:
    """30 KB of it, then single bytes: each costs as little as the first."""
    count = 3000
    with GoodTraffic(plain.proxy), connect(plain.proxy) as sock:
        sock.sendall(b"GET /free HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 29_000)
        before_s = plain.cpu_s()
        for _ in range(count):
            sock.send(b"x")
            time.sleep(0.0002)  # or the kernel makes one segment of many
        sock.sendall(b"\r\nConnection: close\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 200 ")
    # Read anew each time it is 0.7 ms for each byte: all of the second that this takes.
    assert plain.cpu_s() - before_s < 0.45


def test_connections_that_say_nothing(tight: Sidecar) -> None:
    """They take nobody's place: a newcomer gets that of the one that has waited longest."""
    with (
        connect(tight.proxy) as first,
        connections(tight.proxy, 2 * PLACES),
        GoodTraffic(tight.proxy),
        connections(tight.proxy, 2 * PLACES, pause_s=0.005),
    ):
        assert first.recv(1) == b"", "the oldest went first"
        assert tight.gained("client_connections_ended_total", reason="made_room") >= PLACES
        assert tight.gained("refusals_total", reason="too_many_connections") == 0
        assert tight.metrics().value("connections", side="client") <= PLACES


def test_heads_that_drip_take_nobody_s_place_either(tight: Sidecar) -> None:
    """With all places taken by unfinished heads, newcomers still get in; the heads are told."""
    start = b"GET /free HTTP/1.1\r\nHo"
    with connections(tight.proxy, PLACES, first=start) as socks, GoodTraffic(tight.proxy):
        with connections(tight.proxy, PLACES // 2, first=start):
            tight.until_gained("refusals_total", 1, reason="too_many_connections")
        told = [answer for answer in map(read_now, socks) if b" 503 " in answer]
        assert told
        for answer in told:
            _, reason, message = refusal_of(answer)
            assert reason == "too_many_connections"
            assert "limits.max_connections" in message


GUARDED = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n".encode()


def test_uploads_that_drip_do_not_pin_slots(tight: Sidecar) -> None:
    """Single bytes keep no upload alive: 408 names the pace that was asked, and slots are free."""
    with connections(tight.proxy, 2 * SLOTS) as socks:
        for sock in socks[:SLOTS]:
            sock.sendall(GUARDED + bytes(2000))  # enough to get a slot, the rest drips
        tight.until_gained("in_flight", SLOTS, route="inference")
        for sock in socks[SLOTS:]:
            sock.sendall(GUARDED + bytes(500))  # these drip before they ask for one
        drip(socks, bytes(70), lambda: False)
        for sock in socks:
            status, reason, message = refusal_of(read_all(sock))
            assert (status, reason) == (408, "body_timeout")
            assert "limits.body_min_bytes_per_s, timers.body_stall_s" in message
    assert tight.gained("refusals_total", reason="body_timeout") == 2 * SLOTS
    with GoodTraffic(tight.proxy, guarded=True):
        pass


def test_an_upload_that_is_slow_but_steady_is_served(tight: Sidecar) -> None:
    """At the pace that is asked for, and with the pauses that are allowed, nobody is refused."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 300\r\n\r\n"
    with connect(tight.proxy) as sock:
        sock.sendall(head.encode())
        for _ in range(3):
            time.sleep(0.5)
            sock.sendall(bytes(100))
        assert read_all(sock).startswith(b"HTTP/1.1 200 ")


def test_readers_that_take_nothing(tight: Sidecar) -> None:
    """Large answers are not piled up for them, and `timers.write_stall_s` ends them."""
    readers = 20
    with GoodTraffic(tight.proxy):
        before = tight.resident_bytes()
        first = b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"
        with connections(tight.proxy, readers, first=first):
            tight.until_gained("requests_total", readers, outcome="client_stalled")
            grown = tight.resident_bytes() - before
        assert grown < readers * 1024 * 1024, "16 MiB each are on their way"
        tight.until_gained("client_connections_ended_total", readers, reason="cut")


def test_answers_to_a_pipeline_that_nobody_takes(tight: Sidecar) -> None:
    """Requests without end and no answer read: neither time nor memory of others is lost."""
    with GoodTraffic(tight.proxy), connect(tight.proxy) as sock:
        before = tight.resident_bytes()
        flood(sock, b"GET /some HTTP/1.1\r\nHost: a\r\n\r\n" * 5000, 20.0)
        assert tight.resident_bytes() - before < 16 * 1024 * 1024
        tight.until_gained("client_connections_ended_total", 1, reason="cut")


def test_refusals_of_a_pipeline_that_nobody_takes(backend: Backend) -> None:
    """Likewise where the sidecar itself says no to each of them."""
    settings = {"breaker.mode": "forced_open", "timers.write_stall_s": 1, "log.requests": "false"}
    with (
        sidecar(backend.url, settings) as attacked,
        attacked.attacked(),
        GoodTraffic(attacked.proxy),
        connect(attacked.proxy) as sock,
    ):
        before = attacked.resident_bytes()
        flood(sock, f"POST {CHAT} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 5000, 20.0)
        assert attacked.resident_bytes() - before < 16 * 1024 * 1024
        attacked.until_gained("client_connections_ended_total", 1, reason="write_stall")


def test_a_tunnel_whose_other_end_does_not_read(plain: Sidecar) -> None:
    """What a WebSocket's client sends is not piled up while the backend takes nothing."""
    with GoodTraffic(plain.proxy), connect(plain.proxy) as sock:
        sock.sendall(
            b"GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
        )
        assert sock.recv(65536).startswith(b"HTTP/1.1 101 ")
        before = plain.resident_bytes()
        flood(sock, bytes(1024 * 1024), 2.0)
        assert plain.resident_bytes() - before < 16 * 1024 * 1024
        reset(sock)  # noticed although nothing is read from it


def test_a_reader_that_takes_nothing_does_not_stop_those_after_it(plain: Sidecar) -> None:
    """The connection to the backend that served it serves the next client as any other."""
    with connections(plain.proxy, 1) as [sock]:
        flood(sock, b"GET /some HTTP/1.1\r\nHost: a\r\n\r\n" * 1000, 2.0)
        with GoodTraffic(plain.proxy):
            time.sleep(0.3)
