"""Where is a request's body on its way? Kept until somebody takes it, then handed straight on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sidecar.proxy.refusals import Refusal
from sidecar.proxy.wire.bodies import Body, ChunkedBody, LengthBody
from sidecar.proxy.wire.heads import BadMessageError

# What is kept of a body that nobody takes yet; beyond it the client is not read.
KEEP_MAX = 64 * 1024


class Source(Protocol):
    """The connection that a body comes from."""

    def pause_reading(self) -> None:
        """Stop reading; calls nest."""

    def resume_reading(self) -> None:
        """Take back one `pause_reading`."""


class RequestBody:
    """A request body on its way: kept until a taker is attached, then handed straight on.

    `held` counts the bytes kept. `on_held` is asked before each piece is kept and may refuse it.
    """

    # What most bodies never change stands here once, and is not set for each of them.
    error: BadMessageError | None = None
    refusal: Refusal | None = None
    held = 0
    size = 0
    _keep_max = KEEP_MAX
    _taker: Callable[[bytes], None] | None = None
    _on_held: Callable[[int], Refusal | None] | None = None
    _on_settled: Callable[[], None] | None = None
    _paused = False

    def __init__(self, connection: Source, framing: Body | None, whole: bytes = b"") -> None:
        """Without `framing` there is nothing to wait for: the body is `whole`."""
        self._connection = connection
        self._framing = framing
        if framing is None:
            self.complete = True
            self.held = self.size = len(whole)
            self._kept: bytes | bytearray = whole
        else:
            self.complete = False
            self._kept = b""

    def feed(self, data: bytes) -> int:
        """Take bytes from the socket; return how many belong to this body."""
        if self.error is not None:
            return len(data)  # where a malformed body ends, nobody can say
        framing = self._framing
        if framing is None:
            return 0
        try:
            taken = framing.feed(data)
        except BadMessageError as error:
            self.fail(error)
            return len(data)
        self.size += taken
        self.complete = framing.complete
        piece = data if taken == len(data) else data[:taken]
        if self._taker is not None:
            self._taker(piece)
        elif taken:
            self._keep(piece)
        return taken

    def fail(self, error: BadMessageError) -> None:
        """The body cannot be had: it is malformed, or the client is too slow."""
        self.error = error
        self._wake()
        if self._taker is not None:
            self._taker(b"")

    def _keep(self, piece: bytes) -> None:
        if self._on_held is not None:
            self.refusal = self.refusal or self._on_held(len(piece))
            if self.refusal is not None:
                self._wake()
                return
        # In one piece: as objects of their own, bodies that come in tiny segments would take
        # twenty times the memory that `held` says.
        if self._kept:
            self._kept += piece
        else:
            self._kept = bytearray(piece)
        self.held += len(piece)
        if self.complete:
            self._wake()
        elif self.held >= self._keep_max:
            self._paused = True
            self._connection.pause_reading()
            self._wake()

    def _wake(self) -> None:
        on_settled, self._on_settled = self._on_settled, None
        if on_settled is not None:
            # What still arrives before somebody takes it is no longer this one's to account for.
            self._on_held = None
            on_settled()

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to wait for before a slot may be asked for."""
        return (
            self.complete
            or self.error is not None
            or self.refusal is not None
            or self.held >= self._keep_max
        )

    def gather(
        self,
        keep_max: int,
        on_held: Callable[[int], Refusal | None],
        on_settled: Callable[[], None],
    ) -> None:
        """Say when the body is complete, or `keep_max` bytes of it are here, or it failed.

        `on_settled` may be called before this returns.
        """
        self._keep_max = keep_max
        self._on_held = on_held
        self._on_settled = on_settled
        if self.held:
            self.refusal = on_held(self.held)
        if self.settled:
            self._wake()
        elif self._paused and self.held < keep_max:
            self._paused = False
            self._connection.resume_reading()

    def content(self) -> bytes:
        """What has been kept so far, read without its chunk framing; it stays where it is."""
        kept = bytes(self._kept)
        if not isinstance(self._framing, ChunkedBody):
            return kept
        chunks = ChunkedBody(collect=True)
        chunks.feed(kept)
        return b"".join(chunks.payload or ())

    def take_kept(self) -> bytes:
        """What has been kept so far, leaving nothing behind."""
        kept, self._kept = self._kept, b""
        self.held = 0
        return bytes(kept)

    def attach(self, taker: Callable[[bytes], None]) -> None:
        """Hand every further piece to `taker`; b"" says that `error` or `complete` changed."""
        self._taker = taker
        if self._paused:
            self._paused = False
            self._connection.resume_reading()

    def discard(self) -> None:
        """Throw away what is still to come."""
        self._kept = b""
        self.held = 0
        self.attach(_ignore)


def _ignore(_: bytes) -> None:
    """Take and forget."""


def framing_of(content_length: int | None, *, chunked: bool) -> Body | None:
    """How the body of a request is delimited; None when it has none."""
    if chunked:
        return ChunkedBody()
    return LengthBody(content_length) if content_length else None
