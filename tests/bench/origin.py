"""What does a backend look like that costs next to nothing and counts what it does?

A process of its own: `python -m tests.bench.origin PORT`. Every request but those to `/health` and
`/bench/...` is answered as the mode says, which `POST /bench/mode` sets; `GET /bench/counts` tells
what happened.

* `plain`: a whole answer after `answer_s` seconds.
* `stream`: one SSE chunk each `interval_s` until the client is gone; the streams take turns, so
  that chunks come spread over the interval and not in bursts.
* `hold`: a head and one chunk, then silence until the client is gone.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from typing import cast

import uvloop

# The end of every plain answer, for the load to look for.
END_MARK = b'"bench-end"'
# Stands once in every streamed chunk.
CHUNK_MARK = b"data: "

_COMPLETION = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    "system_fingerprint": "bench-end",
}
PLAIN_BODY = json.dumps(_COMPLETION, separators=(",", ":")).encode()

_EVENT = {
    "id": "chatcmpl-bench",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": " token"}, "finish_reason": None}],
}
_CHUNK_BODY = CHUNK_MARK + json.dumps(_EVENT, separators=(",", ":")).encode() + b"\n\n"
CHUNK = b"%x\r\n%s\r\n" % (len(_CHUNK_BODY), _CHUNK_BODY)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)

# Streams are dealt to so many turns within one interval.
_TURNS = 10


def plain_answer(body: bytes) -> bytes:
    """A whole 200 with a JSON body."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )


@dataclass(slots=True)
class Mode:
    """How requests are answered. Times in seconds; `slots` is the limit that the proxy keeps."""

    kind: str = "plain"
    answer_s: float = 0.0
    interval_s: float = 0.01
    slots: int = 3


@dataclass(slots=True)
class Counts:
    """What happened since the mode was set. Times in seconds of the monotonic clock.

    `gaps_s` are the times a slot was idle between one answer's end and the next request's arrival;
    `busy_s` adds up all answering since the first arrival.
    """

    requests: int = 0
    in_flight: int = 0
    peak: int = 0
    answered: int = 0
    streams: int = 0
    chunks_sent: int = 0
    chunks_held_back: int = 0
    busy_s: float = 0.0
    first_arrival_s: float = 0.0
    now_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)


class Origin:
    """The mode, the counts and the streams under way."""

    def __init__(self) -> None:
        self.mode = Mode()
        self.counts = Counts()
        self.free_since_s: deque[float] = deque()
        self.began_s: dict[Connection, float] = {}
        self._turns: list[dict[Connection, None]] = [{} for _ in range(_TURNS)]
        self._ticking = False

    def set_mode(self, mode: Mode) -> None:
        """Answer so from now on, counting from zero."""
        self.mode = mode
        self.counts = Counts()
        self.free_since_s.clear()
        self.began_s.clear()

    def report(self) -> Counts:
        """The counts now, with what is being answered at this moment."""
        now_s = time.monotonic()
        under_way_s = sum(now_s - began_s for began_s in self.began_s.values())
        return replace(self.counts, busy_s=self.counts.busy_s + under_way_s, now_s=now_s)

    def arrived(self, connection: Connection) -> None:
        """A request is here whole."""
        counts, now_s = self.counts, time.monotonic()
        if not counts.requests:
            counts.first_arrival_s = now_s
        counts.requests += 1
        counts.in_flight += 1
        counts.peak = max(counts.peak, counts.in_flight)
        if self.free_since_s:
            counts.gaps_s.append(now_s - self.free_since_s.popleft())
        self.began_s[connection] = now_s

    def left(self, connection: Connection) -> None:
        """A request is answered, or nobody is left to answer."""
        began_s = self.began_s.pop(connection, None)
        if began_s is not None:
            now_s = time.monotonic()
            self.counts.in_flight -= 1
            self.counts.busy_s += now_s - began_s
            self.free_since_s.append(now_s)

    # -- streams --------------------------------------------------------------------------

    def add_stream(self, connection: Connection) -> None:
        """Give it a chunk each interval from now on."""
        min(self._turns, key=len)[connection] = None
        self.counts.streams += 1
        if not self._ticking:
            self._ticking = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._tick, loop, loop.time(), 0)

    def drop_stream(self, connection: Connection) -> None:
        """Its client is gone."""
        for turn in self._turns:
            if connection in turn:
                del turn[connection]
                self.counts.streams -= 1

    def _tick(self, loop: asyncio.AbstractEventLoop, due_s: float, turn: int) -> None:
        counts = self.counts
        for connection in self._turns[turn]:
            if connection.full:
                counts.chunks_held_back += 1
            else:
                connection.transport.write(CHUNK)
                counts.chunks_sent += 1
        if counts.streams <= 0:
            self._ticking = False
            return
        due_s = max(due_s + self.mode.interval_s / _TURNS, loop.time() - self.mode.interval_s)
        loop.call_at(due_s, self._tick, loop, due_s, (turn + 1) % _TURNS)


class Connection(asyncio.Protocol):
    """One connection of the proxy under test; its requests come one after the other."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._buffer = b""
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._origin.drop_stream(self)
        self._origin.left(self)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := request_end(self._buffer)) is not None:
            request, self._buffer = self._buffer[:end], self._buffer[end:]
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        target = request.split(b" ", 2)[1]
        if target == b"/bench/counts":
            self.transport.write(plain_answer(json.dumps(asdict(self._origin.report())).encode()))
        elif target == b"/bench/mode":
            self._origin.set_mode(Mode(**json.loads(request.partition(b"\r\n\r\n")[2])))
            self.transport.write(plain_answer(b"{}"))
        elif target == b"/health":
            self.transport.write(plain_answer(b"{}"))
        else:
            self._infer(self._origin.mode)

    def _infer(self, mode: Mode) -> None:
        self._origin.arrived(self)
        if mode.kind == "plain":
            if mode.answer_s:
                self._loop.call_later(mode.answer_s, self._finish)
            else:
                self._finish()
            return
        self.transport.write(_STREAM_HEAD + CHUNK)
        self._origin.counts.chunks_sent += 1
        if mode.kind == "stream":
            self._origin.add_stream(self)

    def _finish(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_PLAIN_ANSWER)
            self._origin.counts.answered += 1
            self._origin.left(self)


_PLAIN_ANSWER = plain_answer(PLAIN_BODY)


def request_end(buffer: bytes) -> int | None:
    """Where the first request in the buffer ends; None while it is not whole.

    For well-behaved proxies only: a length, or chunked without trailers.
    """
    head_end = buffer.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head, body = buffer[:head_end].lower(), head_end + 4
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        end = body + int(head[at + 17 :].partition(b"\r\n")[0])
        return end if len(buffer) >= end else None
    if b"\r\ntransfer-encoding:" in head:
        last = buffer.find(b"0\r\n\r\n", body)
        return last + 5 if last >= 0 else None
    return body


async def _serve(port: int) -> None:
    origin = Origin()
    loop = asyncio.get_running_loop()
    # Room for 1,000 streams that are opened at once.
    server = await loop.create_server(lambda: Connection(origin), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
