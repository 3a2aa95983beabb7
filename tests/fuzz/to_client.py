"""Does a client see what the backend answered, or that it was no answer, whatever it answered?

The raw bytes of the input come from the backend, as its answer to one request. The client must see
the answer that h11 reads in them, whole where it is whole, recognizably cut where it is cut, or the
sidecar's refusal; nothing of it may reach anybody else, and afterwards nothing of it is left.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field

from sidecar.admission.outcome import OutcomeLabel
from sidecar.telemetry.facts import RequestFact
from tests.fuzz.fields import assert_interim_fields, assert_response_fields
from tests.fuzz.plans import Ending, Flag, Plan
from tests.fuzz.virtual_time import VirtualLoop
from tests.fuzz.world import BackendConnection, World
from tests.proxy.client_reading import Answered, End, read_answer

# All time-outs of a guarded request are over by then: first event 300 s, stall 120 s.
_ALL_TIMERS_S = 600.0


@dataclass(frozen=True, slots=True)
class Asked:
    """The request to which the bytes are the answer."""

    raw: bytes
    whole: bool = True
    guarded: bool = False
    """Whether a slot, and so a time-out, ends it."""

    @property
    def method(self) -> bytes:
        return self.raw.partition(b" ")[0]

    @property
    def http10(self) -> bool:
        return b" HTTP/1.0\r\n" in self.raw

    @property
    def upgrade(self) -> bool:
        return b"\r\nUpgrade: " in self.raw


ASKED = [
    Asked(b"GET /free HTTP/1.1\r\nHost: a\r\n\r\n"),
    Asked(b"HEAD /free HTTP/1.1\r\nHost: a\r\n\r\n"),
    Asked(b"GET /free HTTP/1.0\r\n\r\n"),
    Asked(b"GET /free HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    Asked(b"GET /free HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
    Asked(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
        guarded=True,
    ),
    Asked(b"POST /free HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello", whole=False),
    Asked(
        b"POST /free HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
        b"Expect: 100-continue\r\n\r\n",
        whole=False,
    ),
    Asked(
        b"GET /free HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        guarded=True,
    ),
    Asked(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    Asked(b"POST /free HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
    Asked(
        b"GET /free HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
        guarded=True,
    ),
]
# RFC 6455, 1.3: what proves that the key above was read.
WEBSOCKET_ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
_REPLAYABLE = (b"GET", b"HEAD", b"OPTIONS")


@dataclass(slots=True)
class Seen:
    """What the client saw, and what else is known of the exchange."""

    answer: Answered
    size: int
    """Bytes of the answer, its 1xx included."""
    end: End
    number: int
    """Of the last request that came to the backend."""
    reused: bool = False
    """Whether the connection with the raw bytes got another request."""
    fact: RequestFact = field(init=False)
    """What was counted and logged."""


def try_on(data: bytes, loop: VirtualLoop) -> None:
    """Answer as the plan says, and judge; AssertionError where anything is wrong."""
    plan, raw = Plan.split(data)
    judge(plan, raw, loop.run_until_complete(carry(plan, raw, loop)))


def asked_by(plan: Plan) -> Asked:
    """The request that the raw bytes answer."""
    return ASKED[plan.choice % len(ASKED)]


# -- the run --------------------------------------------------------------------------------


class _Backend:
    """Answers by number, save the one request that the raw bytes answer."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self.armed = False
        self.chosen: BackendConnection | None = None
        self.size = 0  # of what came there, up to the request

    def serve(self, connection: BackendConnection) -> None:
        if self.armed:
            self.armed = False
            self.chosen = connection
            self.size = len(connection.received)
            if self._asked.whole:
                connection.note_request()
        elif connection is not self.chosen or self._asked.whole:
            connection.answer_requests()


