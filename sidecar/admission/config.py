"""Which numbers does the guard obey? Plain values; `sidecar.settings` fills them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BreakerMode(StrEnum):
    """What an operator lets the breaker do."""

    ENFORCE = "enforce"
    OBSERVE = "observe"  # decides and reports, refuses nothing
    DISABLED = "disabled"  # neither counts nor refuses
    FORCED_OPEN = "forced_open"  # refuses everything until changed


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """When the circuit opens, for how long, and what closes it again."""

    mode: BreakerMode = BreakerMode.ENFORCE
    failure_threshold: int = 5
    open_s: float = 60.0
    probes: int = 1
    probe_successes: int = 1
    probe_s: float = 60.0
    # Shares of the calls that were completed within the last `window_s`; None: not looked at.
    # With 3 slots and 10 s an answer 36 calls are completed in two minutes (example figures).
    failure_ratio: float | None = None
    slow_ratio: float | None = None
    slow_call_s: float | None = None
    window_s: float = 120.0
    min_calls: int = 10
    # How much longer each time that a probe fails; 1: always `open_s`.
    open_backoff: float = 1.0
    open_max_s: float = 600.0
    # From one slot to all of them after a recovery; 0: all at once.
    ramp_s: float = 0.0

    @property
    def looks_at_ratios(self) -> bool:
        """Whether anything is counted in the window."""
        return self.failure_ratio is not None or self.slow_ratio is not None


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """How many may wait for a slot, for how long, holding how many bytes of body."""

    max_waiting: int = 64
    timeout_s: float = 30.0
    max_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """One class of routes: its limit, its queue and, where it has one, its breaker.

    `limit_setting` names the setting that `max_concurrent` comes from, to those who are refused.
    """

    max_concurrent: int = 3
    queue: QueueConfig = QueueConfig()
    breaker: BreakerConfig | None = BreakerConfig()
    limit_setting: str = "max_concurrent"
