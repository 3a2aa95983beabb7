"""Can a request write into the log, the metrics, the pages or somebody's head what is not so?"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.abuse.backend import Backend
from tests.abuse.hostile import FIELDS, HOSTILE, MARK, SECRET
from tests.abuse.process import Sidecar, sidecar
from tests.abuse.sockets import connect
from tests.e2e.harness import CHAT

UNPRINTABLE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


@pytest.fixture(params=["json", "console"])
def attacked(request: pytest.FixtureRequest, backend: Backend) -> Iterator[Sidecar]:
    """A sidecar with each kind of log."""
    settings = {"log.format": request.param, "limits.max_connections": 100}
    with sidecar(backend.url, settings) as process:
        yield process


def heads(value: bytes) -> Iterator[bytes]:
    """Requests with the value everywhere it may stand, one field a request, and in the body."""
    key = b"Authorization: Bearer " + SECRET
    for field in FIELDS:
        yield b"GET /free HTTP/1.1\r\nHost: a\r\n%b\r\n%b: %b\r\n\r\n" % (key, field, value)
    target = value.replace(b" ", b"%20").replace(b"#", b"%23")
    yield b"GET /free%b HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % (target, key)
    yield b"GET /free?key=%b&%b HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % (SECRET, target, key)
    text = value.decode("latin-1")
    body = json.dumps({"model": text, "stream": text}).encode()
    yield b"POST %b HTTP/1.1\r\nHost: a\r\n%b\r\nContent-Length: %d\r\n\r\n%b" % (
        CHAT.encode(), key, len(body), body,
    )  # fmt: skip


METHODS = [b"G", b"FORGED", b"!#$%&'*+-.^_`|~", b"GET" * 300]


def series(text: str) -> set[tuple[str, str]]:
    """Names and labels of everything in a scrape, by the strict parser of the format."""
    return {
        (sample.name, str(sorted(sample.labels.items())))
        for family in parse_text(text)
        for sample in family.samples
    }


def test_nothing_that_a_client_says_forges_what_is_told(attacked: Sidecar) -> None:
    """One request, one line of the log; no series, no page and no head but the true ones."""
    before = series(attacked.admin_get("/metrics").decode())
    sent = 0
    with connect(attacked.proxy) as sock:
        for value in HOSTILE.values():
            for data in heads(value):
                assert_answer_is_ours(exchange(sock, data))
                sent += 1
        for method in METHODS:
            data = b"%b /free HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" % method
            assert_answer_is_ours(exchange(sock, data))
            sent += 1
    for value in HOSTILE.values():  # unreadable: the line ends are real
        with connect(attacked.proxy) as sock:
            answer = exchange(sock, b"GET /free HTTP/1.1\r\nHost: a\r\nX: y\n%b\r\n\r\n" % value)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert MARK not in answer
        sent += 1
    attacked.until_gained("client_connections_ended_total", len(HOSTILE) + 1)
    assert_metrics_are_true(attacked, before, sent)
    assert_log_is_true(attacked, sent)
    for path in ("/status", "/"):
        page = attacked.admin_get(path)
        assert b"<script" not in page
        assert SECRET not in page
    json.loads(attacked.admin_get("/status"))


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send one request and read its answer to the end that its Content-Length says."""
    sock.sendall(data)
    answer = b""
    while not (match := re.search(rb"Content-Length: (\d+)\r\n(?s:.*?)\r\n\r\n", answer)) or (
        len(answer) < match.end() + int(match[1])
    ):
        piece = sock.recv(65536)
        assert piece, answer
        answer += piece
    return answer


def assert_answer_is_ours(answer: bytes) -> None:
    """The head holds what the backend and the sidecar say, and of the client at most a good id."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    assert status == b"HTTP/1.1 200 OK"
    assert body == b"ok"
    names = [line.partition(b":")[0] for line in lines]
    assert names == [b"Content-Length", b"Via", b"X-Request-Id", b"Date"]
    assert re.fullmatch(rb"X-Request-Id: [A-Za-z0-9._:/+=@-]{1,128}", lines[2])


def assert_metrics_are_true(attacked: Sidecar, before: set[tuple[str, str]], sent: int) -> None:
    after = attacked.admin_get("/metrics").decode()
    assert series(after) == before
    assert MARK.decode() not in after
    openmetrics = attacked.admin_get(
        "/metrics", "Accept: application/openmetrics-text; version=1.0.0"
    ).decode()
    assert list(parse_openmetrics(openmetrics))  # type: ignore[no-untyped-call]
    assert attacked.metrics().value("requests_total") == sent


def assert_log_is_true(attacked: Sidecar, sent: int) -> None:
    raw = attacked.log.read_bytes()
    assert SECRET not in raw
    text = raw.decode()  # strictly: all of it is UTF-8
    assert not UNPRINTABLE.search(text)
    lines = text.removesuffix("\n").split("\n")
    assert len(lines) == text.count("\n")
    if not raw.startswith(b"{"):
        assert len([line for line in lines if re.match(r"\S+ \[\w+ *\] request +", line)]) == sent
        assert max(map(len, lines)) < 2000
        return
    told = [json.loads(line, object_pairs_hook=unique) for line in lines]
    requests = [line for line in told if line["event"] == "request"]
    assert len(requests) == sent
    assert {line["event"] for line in told} == {"request", "started"}
    for line in requests:
        assert line.keys() == requests[0].keys()
        assert line["caller"] == "127.0.0.1" or re.fullmatch("key-[0-9a-f]{12}", line["caller"])
        assert re.fullmatch(r"[A-Za-z0-9._:/+=@-]{1,128}", line["request_id"])
        assert line["trace_id"] is None
        assert line["route"] in {"free", "inference"}
        assert len(line["path"]) <= 1027
        assert len(line["method"]) <= 35
    paths = {line["path"] for line in requests}
    assert "/free" + HOSTILE["json"].decode() in paths, "told as it was sent"


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object that has each key once."""
    found = dict(pairs)
    assert len(found) == len(pairs), pairs
    return found
