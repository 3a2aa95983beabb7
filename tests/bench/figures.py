"""Which figures were taken, of whom, and what went wrong?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tests.bench.series import Series, ratio

SIDECAR = "sidecar"


@dataclass(slots=True)
class Figures:
    """Values by figure and contender, one a round; and notes on what could not be had."""

    series: dict[str, dict[str, Series]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    foreign_cores: dict[str, float] = field(default_factory=dict)
    """By measure: how many cores others kept busy meanwhile."""
    _failed: set[tuple[str, ...]] = field(default_factory=set)

    def add(self, contender: str, **values: float) -> None:
        """One round's values, by figure."""
        for figure, value in values.items():
            self.series.setdefault(figure, {}).setdefault(contender, Series()).values.append(value)

    def add_failure(self, contender: str, why: str, *figures: str) -> None:
        """A round without values: it keeps its place, and the first such round's reason is told."""
        self.add(contender, **dict.fromkeys(figures, math.nan))
        if (contender, *figures) not in self._failed:
            self._failed.add((contender, *figures))
            self.note(f"{contender}: {why}")

    def note(self, text: str) -> None:
        """Something the reader must know."""
        if text not in self.notes:
            self.notes.append(text)

    def of(self, figure: str, contender: str = SIDECAR) -> Series:
        """One figure of one contender; empty when it was not taken."""
        return self.series.get(figure, {}).get(contender, Series())

    def contenders(self, figure: str) -> list[str]:
        """Who has that figure, in the order in which they were measured."""
        return [name for name, series in self.series.get(figure, {}).items() if series.known]

    def against(self, figure: str, peer: str) -> Series:
        """The sidecar's figure by the peer's, round by round."""
        return ratio(self.of(figure), self.of(figure, peer))