async def carry(plan: Plan, raw: bytes, loop: VirtualLoop) -> Seen:
    """Let the backend answer with the bytes; afterwards nothing of them may be left."""
    asked, flags = asked_by(plan), plan.flags
    backend = _Backend(asked)
    world = World(
        loop,
        serve=backend.serve,
        slow_client=bool(flags & Flag.SLOW_CLIENT),
        slow_backend=bool(flags & Flag.SLOW_BACKEND),
    )
    earlier = []
    if flags & (Flag.KEPT | Flag.UNASKED):
        earlier.append(world.client())
        await world.ask_for_sentinel(earlier[0])
    client = world.client()
    if flags & Flag.UNASKED:
        backend.chosen = world.connections[0]
        backend.size = len(backend.chosen.received)
        # Unless paced, what the backend says is on its way when the request is read: a connection
        # is chosen while bytes wait there, or the mere end, which takes a turn of the loop more.
        if flags & Flag.PACED or not raw:
            await _say(plan, raw, backend.chosen, loop)
            client.send(asked.raw)
        else:
            client.send(asked.raw)
            await _say(plan, raw, backend.chosen, loop)
    else:
        backend.armed = True
        client.send(asked.raw)
        await loop.quiet()
        assert backend.chosen is not None, "the request did not arrive"
        await _say(plan, raw, backend.chosen, loop)
    await loop.quiet()
    if plan.ending is Ending.NEVER:
        await asyncio.sleep(_ALL_TIMERS_S)
    answer = read_answer(bytes(client.received), asked.method, client.end, upgrade=asked.upgrade)
    seen = Seen(answer, len(client.received), client.end, len(world.arrived))
    if answer.complete and answer.status != 101 and seen.end is End.OPEN:
        assert not answer.rest, "more than one answer"
        await world.ask_for_sentinel(client)
    another = world.client()
    await world.ask_for_sentinel(another)
    await world.end(client, another, *earlier)
    seen.reused = len(backend.chosen.received) > backend.size
    (seen.fact,) = (fact for fact in world.facts if fact.path != "/sentinel")
    return seen


async def _say(plan: Plan, raw: bytes, connection: BackendConnection, loop: VirtualLoop) -> None:
    for piece in plan.pieces(raw):
        connection.send(piece)
        if plan.flags & Flag.PACED:
            await loop.quiet()
    if plan.ending is Ending.CLOSE:
        connection.close()
    elif plan.ending is Ending.RESET:
        connection.reset()


# -- the judgement --------------------------------------------------------------------------


def judge(plan: Plan, raw: bytes, seen: Seen) -> None:
    """What the client saw is what the backend answered; AssertionError otherwise."""
    answer = seen.answer
    assert not answer.malformed
    if plan.flags & Flag.UNASKED:
        _judge_own(plan, seen)
        assert not seen.reused or (not raw and plan.ending in (Ending.LATER, Ending.NEVER))
        return
    ends = {Ending.CLOSE: End.CLOSED, Ending.RESET: End.RESET}
    end, asked = ends.get(plan.ending, End.OPEN), asked_by(plan)
    sent = read_answer(raw, asked.method, end, upgrade=asked.upgrade)
    if seen.reused:
        assert sent.complete
        assert sent.keeps_alive
        assert sent.has_length or asked.method == b"HEAD"
        assert not sent.rest
    _judge_interim(asked, sent, answer)
    if answer.status is None:
        assert seen.end is End.OPEN, "the client's connection ended without an answer"
        assert plan.ending is Ending.LATER, "the client waits for ever"
        assert not sent.complete, "an answer was kept from the client"
    elif _may_be_repeated(plan, raw) and answer.value(b"x-number"):
        _judge_own(plan, seen)
    elif not _is_refusal(answer):
        _judge_passed_on(plan, sent, seen)
    _judge_fact(seen)


def _judge_own(plan: Plan, seen: Seen) -> None:
    """The backend's bytes were nobody's answer: the request got one by itself."""
    if not asked_by(plan).whole:
        assert seen.answer.status in (None, 408)
        return
    assert seen.answer.complete
    assert seen.answer.status == 200
    assert seen.answer.value(b"x-number") == b"%d" % seen.number


def _may_be_repeated(plan: Plan, raw: bytes) -> bool:
    """Whether the kept connection was stale, and the request one that may be sent twice."""
    asked = asked_by(plan)
    stale = plan.flags & Flag.KEPT and not raw and plan.ending in (Ending.CLOSE, Ending.RESET)
    return bool(stale) and asked.whole and asked.method in _REPLAYABLE


