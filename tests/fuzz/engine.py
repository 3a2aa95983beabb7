"""What runs one target under atheris? A process of its own, which libFuzzer ends when it is done.

python -m tests.fuzz.engine TARGET [libFuzzer's options and folders]
"""

from __future__ import annotations

import sys
from random import Random

import atheris

from tests.fuzz.plans import SIZE
from tests.fuzz.virtual_time import VirtualLoop
from tests.proxy.grammar import spoil

# How often a mutation changes how the bytes travel, and how often it does to the bytes what
# smugglers would; all others are libFuzzer's own. Guesses.
_OF_PLAN_RATIO, _OF_SMUGGLERS_RATIO = 0.15, 0.4


def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
    """Change the plan or the bytes, never one into the other."""
    random = Random(seed)
    plan, raw = bytearray(data[:SIZE].ljust(SIZE, b"\0")), data[SIZE:]
    kind = random.random()
    if kind < _OF_PLAN_RATIO:
        plan[random.randrange(SIZE)] = random.randrange(256)
    elif kind < _OF_PLAN_RATIO + _OF_SMUGGLERS_RATIO:
        for _ in range(random.choice((1, 1, 2, 3))):
            raw = spoil(raw, random.choice)
    else:
        raw = atheris.Mutate(raw, max_bytes - SIZE)
    return (bytes(plan) + raw)[:max_bytes]


def main(argv: list[str]) -> None:
    """Fuzz until libFuzzer ends the process."""
    program, name, *options = argv
    with atheris.instrument_imports(include=["sidecar"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - only now they are instrumented
    target, loop = TARGETS[name], VirtualLoop()
    atheris.Setup(
        [program, *options], lambda data: target.try_on(data, loop), custom_mutator=mutate
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
