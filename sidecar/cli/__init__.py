"""What was the program asked to do? The command line, and the exit code it ends with.

Exit codes: 0 done, 1 it did not work, 2 wrong use or configuration, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from sidecar.cli.parser import PROGRAM, Parsed, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. `argv` is without the program's name."""
    try:
        code = _run(parse(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # here, where a broken pipe is still our concern
    except SystemExit as ending:  # argparse: --help, --version, wrong use
        return ending.code if isinstance(ending.code, int) else 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough (`config | head`). Python would complain
        # again when it flushes at exit, so that goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _run(parsed: Parsed) -> int:
    """Hand over to the command; each is imported only when it is asked for, to start fast."""
    if parsed.command in ("status", "healthcheck"):
        if parsed.unknown_flags:
            return complain(parsed.command, [str(flag) for flag in parsed.unknown_flags])
        return _run_asking(parsed.command, parsed.options)
    from sidecar.cli import configured  # noqa: PLC0415 - pydantic, YAML
    from sidecar.settings.mistakes import ConfigError  # noqa: PLC0415

    try:
        return configured.run(parsed)
    except ConfigError as error:
        return complain(parsed.command, [str(mistake) for mistake in error.mistakes])


def _run_asking(command: str, options: argparse.Namespace) -> int:
    from sidecar.cli import asking  # noqa: PLC0415 - http.client

    try:
        return asking.run(command, options)
    except asking.WrongAddressError as error:
        return complain(command, [str(error)])
    except asking.AskError as error:
        sys.stderr.write(f"{PROGRAM} {command}: {error}\n")
        return 1


def complain(command: str, mistakes: Sequence[str]) -> int:
    """Say what is wrong, one line each, and return the exit code for that."""
    if len(mistakes) == 1:
        sys.stderr.write(f"{PROGRAM} {command}: {mistakes[0]}\n")
    else:
        lines = "".join(f"  {mistake}\n" for mistake in mistakes)
        sys.stderr.write(f"{PROGRAM} {command}: {len(mistakes)} mistakes\n{lines}")
    return 2
