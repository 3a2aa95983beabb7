"""Who may connect? Counts client connections, overall and by address."""

from __future__ import annotations

from collections import Counter

from sidecar.proxy.config import Limits
from sidecar.proxy.refusals import ProxyReason, Refusal


class Door:
    """Lets connections in up to the limits, and out again."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_address: Counter[str] = Counter()
        self._count = 0

    def enter(self, address: str) -> Refusal | None:
        """Count one more connection from `address` ("" for unix sockets), or say why not."""
        limits = self._limits
        if self._count >= limits.max_connections:
            return Refusal.of(
                ProxyReason.TOO_MANY_CONNECTIONS,
                f"{self._count} connections are open (limits.max_connections)",
            )
        if address:
            own = self._by_address[address]
            if own >= limits.max_connections_per_address:
                return Refusal.of(
                    ProxyReason.TOO_MANY_CONNECTIONS,
                    f"{own} connections are open from {address} "
                    "(limits.max_connections_per_address)",
                )
            self._by_address[address] = own + 1
        self._count += 1
        return None

    def leave(self, address: str) -> None:
        """One that was let in is gone."""
        self._count -= 1
        if address:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
