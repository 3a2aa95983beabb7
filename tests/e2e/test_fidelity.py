"""Do messages cross as they are: targets, fields, identities, sizes, framing, interim answers?

What is asked of single heads is in `tests/proxy/test_fields.py`, and of bodies in `test_truth.py`.
"""

from __future__ import annotations

import gzip
import re

import pytest

from sidecar.telemetry.facts import RequestFact
from tests.e2e.harness import (
    CHAT,
    Hand,
    answering,
    asked,
    assert_refusal,
    chat,
    guarded,
    on_both_loops,
    status_line,
)
from tests.support.origin import JSON_OK, LAST_CHUNK, Origin, json_ok, respond
from tests.support.wire import request

# -- what is asked for ---------------------------------------------------------------------------

TARGETS = [
    "/a%2Fb%2f%zz%",
    "//double//slashes//",
    "/./dots/../and/..",
    "/?",
    "/path?",
    "/?&&=&a=1&a=2",
    "/q?x=/../?y#".removesuffix("#"),
    "/caf\xc3\xa9?\xff",
    '/{curly}|pipe\\back^hat`tick"quote',
    "/;param=1;v1.2/:colon@at!$&'()*+,",
    "/" + "long" * 2000,
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:20])
@pytest.mark.parametrize("method", ["GET", "POST", "BREW"])
async def test_the_target_arrives_byte_for_byte(method: str, target: str) -> None:
    """Encoded or not, odd, empty, doubled or long: nobody tidies it up, for any method."""
    async with Origin(json_ok) as origin, guarded(origin.url) as side:
        body = b"{}" if method == "POST" else None
        assert (await side.ask(request(method, target, body), method)).status == 200
        assert origin.requests[0].request_line == f"{method} {target} HTTP/1.1"


async def test_a_guarded_target_arrives_as_it_was_spelt() -> None:
    """To be guarded is told from what a path means; what is sent on is what was said."""
    target = "/V1//x/../chat/completions/?api-version=1"
    async with Origin(json_ok) as origin, guarded(origin.url) as side:
        assert (await side.ask(request("POST", target, b"{}"))).status == 200
        assert origin.requests[0].target == target
        assert (await side.metrics()).value("requests_total", route="inference") == 1


@pytest.mark.parametrize(
    ("line", "arrives", "host"),
    [
        ("OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1", "test"),
        ("OPTIONS http://b:8 HTTP/1.1", "OPTIONS * HTTP/1.1", "b:8"),
        ("GET http://b/p//q?r HTTP/1.1", "GET /p//q?r HTTP/1.1", "b"),
        ("GET http://b HTTP/1.1", "GET / HTTP/1.1", "b"),
    ],
)
async def test_asterisk_and_absolute_forms_arrive(line: str, arrives: str, host: str) -> None:
    """`*` for the server as a whole; a whole URL as a path with its own Host."""
    data = f"{line}\r\nHost: test\r\n\r\n".encode()
    async with Origin(json_ok) as origin, guarded(origin.url) as side:
        assert (await side.ask(data, line.partition(" ")[0])).status == 200
        assert origin.requests[0].request_line == arrives
        assert [value for name, value in origin.requests[0].fields if name == "Host"] == [host]


# -- how long a head may be ----------------------------------------------------------------------


def head_of(size: int) -> bytes:
    """A request head of so many bytes."""
    empty = request("GET", "/x", fields=[("X-Long", "")])
    return request("GET", "/x", fields=[("X-Long", "x" * (size - len(empty)))])


@pytest.mark.parametrize("limit", [None, 64 * 1024])
@on_both_loops
async def test_a_long_head_passes_up_to_the_limit(limit: int | None) -> None:
    """32 KiB, or what `limits.head_bytes` says; a single byte more is told apart."""
    settings = {} if limit is None else {"limits.head_bytes": limit}
    most = limit or 32 * 1024
    async with Origin(json_ok) as origin, guarded(origin.url, settings) as side:
        assert (await side.ask(head_of(most), "GET")).status == 200
        assert len(origin.requests[0].value("X-Long") or "") > most - 100
        refusal = await side.ask(head_of(most + 1), "GET")
        assert_refusal(refusal, "head_too_large", 431, retry=False)
        assert len(origin.requests) == 1


@on_both_loops
async def test_a_long_head_of_the_backend_passes() -> None:
    """200 KiB of cookies are its own affair."""
    cookies = [f"Set-Cookie: c{number}={'x' * 1000}" for number in range(200)]
    async with Origin(respond(status_line(200, cookies))) as origin, guarded(origin.url) as side:
        response = await side.ask(chat())
        assert response.values("set-cookie") == [cookie[12:] for cookie in cookies]


# -- whose request it is -------------------------------------------------------------------------

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


async def fact_of(fields: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], RequestFact]:
    """What the backend gets and what is told of a request with these fields."""
    facts: list[RequestFact] = []
    async with Origin(json_ok) as origin, guarded(origin.url) as side:
        side.sidecar.proxy.handler._on_request = facts.append
        response = await side.ask(chat(fields=fields))
        assert response.value("x-request-id") == facts[0].request_id
        return origin.requests[0].fields, facts[0]


