"""What if an event loop never waited? Its clock is a number, which jumps to the next timer.

Minutes of time-outs pass in microseconds, two runs of the same program are the same to the last
callback, and "nothing more will happen" is something that can be awaited.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class DeadlockError(RuntimeError):
    """Everybody waits for somebody else, and no timer is left that could end it."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, without sockets and with a clock of its own."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._quiet: asyncio.Future[None] | None = None
        super().__init__(_NoSockets(self))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now_s

    async def quiet(self) -> None:
        """Wait until nothing but time could make anything happen."""
        self._quiet = self.create_future()
        await self._quiet

    def nothing_is_due(self, timeout_s: float | None) -> None:
        """All callbacks have run, and the next timer is due in `timeout_s`, if there is any."""
        if self._quiet is not None:
            self._quiet.set_result(None)
            self._quiet = None
        elif timeout_s is None:
            raise DeadlockError
        else:
            self._now_s += timeout_s


@contextmanager
def virtual_loop() -> Iterator[VirtualLoop]:
    """A new loop; what is left on it is cancelled in the end."""
    loop = VirtualLoop()
    try:
        yield loop
    finally:
        loop.set_exception_handler(lambda *_: None)  # what went wrong has been told
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(loop.quiet())
        loop.close()


class _NoSockets(selectors.BaseSelector):
    """Is told by the loop that there is nothing to do; has no events to tell."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._keys: dict[Any, selectors.SelectorKey] = {}  # of the loop's own wake-up socket

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._loop.nothing_is_due(timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, fileobj, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys
