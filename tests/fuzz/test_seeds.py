"""Do the properties hold for all that the fuzzer sets out from? Asked without atheris."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz import to_backend
from tests.fuzz.plans import BYTE_BY_BYTE, IN_ONE_PIECE, Plan
from tests.fuzz.targets import TARGETS
from tests.fuzz.virtual_time import VirtualLoop, virtual_loop
from tests.proxy.smuggling_corpus import ON_GUARDED_ROUTE, TRICKS, Trick


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    with virtual_loop() as loop:
        yield loop


@pytest.mark.timeout(120)  # thousands of runs
@pytest.mark.parametrize("name", TARGETS)
def test_the_property_holds_for_every_seed(name: str, loop: VirtualLoop) -> None:
    """All known tricks leave the properties of the fuzzer intact, in every way they travel."""
    target = TARGETS[name]
    for seed, data in target.seeds().items():
        try:
            target.try_on(data, loop)
        except AssertionError as error:
            error.add_note(f"seed: {seed}")
            raise


@pytest.mark.parametrize("plan", [IN_ONE_PIECE, BYTE_BY_BYTE], ids=["one piece", "bytes"])
@pytest.mark.parametrize("tricks", [TRICKS, ON_GUARDED_ROUTE], ids=["free", "guarded"])
def test_tricks_end_as_they_do_on_sockets(
    tricks: list[Trick], plan: Plan, loop: VirtualLoop
) -> None:
    """What the corpus promises of each trick holds on lines too: they are a fair stand-in."""
    for trick in tricks:
        seen = loop.run_until_complete(to_backend.carry(plan, trick.raw, loop))
        statuses = [200] * len(trick.arrives) + [trick.refused] * (trick.refused is not None)
        assert [answer.status for answer in seen.answers] == statuses, trick.name
        assert [read for read, _ in seen.arrived] == list(trick.arrives), trick.name
        closed = trick.closes or trick.refused is not None
        assert (seen.end.value == "closed") == closed, trick.name
