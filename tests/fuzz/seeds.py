"""From which inputs does the fuzzer set out? From all that is known to be tricky, and from grammar.

A seed's name tells where it comes from, so that a failing one can be found.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

from hypothesis import Phase, given, settings
from hypothesis.strategies import SearchStrategy, lists

from tests.fuzz.plans import BYTE_BY_BYTE, IN_ONE_PIECE, Ending, Flag, Plan
from tests.fuzz.to_client import ASKED, WEBSOCKET_ACCEPT
from tests.proxy.grammar import chunked_bodies, requests, responses
from tests.proxy.response_tricks import CUT, UNREADABLE, WHOLE
from tests.proxy.smuggling_corpus import ON_GUARDED_ROUTE, TRICKS

Seeds = dict[str, bytes]

_SLOW = Flag.SLOW_CLIENT | Flag.SLOW_BACKEND
_UNUSUAL_REQUESTS = [
    Plan(_SLOW),
    Plan(ending=Ending.NEVER, choice=1),
    Plan(_SLOW | Flag.PACED, Ending.NEVER, 2, piece_bytes=5),
    Plan(Flag.TIGHT, piece_bytes=11),
    Plan(Flag.TIGHT | _SLOW, Ending.CLOSE, 1, piece_bytes=3),
    Plan(ending=Ending.CLOSE),
    Plan(ending=Ending.RESET, piece_bytes=7),
    Plan(Flag.HANGS_UP, choice=2),
    Plan(Flag.HANGS_UP | Flag.PACED, piece_bytes=30),
    Plan(first_cut=20, second_cut=40),
]
# A number that has no divisor in common with that of the requests, so that all meet all.
_UNUSUAL_ANSWERS = [
    (Flag.NONE, Ending.NEVER, 0),
    (Flag.PACED, Ending.CLOSE, 1),
    (_SLOW, Ending.LATER, 3),
    (Flag.KEPT, Ending.RESET, 0),
    (Flag.KEPT | Flag.PACED | _SLOW, Ending.CLOSE, 9),
    (Flag.UNASKED, Ending.LATER, 0),
    (Flag.UNASKED | Flag.PACED, Ending.CLOSE, 20),
    (Flag.UNASKED, Ending.CLOSE, 0),
    (Flag.UNASKED, Ending.RESET, 0),
    (Flag.KEPT | Flag.PACED, Ending.NEVER, 0),
    (Flag.SLOW_CLIENT, Ending.CLOSE, 0),
]
_PROOF = b"Sec-WebSocket-Accept: %b\r\n" % WEBSOCKET_ACCEPT
_SAMPLES = 40
# Of an answer; such ones take their time, and the request makes no difference to them.
_LARGE_BYTES = 10_000


def of_requests() -> Seeds:
    """Each smuggling trick in one piece, byte by byte, and in an unusual way."""
    unusual = cycle(_UNUSUAL_REQUESTS)
    raws = {trick.name: trick.raw for trick in TRICKS}
    raws |= {f"{trick.name} (guarded)": trick.raw for trick in ON_GUARDED_ROUTE}
    for number, raw in enumerate(samples(lists(requests, max_size=3).map(b"".join))):
        raws[f"grammar {number}"] = raw
    return {
        f"{name}: {plan}": plan.with_bytes(raw)
        for name, raw in raws.items()
        for plan in (IN_ONE_PIECE, BYTE_BY_BYTE, next(unusual))
    }


def of_answers() -> Seeds:
    """Each response trick as an answer to each request, at once, and in an unusual way."""
    unusual = cycle(_UNUSUAL_ANSWERS)
    seeds = {}
    for name, raw, ending in _raw_answers():
        for choice in range(len(ASKED) if len(raw) < _LARGE_BYTES else 1):
            plan = Plan(ending=ending, choice=choice)
            seeds[f"{name}: {plan}"] = plan.with_bytes(raw)
            flags, ending_of_it, piece_bytes = next(unusual)
            plan = Plan(flags, ending_of_it, choice, piece_bytes)
            seeds[f"{name}: {plan}"] = plan.with_bytes(raw)
    return seeds


def _raw_answers() -> Iterator[tuple[str, bytes, Ending]]:
    yield "nothing", b"", Ending.CLOSE
    for answer in [*UNREADABLE, *CUT, *WHOLE]:
        ending = Ending.CLOSE if answer.closes else Ending.LATER
        yield answer.name, answer.raw + answer.then, ending
    for name, framed in _streams():
        yield name, framed, Ending.CLOSE
    yield "a tunnel", switching(b"echo") + b"hello", Ending.LATER
    yield "a WebSocket", switching(b"websocket", _PROOF) + b"hello", Ending.LATER
    yield "a WebSocket without proof", switching(b"websocket") + b"hello", Ending.LATER
    for number, raw in enumerate(samples(responses)):
        yield f"grammar {number}", raw, Ending.LATER


def _streams() -> Iterator[tuple[str, bytes]]:
    """Answers in events, which guarded routes watch; most of them end before they should."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    event = b'data: {"choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n'
    chunk = b"%x\r\n%b\r\n" % (len(event), event)
    in_chunks = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk
    yield "a stream", in_chunks + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    yield "a stream without marker", in_chunks + b"0\r\n\r\n"
    yield "a stream that is cut between chunks", in_chunks
    yield "a stream that is cut within a chunk", in_chunks + b"%x\r\n" % (len(event) + 9) + event
    yield "a stream until the end", head + b"\r\n" + event
    yield "a stream with a length", head + b"Content-Length: 9999\r\n\r\n" + event


def switching(protocol: bytes, line: bytes = b"") -> bytes:
    """A 101's head, perhaps with one more line."""
    return b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: %b\r\n%b\r\n" % (protocol, line)


def of_request_heads() -> Seeds:
    """The heads of all tricks."""
    return {trick.name: IN_ONE_PIECE.with_bytes(trick.raw) for trick in TRICKS}


def of_response_heads() -> Seeds:
    """The heads of all odd answers."""
    return {name: IN_ONE_PIECE.with_bytes(raw) for name, raw, _ in _raw_answers()}


def of_chunks() -> Seeds:
    """The bodies of all tricks that send chunks, and some that are good."""
    raws = {trick.name: trick.raw.partition(b"\r\n\r\n")[2] for trick in TRICKS}
    for number, raw in enumerate(samples(chunked_bodies)):
        raws[f"grammar {number}"] = raw
    return {
        f"{name}: {plan}": plan.with_bytes(raw)
        for name, raw in raws.items()
        if raw
        for plan in (IN_ONE_PIECE, BYTE_BY_BYTE, Plan(first_cut=3, second_cut=9))
    }


def samples(strategy: SearchStrategy[bytes]) -> list[bytes]:
    """Some valid messages, the same each time."""
    found: set[bytes] = set()

    @settings(
        max_examples=_SAMPLES, derandomize=True, database=None, phases=[Phase.generate],
        deadline=None,
    )  # fmt: skip
    @given(strategy)
    def collect(raw: bytes) -> None:
        found.add(raw)

    collect()
    return sorted(found)
