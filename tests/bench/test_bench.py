"""Can the benchmark's words be trusted? Its statistics, verdicts, tables and configurations."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import pytest

from tests.bench import configs, process, report, wrk
from tests.bench.configs import Duty
from tests.bench.contenders import CONTENDERS, LITELLM, how_to_get
from tests.bench.figures import Figures
from tests.bench.goals import GOALS, Bound, Goal, Verdict, number
from tests.bench.measures import MEASURES, in_turns
from tests.bench.origin import request_end
from tests.bench.process import BenchError, Process
from tests.bench.report import BEGIN, END, Column, Table, markdown_table, write_docs
from tests.bench.series import Series, percentile, ratio


def figures_of(**values: dict[str, list[float]]) -> Figures:
    figures = Figures()
    for figure, contenders in values.items():
        for contender, series in contenders.items():
            for value in series:
                figures.add(contender, **{figure: value})
    return figures


# -- statistics -------------------------------------------------------------------------------


def test_one_wild_round_does_not_move_a_figure() -> None:
    """Median and quartiles: what happens in one round of five is not what is reported."""
    series = Series([10.0, 10.1, 9.9, 10.0, 80.0])
    assert series.median == 10.0
    assert series.quartiles == (10.0, 10.1)
    assert not series.too_noisy


def test_rounds_that_differ_are_noisy() -> None:
    """Rounds that differ by more than a fifth allow no conclusion."""
    assert Series([10, 12, 14, 9, 16]).too_noisy
    assert Series([10, 14]).too_noisy
    assert not Series([10, 10.5]).too_noisy
    assert not Series([10]).too_noisy


def test_a_failed_round_is_left_out_and_keeps_its_place() -> None:
    """A round that failed for one side does not pair the others wrongly."""
    ours, theirs = Series([10.0, math.nan, 30.0]), Series([5.0, 7.0, 10.0])
    assert ratio(ours, theirs).known == [2.0, 3.0]
    assert math.isnan(Series([math.nan]).median)
    assert math.isnan(Series().median)
    assert ratio(Series([1.0]), Series([0.0])).known == []


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that slows down for both sides changes no ratio."""
    against = ratio(Series([20.0, 40.0, 30.0]), Series([10.0, 20.0, 15.0]))
    assert against.values == [2.0, 2.0, 2.0]
    assert against.spread_ratio == 0.0


@pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.99, 4), (0.25, 1), (1.0, 4)])
def test_a_percentile_is_a_value_that_was_seen(share: float, value: float) -> None:
    """No interpolation: p99 of few values is the largest."""
    assert percentile([4, 1, 3, 2], share) == value


def test_everybody_is_first_once() -> None:
    """The order of the contenders changes with each round."""
    assert [in_turns("abc", turn) for turn in range(3)] == [list("abc"), list("bca"), list("cab")]
    assert in_turns([], 3) == []


# -- verdicts ---------------------------------------------------------------------------------

RATIO = Bound("cpu", 3.0, "haproxy")


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([20.0, 21.0, 22.0], Verdict.MET),
        ([40.0, 41.0, 42.0], Verdict.NOT_MET),
        ([29.0, 30.5, 31.0], Verdict.UNCLEAR),  # on both sides of 3
        ([20.0, 21.0, 29.0], Verdict.UNCLEAR),  # too far apart
        ([], Verdict.NOT_MEASURED),
    ],
)
def test_a_verdict_needs_rounds_that_agree(ours: list[float], verdict: Verdict) -> None:
    """No conclusion is drawn from rounds that differ too much or lie on both sides of the bound."""
    figures = figures_of(cpu={"sidecar": ours, "haproxy": [10.0, 10.0, 10.0]})
    assert RATIO.verdict(figures) is verdict
    assert ("no conclusion" in RATIO.measured(figures)) == (verdict is Verdict.UNCLEAR)


def test_a_verdict_needs_a_machine_of_its_own() -> None:
    """While others use the machine, times say nothing; memory does."""
    figures = figures_of(start_s={"sidecar": [0.4]}, kb={"sidecar": [10.0]})
    figures.foreign_cores = {"start": 0.9, "memory": 0.9}
    start = Goal("start", "ready", (Bound("start_s", 0.5, unit="s"),))
    memory = Goal("memory", "small", (Bound("kb", 30, unit="KB"),))
    assert start.verdict(figures) is Verdict.UNCLEAR
    assert "others used 0.90 cores" in start.measured(figures)
    assert memory.verdict(figures) is Verdict.MET
    figures.foreign_cores = {"start": 0.05}
    assert start.verdict(figures) is Verdict.MET


