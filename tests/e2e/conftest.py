"""On which event loop do end-to-end tests run? On uvloop, as production; a few on asyncio too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001 - the hook's signature
    item: pytest.Item,
) -> Mapping[str, LoopFactory]:
    """Run on uvloop, and on asyncio too where a test's marker says so (`harness.on_both_loops`)."""
    factories: dict[str, LoopFactory] = {"uvloop": uvloop.new_event_loop}
    marker = item.get_closest_marker("asyncio")
    if marker is not None and "asyncio" in marker.kwargs.get("loop_factories", ()):
        factories["asyncio"] = asyncio.new_event_loop
    return factories
