"""How are the settings read without keeping what that takes? By a child process that ends.

pydantic, pydantic-settings and YAML take 15 MB; what a run needs of them is a handful of plain
values, and those come back through a pipe.
"""

from __future__ import annotations

import asyncio  # noqa: F401 - pydantic-settings and what serves need it: once, before there are two
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import BinaryIO, NoReturn

from sidecar.cli.ending import exit_code_of
from sidecar.cli.parser import PROGRAM, parse
from sidecar.settings.plain import PlainSettings


def read_apart(argv: Sequence[str], meanwhile: Callable[[], object]) -> PlainSettings | int:
    """What command line, environment and file say; calls `meanwhile` while the child reads.

    An exit code instead, when the child has told all there is to tell: mistakes, or the help that
    was asked for.
    """
    try:
        pipe, child = _start(argv)
    except OSError as error:
        return _failed(argv, f"no process can be started: {error.strerror}")
    try:
        with pipe:
            meanwhile()
            sent = pipe.read()
    finally:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        return _failed(argv, f"ended by signal {-code} while the settings were read")
    if code > 0 or not sent:
        return code
    settings = pickle.loads(sent)  # noqa: S301 - our own process wrote it
    assert isinstance(settings, PlainSettings)
    return settings


def _start(argv: Sequence[str]) -> tuple[BinaryIO, int]:
    """The pipe that the settings will come through, and the child's process id."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)  # so that a parent that has gone is noticed
        _read_and_leave(argv, writer)
    os.close(writer)
    return os.fdopen(reader, "rb"), child


def _read_and_leave(argv: Sequence[str], writer: int) -> NoReturn:
    """The child's life. It ends by `_exit`: what else would run at the end is the parent's."""
    code = 1
    try:
        code = exit_code_of(lambda: _read_and_send(argv, writer), argv[0])
    except BaseException:  # noqa: BLE001 - a bug; nobody above tells of it
        traceback.print_exc()
    finally:
        os._exit(code)


def _read_and_send(argv: Sequence[str], writer: int) -> int:
    from sidecar.cli.configured import loaded  # noqa: PLC0415 - pydantic: here only

    sent = pickle.dumps(loaded(parse(argv)).settings.plain())
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(sent)
    return 0


def _failed(argv: Sequence[str], why: str) -> int:
    sys.stderr.write(f"{PROGRAM} {argv[0]}: {why}\n")
    return 1
