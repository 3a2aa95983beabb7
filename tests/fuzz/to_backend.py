"""Does the backend see the requests that a client sent, and nothing else, whatever it sent?

The raw bytes of the input come from a client. What arrives must be the first of the requests that
h11 reads in them, with their fields; each is answered with its own answer; what is refused reaches
nobody; and when the client is gone, nothing of it is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from ipaddress import ip_network

from sidecar.proxy import client as client_module
from sidecar.proxy.config import Forwarded, Limits, ProxyConfig
from sidecar.proxy.request_body import RequestBody
from tests.fuzz.fields import assert_request_fields
from tests.fuzz.plans import Ending, Flag, Plan
from tests.fuzz.virtual_time import VirtualLoop
from tests.fuzz.world import BackendConnection, Peer, World
from tests.proxy.client_reading import Answered, End, read_answer
from tests.proxy.judging import in_origin_form, judge_requests
from tests.proxy.readings import Fields, Read, read_strictly, split_gullibly, what_arrived
from tests.proxy.running import GUARDED

# All time-outs together are over by then: head 10 s, body 30 s, keep-alive 75 s.
_ALL_TIMERS_S = 200.0

_TIGHT_LIMITS = Limits(head_bytes=300, head_fields=8, body_buffer_bytes=48)
# Of what is kept before somebody takes it, where a plan wants it tight.
_TIGHT_BUFFER_BYTES = 32

_CONFIGS = [
    ProxyConfig(),
    ProxyConfig(forwarded=Forwarded.REBUILD),
    ProxyConfig(forwarded=Forwarded.APPEND, trusted_proxies=(ip_network("192.0.2.0/24"),)),
]


@dataclass(slots=True)
class Seen:
    """What became of a client's bytes."""

    arrived: list[tuple[Read, Fields]]
    unfinished: list[bytes]
    """What came to the backend and is not a whole request, by connection."""
    answers: list[Answered]
    end: End


def try_on(data: bytes, loop: VirtualLoop) -> None:
    """Send the bytes as the plan says, and judge; AssertionError where anything is wrong."""
    plan, raw = Plan.split(data)
    judge(plan, raw, loop.run_until_complete(carry(plan, raw, loop)))


# -- the run --------------------------------------------------------------------------------


async def carry(plan: Plan, raw: bytes, loop: VirtualLoop) -> Seen:
    """Send the bytes through the data path; afterwards nothing of them may be left in it."""
    with _small_buffers() if plan.flags & Flag.TIGHT else nullcontext():
        hangs_up = plan.flags & Flag.HANGS_UP
        world = World(
            loop,
            config_of(plan),
            serve=_answer_and_hang_up if hangs_up else BackendConnection.answer_requests,
            slow_client=bool(plan.flags & Flag.SLOW_CLIENT),
            slow_backend=bool(plan.flags & Flag.SLOW_BACKEND),
        )
        client = world.client()
        await _send(plan, raw, client, loop)
        seen = _look(world, client)
        another = world.client()
        await world.ask_for_sentinel(another)
        if plan.ending is Ending.NEVER:
            await asyncio.sleep(_ALL_TIMERS_S)
            assert client.peer_closed, "a silent client is kept for ever"
            assert another.peer_closed, "an idle client is kept for ever"
        await world.end(client, another)
        assert len(world.arrived) == len(seen.arrived) + 1
    return seen


def config_of(plan: Plan) -> ProxyConfig:
    """The settings that a plan asks for."""
    config = _CONFIGS[plan.choice % len(_CONFIGS)]
    return replace(config, limits=_TIGHT_LIMITS) if plan.flags & Flag.TIGHT else config


@contextmanager
def _small_buffers() -> Iterator[None]:
    """Make buffers so small that an input of the fuzzer fills them."""
    kept = client_module._AHEAD_MAX, RequestBody._keep_max
    client_module._AHEAD_MAX = RequestBody._keep_max = _TIGHT_BUFFER_BYTES
    try:
        yield
    finally:
        client_module._AHEAD_MAX, RequestBody._keep_max = kept


def _answer_and_hang_up(connection: BackendConnection) -> None:
    if connection.answer_requests():
        connection.close()


