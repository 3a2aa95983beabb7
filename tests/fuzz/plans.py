"""What does an input of the fuzzer mean? First how its bytes travel, then the bytes themselves.

A plan is a few bytes of fixed size, so that all other bytes are raw: what a mutation does to them
is what arrives on the wire.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from itertools import pairwise
from typing import TypeVar

_LAYOUT = struct.Struct(">BBBBHH")
SIZE = _LAYOUT.size

# More pieces than this only cost time.
_PIECES_MAX = 300

M = TypeVar("M", bound=IntEnum)


class Flag(IntFlag):
    """What is unusual about a run."""

    NONE = 0
    PACED = 1  # each piece has had all its effects before the next comes
    SLOW_CLIENT = 2  # writing to the client is paused now and then
    SLOW_BACKEND = 4  # writing to the backend is paused now and then
    TIGHT = 8  # small limits and buffers
    HANGS_UP = 16  # the backend closes after each answer, without saying so
    KEPT = 32  # the backend's bytes come on a connection that has served before
    UNASKED = 64  # they come on such a connection, and before the request


class Ending(IntEnum):
    """How the side that sends the raw bytes ends."""

    LATER = 0  # when all is over, it closes
    NEVER = 1  # it stays and says no more
    CLOSE = 2  # it closes behind its last byte
    RESET = 3  # it resets behind its last byte


@dataclass(frozen=True, slots=True)
class Plan:
    """How the bytes of one input travel. Any bytes are a plan."""

    flags: Flag = Flag.NONE
    ending: Ending = Ending.LATER
    choice: int = 0
    """Of whatever the target lets a plan choose; taken modulo the number of choices."""
    piece_bytes: int = 0
    """Cut the bytes into pieces of this size; 0: cut them at two places."""
    first_cut: int = 0
    second_cut: int = 0

    @classmethod
    def split(cls, data: bytes) -> tuple[Plan, bytes]:
        """Read an input of the fuzzer: its plan, and the raw bytes."""
        flags, ending, choice, piece, first, second = _LAYOUT.unpack(data[:SIZE].ljust(SIZE, b"\0"))
        plan = cls(Flag(flags & _ALL), Ending(ending % len(Ending)), choice, piece, first, second)
        return plan, data[SIZE:]

    def with_bytes(self, raw: bytes) -> bytes:
        """The input of the fuzzer that `split` reads so."""
        return (
            _LAYOUT.pack(
                self.flags,
                self.ending,
                self.choice,
                self.piece_bytes,
                self.first_cut,
                self.second_cut,
            )
            + raw
        )

    def pieces(self, raw: bytes) -> list[bytes]:
        """The bytes as they travel."""
        if self.piece_bytes:
            size = max(self.piece_bytes, len(raw) // _PIECES_MAX)
            return [raw[at : at + size] for at in range(0, len(raw), size)]
        cuts = sorted(cut % (len(raw) + 1) for cut in (self.first_cut, self.second_cut))
        places = [0, *cuts, len(raw)]
        return [raw[a:b] for a, b in pairwise(places) if a < b]


_ALL = sum(Flag)


IN_ONE_PIECE = Plan()
BYTE_BY_BYTE = Plan(Flag.PACED, piece_bytes=1)
