"""What does a run say? Markdown tables, the goals' verdicts, and the results in the docs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import SIDECAR, Figures
from tests.bench.goals import GOALS, number

BEGIN = "<!-- results: written by `make bench ARGS=--write-docs`, not by hand -->"
END = "<!-- end of results -->"

# A proxy that leaves this much of its core idle was not the one that limited the requests.
_FULL_RATIO = 0.9


@dataclass(frozen=True, slots=True)
class Column:
    """One figure in a table; `compared` adds how the sidecar's relates to the row's."""

    heading: str
    figure: str
    compared: bool = False
    spread: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A measure's figures, a contender a row; who has the first figure has a row."""

    title: str
    about: str
    columns: tuple[Column, ...]


TABLES = (
    Table(
        "Requests",
        "POST of a small chat completion on an inference route, 32 connections kept alive, without "
        "a pause. CPU in microseconds per request. \\* The load or the backend, not this proxy, "
        "was the limit.",
        (
            Column("CPU", "cpu_us_per_request", compared=True, spread=True),
            Column("user", "user_us_per_request"),
            Column("sys", "sys_us_per_request"),
            Column("requests/s", "requests_per_s", spread=True),
        ),
    ),
    Table(
        "Streams",
        "100 streams, an SSE chunk each 10 ms on each. CPU in microseconds per chunk.",
        (
            Column("CPU", "cpu_us_per_chunk", compared=True, spread=True),
            Column("user", "user_us_per_chunk"),
            Column("sys", "sys_us_per_chunk"),
            Column("chunks/s", "chunks_per_s"),
        ),
    ),
    Table(
        "Added latency",
        "Microseconds above the backend asked directly: at one connection, and at 100 that each "
        "ask about 20 times a second.",
        (
            Column("p50 at 1", "added_p50_us_at_1", compared=True, spread=True),
            Column("p99 at 1", "added_p99_us_at_1", compared=True, spread=True),
            Column("p50 at 100", "added_p50_us_at_100", compared=True, spread=True),
            Column("p99 at 100", "added_p99_us_at_100", compared=True, spread=True),
        ),
    ),
    Table(
        "Start-up",
        "Seconds from start to the first answer from the backend.",
        (Column("start, s", "start_s", compared=True, spread=True),),
    ),
    Table(
        "Memory at rest",
        "A fresh process after its first answer; MB are 10^6 bytes. RSS counts shared pages whole, "
        "PSS by their share.",
        (Column("RSS, MB", "idle_rss_mb", compared=True), Column("PSS, MB", "idle_pss_mb")),
    ),
    Table(
        "Memory with 1,000 open streams",
        "Each has received its first chunk and is silent. KB per stream (10^3 bytes) is the growth "
        "of PSS.",
        (
            Column("KB per stream", "kb_per_stream", compared=True),
            Column("RSS, MB", "streams_rss_mb"),
            Column("PSS, MB", "streams_pss_mb"),
        ),
    ),
    Table(
        "Memory with 9,900 requests at once",
        "Three are at the backend, all others wait; small bodies.",
        (Column("RSS, MB", "waiting_rss_mb"),),
    ),
    Table(
        "Refusals while the circuit is open",
        "Per second on one core; the empty handler is aiohttp's, answering 503 and nothing else.",
        (
            Column("refusals/s", "refusals_per_s", compared=True, spread=True),
            Column("CPU, us", "cpu_us_per_refusal", compared=True),
        ),
    ),
    Table(
        "A herd of 1,000 clients on 3 slots",
        "Each asks again as soon as it is answered; an answer takes the backend 50 ms. Useful work "
        "is the share of what three slots would do that are never idle, from the first request on, "
        "with the onrush in it. The gap is the time from one answer's end to the next request's "
        "arrival at the backend. Peak is the most the backend had at once.",
        (
            Column("useful work", "herd_useful_ratio"),
            Column("gap p50, ms", "herd_gap_p50_ms", compared=True, spread=True),
            Column("gap p99, ms", "herd_gap_p99_ms"),
            Column("peak", "herd_peak"),
        ),
    ),
)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [
        "| " + " | ".join(headings) + " |",
        "|---" + "|---:" * (len(headings) - 1) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines)


def tables(figures: Figures) -> str:
    """Every table that has figures."""
    return "\n\n".join(
        f"### {table.title}\n\n{table.about}\n\n{_table(table, figures)}"
        for table in TABLES
        if figures.contenders(table.columns[0].figure)
    )


def _table(table: Table, figures: Figures) -> str:
    headings = [""]
    for column in table.columns:
        headings.append(column.heading)
        if column.compared:
            headings.append("sidecar is")
    rows = [
        [name, *(cell for column in table.columns for cell in _cells(column, name, figures))]
        for name in figures.contenders(table.columns[0].figure)
    ]
    return markdown_table(headings, rows)


def _cells(column: Column, contender: str, figures: Figures) -> list[str]:
    series = figures.of(column.figure, contender)
    text = number(series.median)
    if column.figure == "herd_useful_ratio":
        text = f"{series.median:.1%}"
    if column.figure == "requests_per_s" and (
        figures.of("busy_ratio", contender).median < _FULL_RATIO
    ):
        text = f"\\* {text}"
    if column.spread and len(series.known) > 1:
        text += f" ±{series.spread_ratio / 2:.0%}"
    if not column.compared:
        return [text]
    if contender == SIDECAR:
        return [text, ""]
    against = figures.against(column.figure, contender)
    if not against.known:
        return [text, "-"]
    return [text, f"{number(against.median)} x" + (" (noisy)" if against.too_noisy else "")]


def goals(figures: Figures, measures: Collection[str]) -> str:
    """Each goal of these measures, whether it is met, and what was measured."""
    rows = [
        [
            goal.text,
            goal.verdict(figures).value,
            goal.measured(figures),
        ]
        for goal in GOALS
        if goal.measure in measures
    ]
    lines = markdown_table(["goal", "", "measured: median (quartiles)"], rows)
    return lines.replace("|---|---:|---:|", "|---|---|---|", 1)


def report(figures: Figures, facts: Mapping[str, str], measures: Collection[str]) -> str:
    """The result of these measures, as it stands in the docs."""
    parts = [
        "\n".join(f"* {name}: {value}" for name, value in facts.items()),
        "### Goals\n\n" + goals(figures, measures),
        tables(figures),
    ]
    if figures.notes:
        parts.append("### Notes\n\n" + "\n".join(f"* {note}" for note in figures.notes))
    return "\n\n".join(part for part in parts if part)


def write_docs(page: Path, result: str) -> None:
    """Put the result where the page keeps it, between its two marks; raises `ValueError`."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no place for results: {BEGIN} ... {END}")
    page.write_text(f"{before}{begin}\n\n{result}\n\n{end}{after}")
