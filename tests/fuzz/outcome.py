"""What did libFuzzer say? Its log, read for people: how much was tried, and what was found."""

from __future__ import annotations

import re
from dataclasses import dataclass

# "#13915  DONE   cov: 907 ft: 2847 corp: 189/28Kb lim: 4096 exec/s: 448 rss: 74Mb"
_STATUS = re.compile(r"^#(\d+)\s.*\bcov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)
_EXECUTIONS = re.compile(r"^stat::number_of_executed_units: *(\d+)$", re.MULTILINE)
_FOUND = re.compile(r"Test unit written to (\S+)$", re.MULTILINE)
_TOLD = re.compile(r"=== Uncaught Python exception: ===\n(.*?)^==\d+==", re.DOTALL | re.MULTILINE)
_ALARM = re.compile(r"^==\d+== ?ERROR: libFuzzer: (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run of one target went."""

    executions: int
    edges: int
    """Of the product's code: how many ways from line to line were taken."""
    features: int
    """Edges, each with how often it was taken, and comparisons: what guides the fuzzer."""
    inputs: int
    """How many inputs are kept, because each does something that no other does."""
    found: str | None
    """The file with the input that broke the property."""
    told: str
    """The exception, or whatever else ended the run; "" when its time was over."""


def read(log: str) -> Outcome:
    """Read the log of one run, whether it came to its end or not."""
    reached, edges, features, inputs = 0, 0, 0, 0
    for status in _STATUS.finditer(log):
        reached, edges, features, inputs = map(int, status.groups())
    executed, found = _EXECUTIONS.search(log), _FOUND.search(log)
    told, alarm = _TOLD.search(log), _ALARM.search(log)
    return Outcome(
        executions=int(executed[1]) if executed else reached,
        edges=edges,
        features=features,
        inputs=inputs,
        found=found[1] if found else None,
        told=told[1].strip() if told else alarm[1] if alarm else "",
    )
