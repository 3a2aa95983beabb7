"""With which exit code does a command end, and what is said of it?

Exit codes: 0 done, 1 it did not work, 2 wrong use or configuration, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from sidecar.cli.parser import PROGRAM
from sidecar.settings.mistakes import ConfigError


def exit_code_of(act: Callable[[], int], command: str) -> int:
    """Let `act` run for that command; what ends it early becomes an exit code, too."""
    try:
        code = act()
        sys.stdout.flush()  # here, where a broken pipe is still our concern
    except ConfigError as error:
        return complain(command, [str(mistake) for mistake in error.mistakes])
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


def complain(command: str, mistakes: Sequence[str]) -> int:
    """Say what is wrong, one line each, and return the exit code for that."""
    if len(mistakes) == 1:
        sys.stderr.write(f"{PROGRAM} {command}: {mistakes[0]}\n")
    else:
        lines = "".join(f"  {mistake}\n" for mistake in mistakes)
        sys.stderr.write(f"{PROGRAM} {command}: {len(mistakes)} mistakes\n{lines}")
    return 2
