"""What is the sidecar held to, and does it hold? Each goal, its bound and the verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from tests.bench.figures import Figures
from tests.bench.series import MAX_SPREAD_RATIO, Series

# Of two cores. A quiet machine shows 0.02 to 0.05; a guess beyond that.
MAX_FOREIGN_CORES = 0.2

# Memory stays the same, whatever others do.
_UNDISTURBED = {"memory", "waiting"}


class Verdict(StrEnum):
    """What can be said."""

    MET = "met"
    NOT_MET = "**not met**"
    UNCLEAR = "unclear"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure, or its ratio to a peer's, that may not be above (or below) a number."""

    figure: str
    bound: float
    peer: str | None = None
    at_least: bool = False
    unit: str = ""

    def series(self, figures: Figures) -> Series:
        """What was measured, in the bound's own terms."""
        if self.peer is None:
            return figures.of(self.figure)
        return figures.against(self.figure, self.peer)

    def verdict(self, figures: Figures) -> Verdict:
        """Judged by the median, unless the rounds differ too much or lie on both sides."""
        series = self.series(figures)
        if not series.known:
            return Verdict.NOT_MEASURED
        low, high = series.quartiles
        if series.too_noisy or low <= self.bound < high:
            return Verdict.UNCLEAR
        good = series.median >= self.bound if self.at_least else series.median <= self.bound
        return Verdict.MET if good else Verdict.NOT_MET

    def measured(self, figures: Figures) -> str:
        """The figure in words, with the spread."""
        series = self.series(figures)
        if not series.known:
            return "-"
        unit = f" x {self.peer}" if self.peer else f" {self.unit}".rstrip()
        text = f"{number(series.median)}{unit}"
        if len(series.known) > 1:
            low, high = series.quartiles
            text += f" ({number(low)} to {number(high)})"
        if series.too_noisy:
            text += f"; no conclusion: the rounds differ by {series.spread_ratio:.0%}, more than "
            text += f"{MAX_SPREAD_RATIO:.0%}"
        elif self.verdict(figures) is Verdict.UNCLEAR:
            text += "; no conclusion: the rounds lie on both sides"
        return text


@dataclass(frozen=True, slots=True)
class Goal:
    """A sentence and its bounds; `any_of` says that one of them is enough."""

    measure: str
    text: str
    bounds: tuple[Bound, ...]
    any_of: bool = False

    def disturbed(self, figures: Figures) -> bool:
        """Whether others took so much of the machine meanwhile that this figure is theirs, too."""
        return (
            self.measure not in _UNDISTURBED
            and figures.foreign_cores.get(self.measure, 0.0) > MAX_FOREIGN_CORES
        )

    def measured(self, figures: Figures) -> str:
        """The figures in words, and what speaks against them."""
        text = "; ".join(bound.measured(figures) for bound in self.bounds)
        if self.disturbed(figures):
            text += f"; no conclusion: others used {figures.foreign_cores[self.measure]:.2f} cores"
        return text

    def verdict(self, figures: Figures) -> Verdict:
        """Of all bounds together."""
        if self.disturbed(figures):
            return Verdict.UNCLEAR
        verdicts = [bound.verdict(figures) for bound in self.bounds]
        order = [Verdict.NOT_MET, Verdict.UNCLEAR, Verdict.NOT_MEASURED, Verdict.MET]
        if self.any_of:
            order = [Verdict.MET, Verdict.UNCLEAR, Verdict.NOT_MEASURED, Verdict.NOT_MET]
        return min(verdicts, key=order.index)


def _below(figure: str, *peers: tuple[str, float]) -> tuple[Bound, ...]:
    return tuple(Bound(figure, bound, peer) for peer, bound in peers)


GOALS = (
    Goal(
        "requests",
        "CPU per request: at most 3 x HAProxy",
        _below("cpu_us_per_request", ("haproxy", 3.0)),
    ),
    Goal(
        "requests", "CPU per request: not above Envoy", _below("cpu_us_per_request", ("envoy", 1.0))
    ),
    Goal(
        "requests",
        "CPU per request: below Traefik and Caddy",
        _below("cpu_us_per_request", ("traefik", 1.0), ("caddy", 1.0)),
    ),
    Goal(
        "requests",
        "CPU per request: at most 0.4 x the hand-written aiohttp proxy",
        _below("cpu_us_per_request", ("hand-written", 0.4)),
    ),
    Goal(
        "chunks",
        "CPU per streamed chunk: at most 1.5 x HAProxy",
        _below("cpu_us_per_chunk", ("haproxy", 1.5)),
    ),
    Goal(
        "chunks",
        "CPU per streamed chunk: not above Envoy",
        _below("cpu_us_per_chunk", ("envoy", 1.0)),
    ),
    Goal(
        "latency",
        "Added latency at one connection, p50: at most 2 x HAProxy's",
        _below("added_p50_us_at_1", ("haproxy", 2.0)),
    ),
    Goal(
        "latency",
        "Added latency at one connection, p50 and p99: below Envoy's",
        _below("added_p50_us_at_1", ("envoy", 1.0)) + _below("added_p99_us_at_1", ("envoy", 1.0)),
    ),
    Goal(
        "refusals",
        "Refusals while open: at least 20,000/s on one core, or within 1.5 x of an empty "
        "aiohttp handler",
        (
            Bound("refusals_per_s", 20_000, at_least=True, unit="/s"),
            Bound("refusals_per_s", 1 / 1.5, "empty handler", at_least=True),
        ),
        any_of=True,
    ),
    Goal(
        "herd",
        "Useful work under a herd of 1,000 clients on 3 slots: at least 99 %",
        (Bound("herd_useful_ratio", 0.99, at_least=True),),
    ),
    Goal("start", "Memory idle: at most 48 MB resident", (Bound("idle_rss_mb", 48, unit="MB"),)),
    Goal(
        "memory",
        "Memory of 1,000 idle streams: at most 30 KB each",
        (Bound("kb_per_stream", 30, unit="KB"),),
    ),
    Goal(
        "waiting",
        "Memory with 10,000 (here 9,900) waiting requests: at most 200 MB in all",
        (Bound("waiting_rss_mb", 200, unit="MB"),),
    ),
    Goal("start", "Ready in under 0.5 s from start", (Bound("start_s", 0.5, unit="s"),)),
)


def number(value: float) -> str:
    """Three significant digits, with thousands set apart; "-" for what is not known."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if value and abs(value) < 0.001:
        return f"{value:.1g}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"
