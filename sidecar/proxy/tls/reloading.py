"""How does a renewed certificate come into use without a restart? New connections get it.

Each context belongs to the files it was made from. When they change, a new context is made of
them; if that fails, the old one stays. Connections keep the context they began with.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Iterable

from sidecar.proxy.config import ListenerTls, UpstreamTls
from sidecar.proxy.tls.contexts import (
    Loaded,
    Problem,
    TlsFilesError,
    files_of,
    listener_context,
    upstream_context,
)

# A renewed certificate is usually valid for days before the old one ends; a person who waits for
# it to come into use is not kept waiting either.
POLL_S = 2.0

# What tells one version of a file from the next: device, inode, time of change (ns) and size.
_Stamp = tuple[tuple[int, int, int, int] | None, ...]


class ReloadingContext:
    """A TLS context for new connections, and the files behind it. Raises `TlsFilesError`."""

    def __init__(self, name: str, files: tuple[str, ...], build: Callable[[], Loaded]) -> None:
        """`name` is for people: `proxy`, `admin` or `upstream`."""
        self.name = name
        self._files = files
        self._build = build
        self._stamp = self._look()  # before reading: what changes meanwhile is seen next time
        self._loaded = build()

    @classmethod
    def of_listener(cls, name: str, tls: ListenerTls) -> ReloadingContext | None:
        """For a listener; None when it has no certificate, and so no TLS."""
        if tls.cert_file is None:
            return None
        return cls(name, files_of(tls), lambda: listener_context(tls))

    @classmethod
    def of_upstream(cls, tls: UpstreamTls) -> ReloadingContext:
        """For connections to the backend."""
        return cls("upstream", files_of(tls), lambda: upstream_context(tls))

    @property
    def context(self) -> ssl.SSLContext:
        """What a new connection uses."""
        return self._loaded.context

    @property
    def not_after_s(self) -> float | None:
        """When the certificate in use ends (Unix time); None where there is none."""
        return self._loaded.not_after_s

    def refresh(self) -> list[Problem] | None:
        """Load the files if they changed.

        None: they did not. Otherwise what is wrong with them: nothing, and they are in use.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return None
        self._stamp = stamp  # files that are no good are tried once, until they change again
        try:
            self._loaded = self._build()
        except TlsFilesError as error:
            return error.problems
        return []

    def _look(self) -> _Stamp:
        return tuple(_stamp_of(path) for path in self._files)


def _stamp_of(path: str) -> tuple[int, int, int, int] | None:
    # Links are followed: Kubernetes swaps one above the files it mounts.
    try:
        found = os.stat(path)  # noqa: PTH116 - the path object would be made for this alone
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


async def keep_fresh(
    contexts: Iterable[ReloadingContext],
    on_reload: Callable[[ReloadingContext, list[Problem]], None],
) -> None:
    """Look at all files every few seconds, for ever; `on_reload` hears of each change."""
    watched = list(contexts)
    while True:
        await asyncio.sleep(POLL_S)
        for context in watched:
            problems = context.refresh()
            if problems is not None:
                on_reload(context, problems)