async def _send(plan: Plan, raw: bytes, client: Peer, loop: VirtualLoop) -> None:
    for piece in plan.pieces(raw):
        client.send(piece)
        await (loop.quiet() if plan.flags & Flag.PACED else asyncio.sleep(0))
    if plan.ending is Ending.CLOSE:
        client.close()
    elif plan.ending is Ending.RESET:
        client.reset()
    await loop.quiet()


def _look(world: World, client: Peer) -> Seen:
    """What has become of the bytes by now. All readers must agree on what arrived."""
    arrived: dict[int, tuple[Read, Fields]] = {}
    unfinished = []
    for connection in world.connections:
        data = bytes(connection.received)
        reads = what_arrived(data, unusual=True)
        requests = read_strictly(data).requests
        assert [read for read, _ in requests] == reads
        arrived.update(zip(connection.numbers, requests, strict=True))
        unfinished.append(split_gullibly(data, by_length=False)[1])
    in_order = [arrived[number] for number in sorted(arrived)]
    answers = _answers(bytes(client.received), [read.method for read, _ in in_order], client.end)
    return Seen(in_order, unfinished, answers, client.end)


def _answers(data: bytes, methods: Sequence[bytes], end: End) -> list[Answered]:
    """The answers to these requests, and perhaps a refusal behind them."""
    answers: list[Answered] = []
    while data:
        refusal = len(answers) >= len(methods)
        answer = read_answer(data, b"GET" if refusal else methods[len(answers)], end)
        if refusal and not answer.complete:
            answer = read_answer(data, b"HEAD", end)
        assert not answer.malformed, data
        assert all(status == 100 for status, _ in answer.interim)
        if answer.status is not None:
            answers.append(answer)
        data = answer.rest
    return answers


# -- the judgement --------------------------------------------------------------------------


def judge(plan: Plan, raw: bytes, seen: Seen) -> None:
    """What arrived is what was sent, and was answered; AssertionError otherwise."""
    arrived = [read for read, _ in seen.arrived]
    sent = read_strictly(raw).requests
    if plan.ending in (Ending.CLOSE, Ending.RESET):
        # Who leaves early gets what there was time for.
        assert arrived == [in_origin_form(read) for read, _ in sent][: len(arrived)]
        refused = False
    else:
        statuses = [answer.status or 0 for answer in seen.answers]
        judge_requests(raw, arrived, statuses, closed=seen.end is not End.OPEN)
        assert all(answer.complete for answer in seen.answers)
        refused = len(statuses) > len(arrived)
    for number, answer in enumerate(seen.answers[: len(arrived)], 1):
        assert answer.value(b"x-number") == b"%d" % number, "somebody else's answer"
    forwarded = config_of(plan).forwarded
    for (read, before), (_, after) in zip(sent, seen.arrived, strict=False):
        assert_request_fields(read, before, after, forwarded)
    _judge_what_is_unfinished(plan, raw, seen, refused=refused)


def _judge_what_is_unfinished(plan: Plan, raw: bytes, seen: Seen, *, refused: bool) -> None:
    """What arrived in part is the next request; of what is refused nothing where that is known."""
    unfinished = [data for data in seen.unfinished if data]
    assert len(unfinished) <= 1
    for data in unfinished:
        begun, due = read_strictly(data).begun, _next_after(len(seen.arrived), raw)
        assert begun is not None, "what strict servers refuse has arrived"
        assert due is not None, "a request that nobody sent has begun to arrive"
        assert (begun.method, begun.target) == (due.method, due.target)
        assert due.body.startswith(begun.body)
    if refused and plan.pieces(raw) == [raw]:
        assert not unfinished, "a part of what was refused has arrived"
    if not plan.flags & Flag.TIGHT:  # where bodies fit into what is gathered of them
        guarded = (b"POST " + GUARDED + b" ", b"POST " + GUARDED + b"?")
        assert not any(data.startswith(guarded) for data in unfinished)


def _next_after(count: int, raw: bytes) -> Read | None:
    """The request behind the first ones, whole or not."""
    reading = read_strictly(raw)
    whole = [read for read, _ in reading.requests]
    due = whole[count] if len(whole) > count else reading.begun
    return None if due is None else in_origin_form(due)
