"""What do the system tests share? An engine with the image, a real backend, and a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar import __version__
from tests.system import base_image
from tests.system.engine import Engine, running_engine

ROOT = Path(__file__).parents[2]

_FIGURES: list[str] = []

Record = Callable[[str], None]


@pytest.fixture(scope="session")
def record() -> Record:
    """Takes lines with measured figures; they are printed at the end of the run."""
    return _FIGURES.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    if _FIGURES:
        terminalreporter.section("measured")
        for line in _FIGURES:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A private Docker engine that holds the stand-in base image."""
    with running_engine() as engine:
        base_image.make(engine, base_image.name_in(ROOT / "Dockerfile"))
        yield engine


@pytest.fixture(scope="session")
def image(engine: Engine, record: Record) -> str:
    """The project's image, built from the unchanged Dockerfile; returns its name."""
    seconds = engine.make_image(ROOT, "openclaw-sidecar")
    name = f"openclaw-sidecar:{__version__}"
    base = base_image.name_in(ROOT / "Dockerfile")
    size, base_size = (
        int(engine.docker("image", "inspect", "--format", "{{.Size}}", each)) / 1e6
        for each in (name, base)
    )
    record(f"image: {size:.0f} MB, of which {size - base_size:.0f} MB are ours and not the base's")
    record(f"build: {seconds:.1f} s")
    return name