def _judge_interim(asked: Asked, sent: Answered, answer: Answered) -> None:
    """The client saw the first of the 1xx, and all of them where it saw what came then."""
    assert not (asked.http10 and answer.interim)
    for (before, fields), (after, passed_on) in zip(sent.interim, answer.interim, strict=False):
        assert before == after
        assert_interim_fields(fields, passed_on)
    assert len(answer.interim) <= len(sent.interim)


def _is_refusal(answer: Answered) -> bool:
    """Whether the sidecar answered in its own words, and so that SDKs understand it."""
    reason = answer.value(b"x-sidecar-reason").decode()
    if answer.status not in (408, 502, 504) or reason not in _REASONS or not answer.complete:
        return False
    return not answer.body or bool(json.loads(answer.body)["error"]["code"] == reason)


_REASONS = frozenset(
    {"body_timeout", "upstream_bad_response", "upstream_reset", "upstream_timeout"}
)


def _judge_passed_on(plan: Plan, sent: Answered, seen: Seen) -> None:
    """The backend's answer came through, whole or recognizably cut."""
    answer, asked = seen.answer, asked_by(plan)
    assert answer.status == sent.status
    if answer.status == 101:
        assert _is_agreed(asked, sent), "a tunnel that only one side wants"
        assert answer.fields == sent.fields
        assert sent.rest.startswith(answer.rest)
        assert answer.rest == sent.rest or plan.ending is Ending.RESET
        return
    if not asked.http10:
        assert len(answer.interim) == len(sent.interim)
    assert_response_fields(sent.fields, answer.fields, may_be_framed=answer.status != 204)
    body = answer.body
    is_stream = asked.guarded and answer.value(b"content-type").startswith(_STREAMS)
    if is_stream and not answer.complete:
        body = _LAST_WORDS.sub(b"", body)
    assert sent.body.startswith(body)
    if answer.complete:
        assert sent.complete, "a cut answer looks whole"
        assert answer.body == sent.body
    elif seen.end is End.OPEN:
        assert not sent.complete, "the end of the answer was kept from the client"
        assert plan.ending in (Ending.LATER, Ending.NEVER), "a cut answer does not look cut"
        assert plan.ending is Ending.LATER or not asked.guarded, "the client waits for ever"
    elif sent.complete:
        # h11 takes trailers and extensions for which we cut, and we cut streams that do not end as
        # their dialect does; all else that is whole stays so.
        assert sent.value(b"transfer-encoding") or not asked.whole or is_stream


_STREAMS = (b"text/event-stream", b"application/x-ndjson")
# The error event behind a broken stream, and what fills up the chunk before it.
_LAST_WORDS = re.compile(
    rb'[\n ]*(?:event: error\n)?(?:data: )?\{"(?:error|type)":[^\n]*openclaw-sidecar: [^\n]*\n+\Z'
)


def _is_agreed(asked: Asked, sent: Answered) -> bool:
    """Whether a 101 chooses the one protocol that was asked for, with its proof."""
    chosen = [value.strip(b" \t,").lower() for name, value in sent.fields if name == b"upgrade"]
    if not chosen or b"\r\nUpgrade: %b\r\n" % chosen[0] not in asked.raw:
        return False
    return chosen[0] != b"websocket" or sent.value(b"sec-websocket-accept") == WEBSOCKET_ACCEPT


def _judge_fact(seen: Seen) -> None:
    """What is counted and logged is what happened."""
    fact, answer = seen.fact, seen.answer
    if answer.status is None:
        return
    assert fact.status == answer.status
    if answer.complete and answer.status != 101:
        assert fact.bytes_out == seen.size
    cut = not answer.complete and seen.end is not End.OPEN
    assert not (cut and fact.outcome in _WHOLE), fact


_WHOLE = frozenset(
    {
        OutcomeLabel.OK,
        OutcomeLabel.CLIENT_ERROR,
        OutcomeLabel.SERVER_ERROR,
        OutcomeLabel.OVERLOAD,
    }
)