@pytest.mark.parametrize(
    ("value", "trace_id"),
    [
        (f"00-{TRACE_ID}-00f067aa0ba902b7-01", TRACE_ID),
        (f"cc-{TRACE_ID}-00f067aa0ba902b7-01-what-the-future-will-bring", TRACE_ID),
        (f"ff-{TRACE_ID}-00f067aa0ba902b7-01", ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE_ID}-{'0' * 16}-01", ""),
        (f"00-{TRACE_ID.upper()}-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE_ID}-00f067aa0ba902b7-01-more", ""),
        ("nonsense", ""),
    ],
)
async def test_a_trace_goes_on(value: str, trace_id: str) -> None:
    """`traceparent` and `tracestate` pass untouched; a valid trace's id stands in the log."""
    given = [("traceparent", value), ("TraceState", "a=1,b=2"), ("tracestate", "c=3")]
    fields, fact = await fact_of(given)
    assert [field for field in fields if field[0].lower().startswith("trace")] == given
    assert fact.trace_id == trace_id


async def test_no_trace_is_begun() -> None:
    """Without a `traceparent` none is made up."""
    fields, fact = await fact_of([])
    assert not [name for name, _ in fields if name.lower().startswith("trace")]
    assert fact.trace_id == ""


@pytest.mark.parametrize("given", ["a", "req_01HZX.:/+=@-_", "x" * 128])
async def test_a_good_request_id_is_kept(given: str) -> None:
    """By the backend, in the answer and in the log it is the client's own."""
    fields, fact = await fact_of([("x-request-ID", given)])
    assert [value for name, value in fields if name.lower() == "x-request-id"] == [given]
    assert fact.request_id == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", 'a"b', "a,b", "caf\xe9", "a\tb", "<a>"])
async def test_another_request_id_is_replaced(given: str) -> None:
    """What could spoil a log line is not passed on; a fresh one takes its place."""
    fields, fact = await fact_of([("X-Request-Id", given)])
    (sent,) = [value for name, value in fields if name.lower() == "x-request-id"]
    assert sent == fact.request_id
    assert re.fullmatch(r"[0-9a-f]{10}-[0-9a-f]+", sent)


# -- what is answered ----------------------------------------------------------------------------


async def test_coded_content_is_not_touched() -> None:
    """What is compressed stays so, whatever the client takes; a wrong coding is passed on too."""
    body = gzip.compress(b"hello" * 1000)
    for coding in ("gzip", "br", "zstd, gzip"):
        answer = status_line(200, [f"Content-Encoding: {coding}", "ETag: W/x"], body)
        async with Origin(respond(answer)) as origin, guarded(origin.url) as side:
            data = request("POST", CHAT, body, [("Content-Encoding", coding)])
            response = await side.ask(data)
            assert response.body == body
            assert response.value("content-encoding") == coding
            assert origin.requests[0].body == body
            assert origin.requests[0].value("accept-encoding") is None


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 205 Reset Content\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST_CHUNK,
    ],
)
async def test_a_205_ends_where_its_framing_says(answer: bytes) -> None:
    """It has a length like any other (RFC 9112, 6.3), and both connections go on."""
    async with Origin(respond(answer)) as origin, guarded(origin.url) as side:
        async with side.client() as client:
            for _ in range(3):
                await client.send(chat())
                response = await client.read_response("POST")
                assert (response.status, response.body, response.complete) == (205, b"", True)
                assert response.head.startswith(answer.partition(b"\r\n\r\n")[0])
                assert client.stream.unread == b""
        assert origin.accepted_count == 1


async def test_a_205_without_a_length_ends_with_its_connection() -> None:
    """As any answer does; nothing of what comes before its end is lost."""
    hand = Hand()
    async with Origin(hand) as origin, guarded(origin.url) as side, side.client() as client:
        await client.send(chat())
        backend = await asked(origin, 1)
        backend.send(b"HTTP/1.1 205 Reset Content\r\n\r\n")
        assert b"Transfer-Encoding: chunked" in await client.read_head()
        backend.close()
        assert await client.read_until(LAST_CHUNK) == LAST_CHUNK


@pytest.mark.parametrize("path", [CHAT, "/page"])
@on_both_loops
async def test_each_interim_answer_is_there_before_the_next(path: str) -> None:
    """Early hints are early: the client has them while the backend still works."""
    async with Origin(Hand()) as origin, guarded(origin.url) as side, side.client() as client:
        await client.send(request("POST", path, b"{}"))
        backend = await asked(origin, 1)
        for number in range(3):
            hints = f"HTTP/1.1 103 Early Hints\r\nLink: </{number}>\r\nlink: <x>\r\n\r\n".encode()
            backend.send(hints)
            assert await client.read_head() == hints
        backend.send(JSON_OK)
        assert (await client.read_response("POST")).json() == {"ok": True}


async def test_every_status_passes() -> None:
    """Also those that nobody has defined, with their own words."""
    statuses = [*range(200, 204), *range(206, 304), *range(305, 600), 999]

    async with (
        Origin(answering(lambda got: status_line(int(got.target[1:])))) as origin,
        guarded(origin.url) as side,
        side.client() as client,
    ):
        for status in statuses:
            await client.send(request("GET", f"/{status}"))
            response = await client.read_response()
            assert (response.status, response.reason) == (status, "Some Reason")
        assert origin.accepted_count == 1
