"""What was the program asked to do? The command line; `ending.py` lists the exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sidecar.cli.ending import complain, exit_code_of
from sidecar.cli.parser import PROGRAM, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. `argv` is without the program's name."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code_of(lambda: _run(words), next(iter(words), ""))


def _run(argv: Sequence[str]) -> int:
    """Hand over to the command; each is imported only when it is asked for, to start fast."""
    if argv and argv[0] in ("run", "demo"):
        from sidecar.cli.serving import serve  # noqa: PLC0415 - asyncio

        return serve(argv)
    parsed = parse(argv)
    if parsed.command in ("status", "healthcheck"):
        if parsed.unknown_flags:
            return complain(parsed.command, [str(flag) for flag in parsed.unknown_flags])
        return _run_asking(parsed.command, parsed.options)
    from sidecar.cli import configured  # noqa: PLC0415 - pydantic

    return configured.run(parsed)


def _run_asking(command: str, options: argparse.Namespace) -> int:
    from sidecar.cli import asking  # noqa: PLC0415 - http.client

    try:
        return asking.run(command, options)
    except asking.WrongAddressError as error:
        return complain(command, [str(error)])
    except asking.AskError as error:
        sys.stderr.write(f"{PROGRAM} {command}: {error}\n")
        return 1