def test_a_goal_holds_when_all_its_bounds_do_or_one_where_one_is_enough() -> None:
    """And as well as or in a goal mean what they say."""
    figures = figures_of(rate={"sidecar": [15_000.0], "empty": [20_000.0]})
    many = Bound("rate", 20_000, at_least=True)
    near = Bound("rate", 1 / 1.5, "empty", at_least=True)
    assert Goal("m", "both", (many, near)).verdict(figures) is Verdict.NOT_MET
    assert Goal("m", "either", (many, near), any_of=True).verdict(figures) is Verdict.MET


def test_every_goal_names_a_measure_and_known_peers() -> None:
    """No goal is silently left unmeasured for a misspelt name."""
    names = {contender.name for contender in CONTENDERS} | {"empty handler"}
    in_tables = {column.figure for table in report.TABLES for column in table.columns}
    for goal in GOALS:
        assert goal.measure in MEASURES
        for bound in goal.bounds:
            assert bound.peer is None or bound.peer in names
            assert bound.figure in in_tables


# -- tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (41234.4, "41,234"), (123.4, "123"), (45.67, "45.7"), (2.345, "2.35"), (0.1234, "0.123"),
        (0.00004, "4e-05"), (0.0, "0.000"), (-3.21, "-3.21"), (math.nan, "-"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    """No more digits than a measurement is good for, no fewer either."""
    assert number(value) == text


def test_a_markdown_table_has_a_head_and_a_row_each() -> None:
    """The output can be pasted into a page as it is."""
    assert markdown_table(["", "CPU"], [["sidecar", "40"], ["haproxy", "20"]]) == (
        "|  | CPU |\n|---|---:|\n| sidecar | 40 |\n| haproxy | 20 |"
    )


def test_a_row_compares_the_sidecar_with_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute figure, spread and ratio stand beside each other; noise is named."""
    figures = figures_of(
        cpu={"sidecar": [40.0, 40.0], "haproxy": [20.0, 20.0], "nginx": [10.0, 20.0]}
    )
    table = Table("Cost", "In us.", (Column("CPU", "cpu", compared=True, spread=True),))
    monkeypatch.setattr(report, "TABLES", (table,))
    assert report.tables(figures).splitlines()[6:] == [
        "| sidecar | 40.0 ±0% |  |",
        "| haproxy | 20.0 ±0% | 2.00 x |",
        "| nginx | 15.0 ±33% | 3.00 x (noisy) |",
    ]


def test_a_report_of_nothing_still_says_what_was_asked() -> None:
    """When nothing could be measured, the goals and the reasons are still there."""
    figures = Figures()
    figures.add_failure("envoy", "exited with 1")
    figures.add_failure("envoy", "exited with 1 again")
    text = report.report(figures, {"date": "today"}, ["start"])
    assert "* date: today" in text
    assert text.count("not measured") == sum(goal.measure == "start" for goal in GOALS)
    assert text.endswith("* envoy: exited with 1")


def test_results_replace_results_and_nothing_else(tmp_path: Path) -> None:
    """Writing the docs again leaves what people wrote around the results."""
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for result in ("first", "second"):
        write_docs(page, result)
    assert page.read_text() == f"before\n{BEGIN}\n\nsecond\n\n{END}\nafter\n"
    page.write_text("no place")
    with pytest.raises(ValueError, match="no place for results"):
        write_docs(page, "lost")


def test_the_page_has_a_place_for_results() -> None:
    """`make bench ARGS=--write-docs` finds where to write."""
    text = (report_page()).read_text()
    assert text.count(BEGIN) == text.count(END) == 1


def report_page() -> Path:
    return Path(__file__).parents[2] / "docs" / "performance.md"


def test_the_page_names_every_measure() -> None:
    """What `--only` takes is documented."""
    text = report_page().read_text()
    for name in MEASURES:
        assert f"| `{name}` |" in text


# -- configurations ---------------------------------------------------------------------------

DUTY = Duty(port=18001, upstream_port=18002, limit=7, folder=Path("/tmp/duty"), spare_port=18003)


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        (configs.haproxy(DUTY), ["bind 127.0.0.1:18001 ", "127.0.0.1:18002 maxconn 7 ",
                                 "option http-no-delay"]),
        (configs.nginx(DUTY), ["listen 127.0.0.1:18001 ", "server 127.0.0.1:18002;",
                               "limit_conn all 7;", "proxy_buffering off;"]),
        (configs.envoy(DUTY), ["port_value: 18001}", "port_value: 18002}", "port_value: 18003}",
                               "max_connections: 7\n", "consecutive_5xx: 5"]),
        (configs.traefik_static(DUTY), ['"127.0.0.1:18001"', '"127.0.0.1:18003"', "/tmp/duty/dyn"]),
        (configs.traefik_dynamic(DUTY), ["amount: 7}", "http://127.0.0.1:18002", "circuitBreaker"]),
        (configs.caddy(DUTY), ["http://127.0.0.1:18001 {", "reverse_proxy 127.0.0.1:18002 {",
                               "unhealthy_request_count 7", "flush_interval -1"]),
        (configs.litellm(DUTY), ["http://127.0.0.1:18002/v1", "max_parallel_requests: 7"]),
        (configs.nginx_origin(18004, "{}", Path("/tmp/o")), ["listen 127.0.0.1:18004 ", "'{}'"]),
    ],
)  # fmt: skip
def test_a_peer_is_told_its_duty(text: str, needed: list[str]) -> None:
    """Port, backend, limit and streaming stand in each peer's configuration, braces in pairs."""
    for part in needed:
        assert part in text
    assert text.count("{") == text.count("}")
    assert "0.0.0.0" not in text


def test_who_is_missing_is_told_how_to_get() -> None:
    """A peer that is not installed is reported with the way to install it."""
    for contender in [*CONTENDERS, LITELLM]:
        if contender.program is not None:
            assert "install" in how_to_get(contender.program)


# -- what programs and the kernel say ---------------------------------------------------------


def test_wrk_is_read() -> None:
    """Latencies in microseconds, errors apart from statuses."""
    seen = wrk.parse(
        "Running 2s test\n...\n"
        '{"requests":100,"duration_us":2000000,"status":3,"errors":1,"p50":25,"p99":90}\n'
    )
    assert (seen.requests_per_s, seen.not_2xx, seen.errors) == (50.0, 3, 1)
    assert (seen.p50_us, seen.p99_us) == (25, 90)
    with pytest.raises(BenchError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1\n")


def test_wrk_pauses_only_where_latency_is_measured_under_little_load() -> None:
    """With a pause the script has a delay, without it no Lua runs for a request."""
    assert "delay()" in wrk.script((20, 80))
    assert "delay()" not in wrk.script()
    assert "Authorization" in wrk.script()


def test_python_may_keep_what_it_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are measured compiled, as they are installed."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    ask = [sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"]
    core = min(os.sched_getaffinity(0))
    with Process("python", ask, core=core, log=tmp_path / "log") as process:
        os.waitid(os.P_PID, process.pids()[0], os.WEXITED | os.WNOWAIT)
        assert process.log_tail() == "False"


def test_cpu_time_of_a_process_with_a_strange_name_is_read() -> None:
    """User and system time are found behind any name."""
    stat = "42 (we) ird (x) S 1 42 42 0 -1 4194560 9 0 0 0 1234 567 0 0 20 0 1 0 100 1 1"
    assert process.cpu_ticks(stat) == (1234, 567)


def test_cpu_time_is_exact_and_split_as_the_ticks_say() -> None:
    """The total comes from the exact clock, only the split from the coarse ticks."""
    used = process.Cpu(5.05, 4.0, 1.0).since(process.Cpu(1.0, 1.0, 0.0))
    assert used.total_s == pytest.approx(4.05)
    assert used.user_s == pytest.approx(4.05 * 0.75)
    assert used.user_s + used.sys_s == pytest.approx(used.total_s)


def test_memory_is_read_in_bytes() -> None:
    """Shared pages whole in RSS, by their share in PSS."""
    seen = process.memory_of_rollup("5-7 ---p 0 00:00 0 [rollup]\nRss:  1628 kB\nPss:   284 kB\n")
    assert (seen.rss, seen.pss) == (1628 * 1024, 284 * 1024)


@pytest.mark.parametrize(
    ("buffer", "end"),
    [
        (b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}next", 40),
        (b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{}", None),
        (b"GET / HTTP/1.1\r\n", None),
        (b"GET / HTTP/1.1\r\n\r\n", 18),
        (b"P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 56),
        (b"P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", None),
    ],
)
def test_the_origin_finds_the_end_of_a_request(buffer: bytes, end: int | None) -> None:
    """However a proxy frames the body, the origin answers it once and whole."""
    assert request_end(buffer) == end
