"""Who sends as much as the wire takes: is anybody else kept waiting, and is each flood refused?"""

from __future__ import annotations

import pytest

from tests.abuse.good_traffic import GoodTraffic
from tests.abuse.process import Sidecar
from tests.abuse.sockets import ask, connect, connections, flood
from tests.e2e.harness import CHAT
from tests.support.wire import request

CHUNKED = b"POST /free HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
UPLOAD = b"POST /free HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n"
FLOOD_S = 0.7


def test_empty_lines_without_end(plain: Sidecar) -> None:
    """A few before a request are passed over; a flood of them is no request."""
    with GoodTraffic(plain.proxy), connect(plain.proxy) as sock:
        before_s = plain.cpu_s()
        flood(sock, b"\r\n" * 500_000, FLOOD_S)
        # Taken off one by one, 256 KB of them took 2 s.
        assert plain.cpu_s() - before_s < 1.5
    plain.until_gained("refusals_total", 1, reason="bad_request")


@pytest.mark.parametrize(
    "piece",
    [
        b"1\r\nx\r\n",
        b"f\r\n0123456789abcde\r\n",
        b"1;x=y\r\nx\r\n",
        b"1" + b";x" * 500 + b"\r\nx\r\n",
        b"40\r\n" + b"x" * 64 + b"\r\n",
    ],
    ids=["single_bytes", "15_bytes", "extensions", "long_extensions", "64_bytes"],
)
def test_chunks_that_are_mostly_framing(plain: Sidecar, piece: bytes) -> None:
    """Four uploads at once, each in as many chunks as it can make: others get their turn."""
    with GoodTraffic(plain.proxy), connections(plain.proxy, 4, first=CHUNKED) as socks:
        before = plain.resident_bytes()
        for sock in socks:
            flood(sock, piece * (256_000 // len(piece)), FLOOD_S / 4)
        assert plain.resident_bytes() - before < 16 * 1024 * 1024


def test_uploads_at_full_speed(plain: Sidecar) -> None:
    """One that uploads as fast as the wire takes it shares the sidecar with everybody else."""
    with GoodTraffic(plain.proxy), connections(plain.proxy, 2, first=UPLOAD) as socks:
        for sock in socks:
            assert flood(sock, bytes(1024 * 1024), FLOOD_S) > 1024 * 1024


@pytest.mark.parametrize(
    ("head", "status", "limit"),
    [
        (b"GET /free HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 3000, 431, "limits.head_fields"),
        (b"GET /free HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 10_000, 431, "limits.head_bytes"),
        (b"GET /free HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 60_000, 431, "limits.head_bytes"),
        (b"GET /" + b"y" * 60_000 + b" HTTP/1.1\r\nHost: a\r\n", 414, "limits.head_bytes"),
        (b"GET /" + b"y" * 60_000, 414, "limits.head_bytes"),
        (b"G" * 60_000, 414, "limits.head_bytes"),
    ],
    ids=["fields", "many_fields", "a_field", "a_target", "a_target_without_end", "a_method"],
)
def test_heads_that_are_too_large(plain: Sidecar, head: bytes, status: int, limit: str) -> None:
    """Hundreds of them: each is told which limit it exceeds, and counted."""
    count = 100
    with GoodTraffic(plain.proxy):
        for _ in range(count):
            answer = ask(plain.proxy, head + b"\r\n")
            assert answer.startswith(b"HTTP/1.1 %d " % status)
            assert limit.encode() in answer
    assert plain.gained("refusals_total", reason="head_too_large") == count


def test_a_deep_pipeline_is_served_in_turns(plain: Sidecar) -> None:
    """Thousands of requests that are here at once, guarded ones among them, delay nobody."""
    count = 2000
    body = b"{}"
    guarded = request("POST", CHAT, body)
    with GoodTraffic(plain.proxy, guarded=True), connect(plain.proxy) as sock:
        sock.sendall((request("GET", "/free") + guarded) * (count // 2))
        answers = b""
        while answers.count(b"HTTP/1.1 200 ") < count:
            answers += sock.recv(65536)


def test_a_deep_pipeline_with_its_client_gone(plain: Sidecar) -> None:
    """Of what was sent ahead nothing is executed once its sender has left."""
    ahead = (request("GET", "/free") + request("POST", CHAT, b"{}")) * 500
    asked = plain.metrics().value("requests_total")
    with GoodTraffic(plain.proxy, new=False) as good:
        for _ in range(20):
            with connections(plain.proxy, 1, first=request("GET", "/hang") + ahead):
                plain.until_gained("connections", 1, side="upstream_busy")
        plain.until_gained("requests_total", 20, outcome="client_gone")
    assert plain.metrics().value("requests_total") - asked == 20 + len(good.took_s)
