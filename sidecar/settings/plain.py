"""What is a run given? The settings as plain values, each room's in the room's own type.

No pydantic here: what serves does without (docs/decisions/0006-settings-are-read-apart.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from sidecar.admission.config import GuardConfig
from sidecar.admission.routes import RouteRule
from sidecar.proxy.config import ListenerTls, ProxyConfig, Timers
from sidecar.settings.address import ListenAddress


class Readiness(StrEnum):
    """What `/readyz` on the admin port follows."""

    ALWAYS = "always"
    NOT_DRAINING = "not_draining"
    BREAKER = "breaker"  # not ready while draining either


class LogFormat(StrEnum):
    """How log lines look."""

    AUTO = "auto"  # console on a terminal, JSON otherwise
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    """The least severity that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged, and how it looks."""

    level: LogLevel
    format: LogFormat
    requests: bool
    request_sample_ratio: float


@dataclass(frozen=True, slots=True)
class PlainSettings:
    """Everything that a run obeys. `upstream` is None where no setting names a backend."""

    upstream: str | None
    listen: ListenAddress
    admin: ListenAddress
    admin_tls: ListenerTls
    proxy: ProxyConfig
    guards: Mapping[str, GuardConfig]  # of each class of routes
    breakers: Mapping[str, str | None]  # the class whose breaker guards each: itself, or another
    timers: Mapping[str, Timers]  # of each class of routes
    routes: tuple[RouteRule, ...]  # the first match wins
    probe_s: float
    drain_s: float
    drain_upgrades_s: float
    readiness: Readiness
    log: LogConfig

    def in_front_of(self, upstream: str) -> PlainSettings:
        """The same for another backend."""
        return replace(self, upstream=upstream, proxy=replace(self.proxy, upstream=upstream))
