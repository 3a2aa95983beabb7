"""What was the fuzzer asked to do? `python -m tests.fuzz --help`, or `make fuzz`."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.campaign import ROOT, fuzz, target_of
from tests.fuzz.outcome import Outcome
from tests.fuzz.plans import Plan
from tests.fuzz.targets import TARGETS
from tests.fuzz.virtual_time import virtual_loop

_DEFAULT_SECONDS = 60


def main(argv: list[str]) -> int:
    """Fuzz or replay; the exit code is 1 when a property is broken."""
    options = _options(argv)
    if options.replay is not None:
        return _replay(options.replay)
    if find_spec("atheris") is None:
        print(
            "fuzz: there is no atheris here; it has wheels for CPython on Linux x86-64 only",
            file=sys.stderr,
        )
        return 2
    names = options.targets or list(TARGETS)
    shares = sum(TARGETS[name].share_ratio for name in names)
    broken = False
    for name in names:
        seconds = max(1, round(options.seconds * TARGETS[name].share_ratio / shares))
        print(f"{name}: {TARGETS[name].question}, {seconds} s", flush=True)
        began_s = time.monotonic()
        outcome = fuzz(name, seconds, options.runs)
        print(_report(outcome, time.monotonic() - began_s), flush=True)
        broken |= bool(outcome.told)
    return int(broken)


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Fuzz the data path, guided by coverage. A target ends with its first finding.",
        epilog="targets: " + "; ".join(f"{name} ({t.question})" for name, t in TARGETS.items()),
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="only these targets")
    parser.add_argument(
        "--seconds", type=int, default=_DEFAULT_SECONDS,
        help="for all targets together (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--runs", type=int, help="at most so many inputs for each target")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="try a finding again")
    options = parser.parse_args(argv)
    for name in options.targets:
        if name not in TARGETS:
            parser.error(f"no target {name!r}; there are {', '.join(TARGETS)}")
    return options


def _report(outcome: Outcome, took_s: float) -> str:
    """How it went, in a few lines; a finding with what it takes to see it again."""
    amount = f"{outcome.executions} executions in {took_s:.0f} s"
    reach = f"{outcome.edges} edges, {outcome.features} features, {outcome.inputs} inputs"
    lines = [f"  {amount}; {reach}"]
    if outcome.told:
        lines += ["  BROKEN:", *(f"    {line}" for line in outcome.told.splitlines())]
    if outcome.found:
        found = Path(outcome.found).relative_to(ROOT)
        lines += [f"  input:  {found}", f'  replay: make fuzz ARGS="--replay {found}"']
    return "\n".join(lines)


def _replay(finding: Path) -> int:
    """Try one input again, without atheris: any debugger can look on."""
    name = target_of(finding)
    if name is None:
        print(f"fuzz: {finding.name} does not begin with a target's name", file=sys.stderr)
        return 2
    data = finding.read_bytes()
    plan, raw = Plan.split(data)
    print(f"{name}: {plan}\n{raw!r}")
    with virtual_loop() as loop:
        try:
            TARGETS[name].try_on(data, loop)
        except Exception:  # noqa: BLE001 - whatever it is, it is told
            traceback.print_exc()
            return 1
    print("the property holds")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
