"""How long does the circuit stay open? Growth from one opening to the next, and `Retry-After`."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.admission.config import BreakerConfig

# A backend may ask to be left alone for longer than it should be (hours, by a slip of the unit
# or a quota of one caller); nobody is kept out for more than five minutes by that.
RETRY_AFTER_MAX_S = 300.0

# Grown open times are up to a fifth shorter, so that sidecars in front of one backend drift
# apart; and never longer, so that `open_max_s` is what it says (the share is a guess).
_JITTER = 0.2

# 10 ** 64 days are long enough, and still a float.
_MOST_GROWTHS = 64


class OpenTime:
    """Remembers how often the circuit re-opened, and until when the backend asked for quiet.

    `random` returns floats in [0, 1).
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._reopened = 0
        self._not_before_s = 0.0

    def hear_retry_after(self, retry_after_s: float, now_s: float) -> float:
        """The backend names a time to come back; a later one extends, an earlier one is nothing.

        Returns the latest moment that was named.
        """
        named_s = now_s + min(retry_after_s, RETRY_AFTER_MAX_S)
        self._not_before_s = max(self._not_before_s, named_s)
        return self._not_before_s

    def forget_retry_after(self) -> None:
        """It serves again, whatever it had asked for."""
        self._not_before_s = 0.0

    def open_until_s(self, config: BreakerConfig, now_s: float, *, again: bool) -> float:
        """When the circuit that opens now may be half-open; `again` says that a probe failed."""
        self._reopened = self._reopened + 1 if again else 0
        return max(now_s + self._length_s(config), self._not_before_s)

    def _length_s(self, config: BreakerConfig) -> float:
        if config.open_backoff == 1.0 or not self._reopened:
            return config.open_s
        grown_s = config.open_s * config.open_backoff ** min(self._reopened, _MOST_GROWTHS)
        capped_s = min(grown_s, config.open_max_s)
        return max(config.open_s, capped_s * (1.0 - _JITTER * self._random()))
