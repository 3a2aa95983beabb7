"""How is one metric written down? Families of samples, as `prometheus_client` renders them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

PREFIX = "openclaw_sidecar_"

Rows = Iterable[tuple[Sequence[str], float]]  # label values, and the number they stand for


def counter(name: str, meaning: str, labels: Sequence[str], rows: Rows) -> Metric:
    """A family of counters. `name` goes without prefix and without `_total`."""
    family = CounterMetricFamily(PREFIX + name, meaning, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def gauge(name: str, meaning: str, labels: Sequence[str], rows: Rows) -> Metric:
    """A family of gauges. `name` goes without prefix."""
    family = GaugeMetricFamily(PREFIX + name, meaning, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


class Buckets:
    """Upper bounds of a histogram in seconds, and how they are spelt in the `le` label."""

    def __init__(self, *bounds_s: float) -> None:
        self.bounds_s = bounds_s
        self.names = [str(float(bound_s)) for bound_s in bounds_s] + ["+Inf"]


class Histogram:
    """One series of durations: how many fell into each bucket, and their sum."""

    __slots__ = ("_bounds_s", "_counts", "_names", "_sum_s")

    def __init__(self, buckets: Buckets) -> None:
        self._bounds_s = buckets.bounds_s
        self._names = buckets.names
        self._counts = [0] * len(buckets.names)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._bounds_s, seconds)] += 1
        self._sum_s += seconds

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Write this series down; buckets count everything up to their bound."""
        counts = accumulate(self._counts)
        family.add_metric(labels, list(zip(self._names, counts, strict=True)), self._sum_s)


def histogram(
    name: str,
    meaning: str,
    labels: Sequence[str],
    rows: Iterable[tuple[Sequence[str], Histogram]],
) -> Metric:
    """A family of histograms. `name` goes without prefix."""
    family = HistogramMetricFamily(PREFIX + name, meaning, labels=labels)
    for values, series in rows:
        series.add_to(family, values)
    return family
