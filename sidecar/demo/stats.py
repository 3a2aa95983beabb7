"""What has the demo backend been asked so far? Counts of the far side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field


@dataclass(slots=True)
class Count:
    """Inference requests of one kind."""

    in_flight: int = 0
    peak_in_flight: int = 0
    total: int = 0
    aborted_by_client: int = 0

    def begin(self) -> None:
        """One came."""
        self.total += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)


@dataclass(slots=True)
class Stats:
    """Inference requests, together and by route."""

    together: Count = field(default_factory=Count)
    by_route: dict[str, Count] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def running(self, route: str) -> Iterator[None]:
        """Count one request while it runs. A client that leaves cancels the block."""
        counts = (self.together, self.by_route.setdefault(route, Count()))
        for count in counts:
            count.begin()
        self._tell()
        try:
            yield
        except (asyncio.CancelledError, ConnectionError):
            for count in counts:
                count.aborted_by_client += 1
            raise
        finally:
            for count in counts:
                count.in_flight -= 1
            self._tell()

    async def wait_for(self, condition: Callable[[Count], object]) -> None:
        """Wait until `condition(together)` holds; for who runs the backend in the same loop."""
        while not condition(self.together):
            await self._changed.wait()

    def _tell(self) -> None:
        """Wake those who wait; later ones wait for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def as_json(self) -> dict[str, object]:
        """All counts."""
        routes = {route: asdict(count) for route, count in sorted(self.by_route.items())}
        return {**asdict(self.together), "routes": routes}
