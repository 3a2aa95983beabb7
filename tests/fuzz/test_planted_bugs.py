"""Can the fuzzer fail? Each bug planted here breaks a property, and one input shows it.

A property that no bug could break would prove nothing. Some of these bugs were real.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from sidecar.admission.answers import Permit
from sidecar.admission.outcome import Ending as HowItEnded
from sidecar.admission.outcome import Outcome, OutcomeLabel
from sidecar.proxy import exchange as exchange_module
from sidecar.proxy import fields, handler, upstream
from sidecar.proxy.client import ClientConnection
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.handler import Handler
from sidecar.proxy.request_body import RequestBody
from sidecar.proxy.upstream import Upstream, UpstreamConnection
from sidecar.proxy.waiting_room import WaitingRoom
from sidecar.proxy.wire import bodies, heads
from sidecar.proxy.wire.heads import Head
from tests.fuzz.plans import BYTE_BY_BYTE, IN_ONE_PIECE, Ending, Flag, Plan
from tests.fuzz.seeds import switching
from tests.fuzz.targets import TARGETS
from tests.fuzz.virtual_time import virtual_loop
from tests.proxy import same_meaning
from tests.proxy.response_tricks import EVIL
from tests.proxy.smuggling_corpus import GET, HELLO, SMUGGLED, chunked, field, post

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Planted:
    """One bug, and the input of the fuzzer that shows it."""

    name: str
    target: str
    plant: Plant
    data: bytes


def swap(owner: object, name: str, value: object) -> Plant:
    """The bug that something is another thing."""
    return lambda patch: patch.setattr(owner, name, value)


def around(owner: object, name: str, instead: Callable[..., Any]) -> Plant:
    """The bug that a function does `instead`, which gets the right one and its arguments."""
    right = getattr(owner, name)
    return swap(owner, name, lambda *args, **kwargs: instead(right, *args, **kwargs))


def nothing(*_: object, **__: object) -> None:
    """Do nothing at all."""


# -- on the way to the backend ------------------------------------------------------------------


def take_both_lengths(right: Callable[[Head], None], head: Head) -> None:
    if b"transfer-encoding" not in head.special:
        right(head)
    head.chunked = b"transfer-encoding" in head.special


def read_chunks_leniently(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(bodies, "_CHUNK_LINE", re.compile(rb"\s*(?:0x)?([0-9A-Fa-f]{1,15})[^\r\n]*"))
    patch.setattr(bodies, "_CHUNK_LINE_START", re.compile(rb"[^\n]*"))


def inject(right: Callable[..., bytes], *args: Any, **kwargs: Any) -> bytes:
    return right(*args, **kwargs).replace(b"\r\n", b"\r\nX-Injected: 1\r\n", 1)


def lose_a_field(right: Callable[..., bytes], *args: Any) -> bytes:
    return right(*args).replace(b"\r\nX-One: 1", b"")


def keep_a_spoilt_connection(
    right: Callable[[Exchange, HowItEnded], None], exchange: Exchange, ending: HowItEnded
) -> None:
    connection = exchange._connection
    if ending is HowItEnded.CLIENT_BODY and connection is not None:
        exchange._connection = connection._receiver = None
        connection._owner.freed(connection)
    right(exchange, ending)


def keep_the_permit(
    right: Callable[..., None], room: WaitingRoom, permit: Permit, outcome: Outcome
) -> None:
    if outcome.label is not OutcomeLabel.CLIENT_GONE:
        right(room, permit, outcome)


def await_no_body(_: RequestBody, __: int, ___: object, on_settled: Callable[[], None]) -> None:
    """Begin before the body is here."""
    on_settled()


def fail(*_: object) -> None:
    raise ValueError("a bug")


_SPACE_BEFORE_COLON = re.compile(heads._REQUEST_HEAD.pattern.replace(rb"++:[", rb"++[ ]*+:["))
_BOTH_LENGTHS = post(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=HELLO)
_GUARDED = post(b"Content-Length: 5", body=b"hello", line=b"POST /v1/chat/completions HTTP/1.1")

TO_THE_BACKEND = [
    Planted(name, "requests", plant, plan.with_bytes(raw))
    for name, plant, plan, raw in (
        (
            "both lengths are taken",
            around(heads, "_read_framing", take_both_lengths),
            IN_ONE_PIECE, _BOTH_LENGTHS,
        ),
        (
            "a space before a colon is taken",
            swap(heads, "_REQUEST_HEAD", _SPACE_BEFORE_COLON),
            IN_ONE_PIECE, post(b"Transfer-Encoding : chunked", body=HELLO),
        ),
        (
            "chunk sizes are read leniently",
            read_chunks_leniently,
            IN_ONE_PIECE, chunked(b"0x5\r\nhello\r\n0\r\n\r\n"),
        ),
        (
            "Connection may name the length",
            swap(fields, "_NEVER_HOP_BY_HOP", frozenset()),
            IN_ONE_PIECE,
            post(b"Connection: content-length", b"Content-Length: 34", body=SMUGGLED),
        ),
        (
            "hop-by-hop fields pass",
            swap(fields, "_HOP_BY_HOP", frozenset()),
            IN_ONE_PIECE, field(b"Keep-Alive: 1"),
        ),
        (
            "forwarding fields pass",
            swap(fields, "FORWARDING", frozenset()),
            IN_ONE_PIECE, field(b"X-Forwarded-For: 127.0.0.1"),
        ),
        ("a field is injected", around(fields.UpstreamHead, "of", inject), IN_ONE_PIECE, GET),
        (
            "a field is lost",
            around(fields.UpstreamHead, "of", lose_a_field),
            IN_ONE_PIECE, field(b"X-One: 1"),
        ),
        (
            "a connection with half a body is kept",
            around(Exchange, "_end", keep_a_spoilt_connection),
            BYTE_BY_BYTE, chunked(b"5\r\nhello\r\nx\r\n"),
        ),
        (
            "the slot is asked for before the body is here",
            swap(RequestBody, "gather", await_no_body),
            BYTE_BY_BYTE, _GUARDED[:-1],
        ),
        (
            "a permit is kept when the client leaves",
            around(WaitingRoom, "settle", keep_the_permit),
            Plan(Flag.SLOW_BACKEND, Ending.CLOSE), _GUARDED,
        ),
        (
            "a backend's connection is never forgotten",
            swap(Upstream, "lost", nothing),
            Plan(ending=Ending.RESET), GET,
        ),
        (
            "a silent client is kept",
            swap(ClientConnection, "_on_timer", nothing),
            Plan(ending=Ending.NEVER), GET[:-2],
        ),
        (
            "a connection lives on behind a refusal",
            swap(ClientConnection, "_linger", nothing),
            IN_ONE_PIECE, _BOTH_LENGTHS,
        ),
        (
            "an exception in a task",
            swap(Handler, "on_unreadable", fail),
            IN_ONE_PIECE, _BOTH_LENGTHS,
        ),
        (
            "a connection is kept paused behind a slow client",
            swap(UpstreamConnection, "resume_reading", nothing),
            Plan(Flag.SLOW_CLIENT), GET,
        ),
    )
]  # fmt: skip


# -- on the way to the client -------------------------------------------------------------------


def end_a_cut_answer_well(
    right: Callable[..., None], exchange: Exchange, ending: HowItEnded, why: str
) -> None:
    if ending is HowItEnded.CUT and exchange.head_sent:
        exchange.on_end()
    else:
        right(exchange, ending, why)


def close_instead_of_reset(
    right: Callable[..., None], client: ClientConnection, *, reset: bool
) -> None:
    del reset
    right(client, reset=False)


def keep_what_nobody_asked_for(patch: pytest.MonkeyPatch) -> None:
    right = UpstreamConnection.data_received

    def data_received(connection: UpstreamConnection, data: bytes) -> None:
        if connection._receiver is None and connection._tunnel is None:
            connection._buffer += data
        else:
            right(connection, data)

    patch.setattr(UpstreamConnection, "data_received", data_received)


def keep_a_connection_with_bytes_left(
    right: Callable[..., None], connection: UpstreamConnection, *, clean: bool
) -> None:
    del clean
    right(connection, clean=True)


def answer_twice(right: Callable[..., None], exchange: Exchange, *args: Any, **more: Any) -> None:
    right(exchange, *args, **more)
    exchange._client.write(EVIL)


def expect_a_body_after_head(right: Callable[..., Any], head: Any, *, head_request: bool) -> Any:
    del head_request
    return right(head, head_request=False)


def tell_http10_of_1xx(right: Callable[..., None], exchange: Exchange, head: Any) -> None:
    exchange._request.minor = 1
    right(exchange, head)


def count_as_whole(right: Callable[..., None], exchange: Exchange, ending: HowItEnded) -> None:
    if ending is HowItEnded.CUT:
        exchange._close_client = True
        ending = HowItEnded.COMPLETED
    right(exchange, ending)


def an_empty_line_too_many(right: Callable[..., bytes], head: Any) -> bytes:
    return right(head) + b"\r\n"


_HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"
_TEN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
_WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
_FREE, _HEAD, _HTTP10, _EMPTY_POST, _UPGRADE = 0, 1, 2, 10, 11

TO_THE_CLIENT = [
    Planted(name, "answers", plant, plan.with_bytes(raw))
    for name, plant, plan, raw in (
        (
            "a cut answer ends well",
            around(Exchange, "on_broken", end_a_cut_answer_well),
            Plan(ending=Ending.CLOSE), _TEN,
        ),
        (
            "a cut answer to HTTP/1.0 ends well",
            around(ClientConnection, "cut", close_instead_of_reset),
            Plan(Flag.PACED, Ending.CLOSE, _HTTP10, piece_bytes=60), _TEN,
        ),
        (
            "a cut answer counts as whole",
            around(Exchange, "_end", count_as_whole),
            Plan(Flag.PACED, Ending.CLOSE, _FREE), _HALF,
        ),
        (
            "what nobody asked for is the next answer",
            keep_what_nobody_asked_for,
            Plan(Flag.UNASKED | Flag.PACED), EVIL,
        ),
        (
            "a connection with pending bytes is taken",
            swap(UpstreamConnection, "looks_alive", lambda _: True),
            Plan(Flag.UNASKED), EVIL,
        ),
        (
            "a connection with bytes left is kept",
            around(UpstreamConnection, "_finish", keep_a_connection_with_bytes_left),
            IN_ONE_PIECE, _WHOLE + EVIL,
        ),
        ("two answers", around(Exchange, "on_head", answer_twice), IN_ONE_PIECE, _WHOLE),
        (
            "a POST is sent again",
            swap(handler, "_REPLAYABLE", frozenset({b"GET", b"POST"})),
            Plan(Flag.KEPT, Ending.RESET, _EMPTY_POST), b"",
        ),
        (
            "a body is awaited after HEAD",
            around(upstream, "_body_of", expect_a_body_after_head),
            Plan(choice=_HEAD), _WHOLE.removesuffix(b"hello"),
        ),
        (
            "a 204 keeps its length",
            swap(fields, "_FRAMING", frozenset()),
            IN_ONE_PIECE, b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            "a field is injected into an answer",
            around(exchange_module, "client_head", inject),
            IN_ONE_PIECE, _WHOLE,
        ),
        (
            "HTTP/1.0 is told of a 1xx",
            around(Exchange, "on_interim", tell_http10_of_1xx),
            Plan(choice=_HTTP10), b"HTTP/1.1 103 Hints\r\n\r\n" + _WHOLE,
        ),
        (
            "a tunnel begins with an empty line",
            around(exchange_module, "switching_head", an_empty_line_too_many),
            Plan(choice=_UPGRADE), switching(b"echo") + b"hello",
        ),
        (
            "a tunnel that the client did not ask for",
            swap(exchange_module, "is_agreed", lambda *_: True),
            Plan(choice=_UPGRADE), switching(b"other") + b"hello",
        ),
    )
]  # fmt: skip


# -- by themselves ------------------------------------------------------------------------------


def in_small_letters(right: Callable[[bytes], Any], data: bytes) -> Any:
    head = right(data)
    head.target = head.target.lower()
    return head


def count_spaces_as_nothing(right: Callable[[bytes], Any], data: bytes) -> Any:
    head = right(data)
    head.reason = head.reason.rstrip()
    return head


def misspell(right: Callable[..., bytes], *args: Any, **more: Any) -> bytes:
    return right(*args, **more).replace(b"free", b"fee")


BY_THEMSELVES = [
    Planted(
        "a target in small letters",
        "request-heads",
        around(same_meaning, "parse_request_head", in_small_letters),
        IN_ONE_PIECE.with_bytes(GET.replace(b"free", b"FREE")),
    ),
    Planted(
        "another target is sent on",
        "request-heads",
        around(fields.UpstreamHead, "of", misspell),
        IN_ONE_PIECE.with_bytes(GET),
    ),
    Planted(
        "a reason is trimmed",
        "response-heads",
        around(same_meaning, "parse_response_head", count_spaces_as_nothing),
        IN_ONE_PIECE.with_bytes(b"HTTP/1.1 200 OK \r\n\r\n"),
    ),
    Planted(
        "an answer is sent on without its length",
        "response-heads",
        swap(fields, "_HOP_BY_HOP", frozenset({b"content-length"})),
        IN_ONE_PIECE.with_bytes(_WHOLE),
    ),
    Planted(
        "chunk sizes are read leniently",
        "chunks",
        read_chunks_leniently,
        IN_ONE_PIECE.with_bytes(b"0x5\r\nhello\r\n0\r\n\r\n"),
    ),
    Planted(
        "a line that is cut is refused",
        "chunks",
        swap(bodies, "_CHUNK_LINE_START", re.compile(rb"[0-9A-Fa-f]{2,15}\r?")),
        BYTE_BY_BYTE.with_bytes(HELLO),
    ),
]


@pytest.mark.parametrize(
    "planted", [*TO_THE_BACKEND, *TO_THE_CLIENT, *BY_THEMSELVES], ids=lambda planted: planted.name
)
def test_a_planted_bug_is_found(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer's properties hold for an input; with a bug in the product they do not."""
    try_on = TARGETS[planted.target].try_on
    with virtual_loop() as loop:
        try_on(planted.data, loop)
    planted.plant(monkeypatch)
    with virtual_loop() as loop, pytest.raises(AssertionError):
        try_on(planted.data, loop)
