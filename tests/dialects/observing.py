"""How do the tests of dialects listen to a stream, and what do they compare?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

from sidecar.admission.outcome import Said
from sidecar.dialects.choosing import judge_for
from sidecar.dialects.judge import Judge, Usage
from tests.dialects.corpus import NDJSON, Stream


class Observed(NamedTuple):
    """All that a judge knows."""

    said: Said
    events: int
    usage: Usage | None
    model: str
    at_boundary: bool
    error_message: str


def judge_of(stream: Stream) -> Judge:
    """The judge that such a response gets."""
    return judge_for(200, stream.media_type + b"; charset=utf-8", b"", stream.path)


def observed(judge: Judge) -> Observed:
    """What it knows now."""
    return Observed(
        judge.said,
        judge.events,
        judge.usage,
        judge.model,
        judge.at_boundary,
        judge.error_message,
    )


def heard(stream: Stream, pieces: Iterable[bytes]) -> Observed:
    """What is known of a stream that came in such pieces and then ended cleanly."""
    judge = judge_of(stream)
    for piece in pieces:
        judge.feed(piece)
    judge.end()
    return observed(judge)


def cut_at(raw: bytes, places: Iterable[int]) -> list[bytes]:
    """The pieces between such places."""
    edges = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    return [raw[begin:end] for begin, end in pairwise(edges)]


def _spread(raw: bytes) -> bytes:
    return raw.replace(b"data: {", b"data: {\ndata: ")


def _commented(raw: bytes) -> bytes:
    return b":\n" + raw.replace(b"\n\n", b"\n\n: still here\n: {}\n\n\nid: 7\nretry: 100\n")


Spelling = Callable[[bytes], bytes]

SSE_SPELLINGS: dict[str, Spelling] = {
    "plain": lambda raw: raw,
    "crlf": lambda raw: raw.replace(b"\n", b"\r\n"),
    "cr": lambda raw: raw.replace(b"\n", b"\r"),
    "no space": lambda raw: raw.replace(b"data: ", b"data:").replace(b"event: ", b"event:"),
    "bom": lambda raw: b"\xef\xbb\xbf" + raw,
    "several lines": _spread,
    "several crlf lines": lambda raw: _spread(raw).replace(b"\n", b"\r\n"),
    "comments": _commented,
    "comments and crlf": lambda raw: _commented(raw).replace(b"\n", b"\r\n"),
    "no last line end": lambda raw: raw.removesuffix(b"\n\n"),
}
LINE_SPELLINGS: dict[str, Spelling] = {
    "plain": lambda raw: raw,
    "crlf": lambda raw: raw.replace(b"\n", b"\r\n"),
    "empty lines": lambda raw: raw.replace(b"\n", b"\n\n"),
    "no last line end": lambda raw: raw.removesuffix(b"\n"),
}


def spellings(stream: Stream) -> dict[str, bytes]:
    """The same stream in all the ways that its format allows."""
    ways = LINE_SPELLINGS if stream.media_type == NDJSON else SSE_SPELLINGS
    return {name: spell(stream.raw) for name, spell in ways.items()}
