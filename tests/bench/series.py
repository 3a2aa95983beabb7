"""What do several noisy rounds say together? Medians, spreads, ratios of the same round."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median, quantiles

# Rounds that differ by more than this (between their quartiles, relative to the median) were taken
# on a machine too busy to conclude anything from. A guess that lets a quiet machine pass: there the
# rounds differ by 2 to 8 %.
MAX_SPREAD_RATIO = 0.2


class Series:
    """One figure of one contender: a value a round; NaN where a round failed."""

    def __init__(self, values: Iterable[float] = ()) -> None:
        self.values = list(values)

    @property
    def known(self) -> list[float]:
        """The values of the rounds that succeeded."""
        return [value for value in self.values if not math.isnan(value)]

    @property
    def median(self) -> float:
        """The middle value; NaN when every round failed."""
        return median(self.known) if self.known else math.nan

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these lie the middle half of the rounds; of fewer than four, all of them."""
        known = self.known
        if not known:
            return math.nan, math.nan
        if len(known) < 4:
            return min(known), max(known)
        low, _, high = quantiles(known, n=4, method="inclusive")
        return low, high

    @property
    def spread_ratio(self) -> float:
        """How far the quartiles are apart, relative to the median. 0 when there is no median."""
        low, high = self.quartiles
        return (high - low) / abs(self.median) if self.known and self.median else 0.0

    @property
    def too_noisy(self) -> bool:
        """Whether the rounds differ too much to conclude anything."""
        return self.spread_ratio > MAX_SPREAD_RATIO


def ratio(ours: Series, theirs: Series) -> Series:
    """Ours by theirs, round by round: what slows the machine down slows both."""
    return Series(
        own / other if other else math.nan
        for own, other in zip(ours.values, theirs.values, strict=False)
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed; NaN of no values."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
