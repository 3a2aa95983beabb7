"""What do attacks need? Sidecars in processes of their own, and a backend that outlives tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.abuse.backend import Backend
from tests.abuse.process import Sidecar, sidecar

# Small enough to be reached in no time, large enough for good traffic.
PLACES = 60
SLOTS = 2
TIGHT: dict[str, object] = {
    "max_concurrent": SLOTS,
    "queue.body_buffer_bytes": 1000,
    "timers.head_s": 0.5,
    "timers.body_stall_s": 1,
    "timers.write_stall_s": 0.5,
    "limits.body_min_bytes_per_s": 100,
    "limits.max_connections": PLACES,
}


@pytest.fixture(scope="package")
def backend() -> Iterator[Backend]:
    """A backend in a thread of its own."""
    with Backend() as backend:
        yield backend


@pytest.fixture(scope="package")
def _plain(backend: Backend) -> Iterator[Sidecar]:
    with sidecar(backend.url) as process:
        yield process


@pytest.fixture(scope="package")
def _tight(backend: Backend) -> Iterator[Sidecar]:
    with sidecar(backend.url, TIGHT) as process:
        yield process


@pytest.fixture
def plain(_plain: Sidecar) -> Iterator[Sidecar]:
    """A sidecar with its defaults. After the attack nothing is left in it."""
    with _plain.attacked():
        yield _plain


@pytest.fixture
def tight(_tight: Sidecar) -> Iterator[Sidecar]:
    """A sidecar with limits that are soon reached, likewise."""
    with _tight.attacked():
        yield _tight
