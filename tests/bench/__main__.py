"""What was the benchmark asked to do? `python -m tests.bench --help`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.bench import machine, report
from tests.bench.bench import FULL, QUICK, Bench
from tests.bench.contenders import (
    CONTENDERS,
    LITELLM,
    ROOT,
    Contender,
    cache_folder,
    install,
    require,
)
from tests.bench.figures import Figures
from tests.bench.measures import MEASURES
from tests.bench.process import BenchError, cores, raise_file_limit

PAGE = ROOT / "docs" / "performance.md"

# A run takes 90 s or 6 minutes, LiteLLM some more; one that hangs is ended, children and all.
_LIMIT_S = 900


def main(argv: list[str]) -> int:
    """Run the benchmark; returns the exit code."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGALRM, _stop)
    try:
        if options.install:
            install(with_litellm=options.with_litellm)
        signal.alarm(_LIMIT_S)
        result = _run(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(result)
    last = cache_folder() / "last.md"
    last.parent.mkdir(parents=True, exist_ok=True)
    last.write_text(result + "\n")
    if options.write_docs:
        report.write_docs(PAGE, result)
    print(f"\nkept in {last}", f"and {PAGE}" if options.write_docs else "", file=sys.stderr)
    return 0


def _stop(number: int, _: FrameType | None) -> NoReturn:
    """Leave through every `with` block, so that nothing we started stays behind."""
    raise SystemExit(f"bench: ended by {signal.Signals(number).name}")


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure the sidecar beside other proxies; prints Markdown.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, under 90 s")
    parser.add_argument(
        "--only", type=_measures, default=list(MEASURES), metavar="NAME,...",
        help=f"only these measures: {', '.join(MEASURES)}",
    )  # fmt: skip
    parser.add_argument("--with-litellm", action="store_true", help="LiteLLM's proxy takes part")
    parser.add_argument(
        "--install", action="store_true",
        help=f"first install missing peers: wheels into {cache_folder()}, Debian packages as root",
    )  # fmt: skip
    parser.add_argument(
        "--write-docs", action="store_true", help=f"write the result into {PAGE.relative_to(ROOT)}"
    )
    options = parser.parse_args(argv)
    if options.write_docs and (options.quick or options.only != list(MEASURES)):
        parser.error("--write-docs needs a whole run: neither --quick nor --only")
    return options


def _measures(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in MEASURES:
            raise argparse.ArgumentTypeError(
                f"no measure {name!r}; there are {', '.join(MEASURES)}"
            )
    return [name for name in MEASURES if name in names]


def _run(options: argparse.Namespace) -> str:
    for program in ("wrk", "nginx"):
        require(program)
    load_before, began_s = machine.load_average(), time.monotonic()
    bystanders = machine.Bystanders()
    proxy_core, load_core = cores()
    raise_file_limit()
    figures = Figures()
    contenders = _present(figures, with_litellm=options.with_litellm)
    os.sched_setaffinity(0, {load_core})
    with tempfile.TemporaryDirectory(prefix="openclaw-sidecar-bench-") as folder:
        pace = QUICK if options.quick else FULL
        bench = Bench(pace, contenders, proxy_core, load_core, Path(folder), figures)
        for name in options.only:
            _measure(name, bench)
    took_s = time.monotonic() - began_s
    facts = machine.facts(contenders, load_before, bystanders.cores(), took_s)
    return report.report(figures, facts, options.only)


def _present(figures: Figures, *, with_litellm: bool) -> list[Contender]:
    present = []
    for contender in [*CONTENDERS, *([LITELLM] if with_litellm else [])]:
        missing = contender.missing()
        if missing is None:
            present.append(contender)
        else:
            figures.note(f"{contender.name} is not installed: {missing}")
    return present


def _measure(name: str, bench: Bench) -> None:
    began_s = time.monotonic()
    bystanders = machine.Bystanders()
    print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
    try:
        MEASURES[name](bench)
    except (BenchError, OSError, TimeoutError) as error:
        bench.figures.note(f"{name} not measured: {error}")
    bench.figures.foreign_cores[name] = bystanders.cores()
    print(f"{time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
