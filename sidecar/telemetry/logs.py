"""Where do log lines go, and what do they look like?

JSON, one object a line, on standard error; readable and coloured where that is a terminal.
Everything ends in the same place: structlog's events, request lines, and what libraries
(aiohttp, asyncio) say through `logging`.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from sidecar.telemetry.safe_text import json_line, printable, printable_lines

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_LEVEL_NAMES = {number: name for name, number in _LEVELS.items()}


CallSoon = Callable[[Callable[[], None]], object]  # of an event loop


class Sink:
    """Takes whole lines and never raises: a lost log must not cost a request.

    Lines go to the unbuffered file below `file`, if it has one: each is on its way when `write`
    returns, and none is kept for a reader that has gone.
    """

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = cast("io.RawIOBase | None", getattr(file, "raw", file))
        self._torn = False
        self._call_soon: CallSoon | None = None
        self._gathered: list[bytes] = []

    def gather_with(self, call_soon: CallSoon) -> None:
        """Let `write_soon` gather the lines of one turn of the event loop into one write."""
        self._call_soon = call_soon

    def write_soon(self, line: bytes) -> None:
        """Write one line before the loop's next turn, together with others: a write costs 3 us."""
        if self._call_soon is None:
            self.write(line)
            return
        if not self._gathered:
            self._call_soon(self.flush)
        self._gathered.append(line)

    def write(self, line: bytes) -> int:
        """Write one line, its end included. What cannot be written is thrown away."""
        self.flush()
        return self._write(line)

    def _write(self, line: bytes) -> int:
        left = b"\n" + line if self._torn else line
        try:
            while left and self._file is not None:
                written = self._file.write(left)
                if not written:  # a pipe that does not block, and is full
                    break
                left = left[written:]
                self._torn = bool(left)
        except (OSError, ValueError):  # nobody reads, no space, or closed
            pass
        return len(line)

    def flush(self) -> None:
        """Write what is gathered, if anything is. structlog asks after each line."""
        if self._gathered:
            lines, self._gathered = self._gathered, []
            self._write(b"".join(lines))


class LogOutput:
    """Writes events. `event` is for lines that are written often; other rooms use structlog."""

    def __init__(self, sink: Sink, threshold: int, *, as_json: bool) -> None:
        self._sink = sink
        self._threshold = threshold
        self._as_json = as_json
        self._stamps = Stamps()

    def gather_with(self, call_soon: CallSoon) -> None:
        """Write the events of one turn of the event loop at once, in their order."""
        self._sink.gather_with(call_soon)

    def event(self, level: int, name: str, fields: dict[str, object]) -> None:
        """Write one event with these fields.

        As JSON it does not go through structlog's chain of processors: measured (Python 3.11,
        into a pipe), a request line costs 7.9 us this way and 19 us that way.
        """
        if level < self._threshold:
            return
        if not self._as_json:
            told = {key: value for key, value in fields.items() if value is not None}
            structlog.get_logger().log(level, name, **told)
            return
        line = {
            "timestamp": self._stamps.now(),
            "level": _LEVEL_NAMES[level],
            "event": name,
            **fields,
        }
        self._sink.write_soon(json_line(line) + b"\n")


class Stamps:
    """The time of day in UTC with milliseconds (RFC 3339); formats each second only once."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def now(self) -> str:
        """For example `2026-02-28T23:59:59.999Z`."""
        second, rest_ns = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{rest_ns // 1_000_000:03d}Z"


def configure(log_format: str, level: str, stream: BinaryIO | None = None) -> LogOutput:
    """Set up all logging of this process; may be called again.

    `log_format` is `auto`, `json` or `console`; `level` is `debug`, `info`, `warning` or `error`.
    `stream` is standard error unless given. Raises `ValueError` for other words.
    """
    if log_format not in ("auto", "json", "console") or level not in _LEVELS:
        raise ValueError(f"no such log format or level: {log_format!r}, {level!r}")
    file = stream or getattr(sys.stderr, "buffer", None)  # a process may have no standard error
    on_terminal = file is not None and file.isatty()
    as_json = log_format == "json" or (log_format == "auto" and not on_terminal)
    sink = Sink(file)
    threshold = _LEVELS[level]
    colors = on_terminal and "NO_COLOR" not in os.environ  # https://no-color.org
    structlog.configure(
        processors=_json_chain() if as_json else _console_chain(colors=colors),
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", sink)),
        # Loggers made at import time obey a later `configure` too.
        cache_logger_on_first_use=False,
    )
    _route_standard_logging(threshold)
    return LogOutput(sink, threshold, as_json=as_json)


# -- structlog's chains -------------------------------------------------------------------


def _json_chain() -> list[Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,  # without local variables: they may hold secrets
        _Head(),
        _to_json,
    ]


def _console_chain(*, colors: bool) -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )
    return [
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        _Head(),
        _make_printable,
        renderer,
        _to_bytes,
    ]


class _Head:
    """Puts time, level and event in front, where people look first."""

    def __init__(self) -> None:
        self._stamps = Stamps()

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        level, name = event.pop("level"), event.pop("event")
        return {"timestamp": self._stamps.now(), "level": level, "event": name, **event}


def _make_printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # Values that are no text are shown by their `repr`, which escapes by itself.
    texts = {key: printable(value) for key, value in event.items() if isinstance(value, str)}
    if "exception" in texts:
        texts["exception"] = printable_lines(event["exception"])
    return {**event, **texts}


def _to_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    return json_line(event)


def _to_bytes(_logger: WrappedLogger, _method: str, line: Any) -> bytes:  # noqa: ANN401
    # What comes here is the text that `ConsoleRenderer` made; structlog's types do not say so.
    return cast("str", line).encode("utf-8", "backslashreplace")


# -- the standard library's logging -------------------------------------------------------


class _ToStructlog(logging.Handler):
    """Hands what libraries log to structlog. `logger` says who spoke."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.ERROR)
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's wrong format string must not stop us
            message = str(record.msg)
        structlog.get_logger().log(
            level, message, logger=record.name, exc_info=record.exc_info or None
        )


def _route_standard_logging(threshold: int) -> None:
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, _ToStructlog):
            root.removeHandler(handler)
    root.addHandler(_ToStructlog())
    root.setLevel(threshold)
