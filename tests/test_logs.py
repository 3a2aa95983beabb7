"""Are log lines whole, true, unforgeable, and as documented?"""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

import sidecar
from sidecar.admission.answers import BreakerState, Transition, TransitionReason
from sidecar.admission.outcome import OutcomeLabel
from sidecar.telemetry.logs import Sink, configure
from sidecar.telemetry.request_log import RequestLog
from sidecar.telemetry.safe_text import json_line, printable
from tests.support.facts import completion, refusal

DOCS = Path(__file__).parent.parent / "docs" / "logs.md"

# A path that tries to end its line, to colour the terminal, and to turn the writing direction;
# the last character stands for a byte that is no UTF-8.
HOSTILE = '/x\n{"event":"forged"}\r\x1b[31m\x9b1m\u2028\u202e\udcff'


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    structlog.reset_defaults()


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def logged(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def request_log(
    stream: io.BytesIO,
    *,
    log_format: str = "json",
    level: str = "info",
    enabled: bool = True,
    sample_ratio: float = 1.0,
    drawn: float = 0.0,
    clock: Callable[[], float] = lambda: 0.0,
) -> RequestLog:
    output = configure(log_format, level, stream)
    return RequestLog(
        output, enabled=enabled, sample_ratio=sample_ratio, random=lambda: drawn, clock=clock
    )


def opened() -> Transition:
    return Transition(
        "inference",
        BreakerState.CLOSED,
        BreakerState.OPEN,
        TransitionReason.CONSECUTIVE_FAILURES,
        failure_count=5,
        cooldown_s=60.0,
        detail="reset",
    )


# -- the request line ---------------------------------------------------------------------


def test_a_request_leaves_one_line_with_all_there_is_to_know() -> None:
    """One JSON object a request: who, what, how long, how much, and how it ended."""
    stream = io.BytesIO()
    request_log(stream).request(completion(wait_s=0.123456, overhead_s=0.0001234))
    (line,) = logged(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": "req-1",
        "route": "inference",
        "method": "POST",
        "path": "/v1/chat/completions",
        "caller": "key:1a2b3c4d",
        "status": 200,
        "outcome": "ok",
        "reason": None,
        "wait_s": 0.1235,
        "first_event_s": 0.75,
        "hold_s": 12.5,
        "duration_s": 12.8,
        "overhead_s": 0.000123,
        "bytes_in": 1000,
        "bytes_out": 50_000,
        "cancel_phase": None,
        "retried": False,
        "trace_id": None,
    }


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        (OutcomeLabel.OK, "info"),
        (OutcomeLabel.CLIENT_ERROR, "info"),
        (OutcomeLabel.CLIENT_GONE, "info"),
        (OutcomeLabel.SERVER_ERROR, "warning"),
        (OutcomeLabel.STALL_TIMEOUT, "warning"),
        (OutcomeLabel.INTERNAL_ERROR, "error"),
    ],
)
def test_failures_stand_out_by_their_level(outcome: OutcomeLabel, level: str) -> None:
    """The backend's failures are warnings, our own bugs errors, clients' doings information."""
    stream = io.BytesIO()
    request_log(stream).request(completion(outcome=outcome))
    assert logged(stream)[0]["level"] == level


def test_request_lines_can_be_switched_off() -> None:
    """`log.requests: false` silences request lines, and them alone."""
    stream = io.BytesIO()
    log = request_log(stream, enabled=False)
    log.request(completion())
    log.request(refusal())
    log.transition(opened())
    assert [line["event"] for line in logged(stream)] == ["circuit_breaker_opened"]


@pytest.mark.parametrize(("drawn", "lines"), [(0.09, 1), (0.11, 0)])
def test_sampling_keeps_its_share(drawn: float, lines: int) -> None:
    """With a ratio of 0.1 one everyday request in ten is written."""
    stream = io.BytesIO()
    request_log(stream, sample_ratio=0.1, drawn=drawn).request(completion())
    assert len(logged(stream)) == lines


def test_failures_and_refusals_are_never_sampled_away() -> None:
    """Even at ratio 0 one finds each request that went wrong."""
    stream = io.BytesIO()
    log = request_log(stream, sample_ratio=0.0, drawn=0.5)
    log.request(refusal())
    log.request(completion(outcome=OutcomeLabel.CUT))
    log.request(completion(outcome=OutcomeLabel.CLIENT_ERROR, reason="body_timeout"))
    assert len(logged(stream)) == 3


def test_connections_without_a_request_cannot_flood_the_log() -> None:
    """Twenty lines a second, then how many there were more; requests are never left out."""
    stream = io.BytesIO()
    now_s = [0.0]
    log = request_log(stream, clock=lambda: now_s[0])
    for _ in range(50):
        log.request(refusal(method="", reason="too_many_connections"))
    for _ in range(30):
        log.request(refusal(reason="queue_full"))
    now_s[0] = 1.0
    for _ in range(3):
        log.request(refusal(method="", reason="too_many_connections"))
    told = [(line["event"], line.get("reason"), line.get("count")) for line in logged(stream)]
    unread = ("request", "too_many_connections", None)
    assert told == [
        *[unread] * 20,
        *[("request", "queue_full", None)] * 30,
        ("connection_lines_left_out", None, 30),
        *[unread] * 3,
    ]


def test_the_level_holds_for_request_lines_too() -> None:
    """At level warning only failures are left."""
    stream = io.BytesIO()
    log = request_log(stream, level="warning")
    log.request(completion())
    log.request(completion(outcome=OutcomeLabel.RESET))
    assert [line["outcome"] for line in logged(stream)] == ["reset"]


# -- transitions --------------------------------------------------------------------------


def test_an_opening_tells_why_and_for_how_long() -> None:
    """The event that wakes somebody at night has the cause in it."""
    stream = io.BytesIO()
    request_log(stream).transition(opened())
    (line,) = logged(stream)
    del line["timestamp"]
    assert line == {
        "level": "warning",
        "event": "circuit_breaker_opened",
        "route": "inference",
        "failure_count": 5,
        "cooldown_s": 60.0,
        "reason": "consecutive_failures",
        "detail": "reset",
        "before": "closed",
    }


# -- hostile text -------------------------------------------------------------------------


def test_a_path_cannot_forge_a_json_line() -> None:
    """Whatever a client sends as path: one request, one line, and the path reads as sent."""
    stream = io.BytesIO()
    request_log(stream).request(completion(path=HOSTILE))
    written = stream.getvalue().decode()
    assert written.count("\n") == 1
    assert written.isascii()
    (line,) = logged(stream)
    assert line["path"] == HOSTILE.replace("\udcff", "\\udcff")


def test_a_path_cannot_forge_a_console_line_or_steer_the_terminal() -> None:
    """On a terminal control characters are shown, not obeyed."""
    stream = io.BytesIO()
    request_log(stream, log_format="console").request(completion(path=HOSTILE))
    written = stream.getvalue().decode()
    assert written.count("\n") == 1
    assert written.rstrip("\n").isprintable()


@given(st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_anything_becomes_one_line_of_json(value: object) -> None:
    """Neither odd text nor a huge number makes logging fail."""
    line = json_line({"value": value})
    assert b"\n" not in line
    json.loads(line)


@given(st.text(st.characters(codec="utf-8")))
def test_text_survives_json(text: str) -> None:
    """Escaping changes how text is written, never what it says."""
    assert json.loads(json_line(text)) == text


def test_a_lone_surrogate_in_a_key_does_no_harm() -> None:
    """Keys are treated like values."""
    assert json.loads(json_line({"a\udcff": 1})) == {"a\\udcff": 1}


@given(st.text())
def test_what_is_printable_stays_on_its_line(text: str) -> None:
    """No text is split into several lines by any reader."""
    assert len(printable(text).splitlines()) <= 1


# -- where lines go -----------------------------------------------------------------------


def test_json_unless_on_a_terminal() -> None:
    """A file or a collector gets JSON, a person gets colours."""
    piped, terminal = io.BytesIO(), Terminal()
    request_log(piped, log_format="auto").request(completion())
    request_log(terminal, log_format="auto").request(completion())
    assert logged(piped)[0]["event"] == "request"
    assert b"\x1b[" in terminal.getvalue()
    assert b"trace_id" not in terminal.getvalue()


def test_no_colours_where_none_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """`NO_COLOR` is obeyed, and a file never gets colours."""
    file, terminal = io.BytesIO(), Terminal()
    request_log(file, log_format="console").request(completion())
    monkeypatch.setenv("NO_COLOR", "1")
    request_log(terminal, log_format="console").request(completion())
    assert b"\x1b" not in file.getvalue() + terminal.getvalue()


def test_standard_error_is_the_default(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Standard output stays free for what commands print."""
    configure("json", "info")
    structlog.get_logger().info("started", version="1")
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert json.loads(err)["version"] == "1"


def test_a_process_without_standard_error_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service manager may start us with nothing there."""
    monkeypatch.setattr("sys.stderr", None)
    configure("auto", "info")
    structlog.get_logger().info("started")


@pytest.mark.parametrize(("log_format", "level"), [("xml", "info"), ("json", "loud")])
def test_wrong_words_are_refused(log_format: str, level: str) -> None:
    """A misspelt format or level is an error, not silence."""
    with pytest.raises(ValueError, match="no such log format or level"):
        configure(log_format, level)


def test_a_reader_that_left_costs_no_request() -> None:
    """A broken pipe behind standard error loses lines and raises nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stream:
        output = configure("json", "info", stream)
        log = RequestLog(output, enabled=True, sample_ratio=1.0, random=lambda: 0.0)
        log.request(completion())
        log.transition(opened())
        logging.getLogger("aiohttp").warning("still here")


def test_a_closed_stream_costs_no_request() -> None:
    """Lines written after the stream was closed are lost, silently."""
    stream = io.BytesIO()
    log = request_log(stream)
    stream.close()
    log.request(completion())


def test_after_a_torn_line_the_next_one_is_whole() -> None:
    """Where a full pipe tore a line, the one after still begins on a line of its own."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "wb") as stream:
        sink = Sink(stream)
        sink.write(b"x" * 1_000_000 + b"\n")
        torn = reader.read1()
        sink.write(b'{"whole":true}\n')
        stream.close()
        assert (torn + reader.read()).endswith(b'x\n{"whole":true}\n')


# -- libraries ----------------------------------------------------------------------------


def test_libraries_speak_through_the_same_lines() -> None:
    """What aiohttp and asyncio log is JSON too, says who spoke, and obeys the level."""
    stream = io.BytesIO()
    configure("json", "info", stream)
    logging.getLogger("aiohttp.server").warning("Unexpected %s", "thing")
    logging.getLogger("asyncio").debug("Using selector")
    logging.getLogger("odd").log(35, "between the levels")
    lines = [(line["level"], line["logger"], line["event"]) for line in logged(stream)]
    assert lines == [
        ("warning", "aiohttp.server", "Unexpected thing"),
        ("warning", "odd", "between the levels"),
    ]


def test_a_library_that_misformats_is_heard_nevertheless() -> None:
    """A wrong format string in a library loses the arguments, not the message."""
    stream = io.BytesIO()
    logging.getLogger().handlers.clear()  # pytest's own raises for this
    configure("json", "info", stream)
    logging.getLogger("lib").warning("half %s of %s", *["one"])
    assert logged(stream)[0]["event"] == "half %s of %s"


def test_configuring_again_does_not_double_lines() -> None:
    """Each line is written once, however often logging was set up."""
    stream = io.BytesIO()
    configure("json", "info", stream)
    configure("json", "info", stream)
    logging.getLogger("lib").warning("once")
    assert len(logged(stream)) == 1


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_show_no_variables(log_format: str) -> None:
    """What failed is told with its place; the values of variables, maybe secrets, are not."""
    stream = io.BytesIO()
    configure(log_format, "info", stream)
    secret = f"sk-{1234 * 5678}"
    try:
        _fail(secret)
    except ValueError:
        structlog.get_logger().exception("internal_error")
    written = stream.getvalue().decode()
    assert "ValueError: odd" in written
    assert secret not in written
    assert "\nINFO" not in written


def _fail(secret: str) -> None:
    raise ValueError(f"odd {len(secret)}\nINFO forged")


# -- documentation ------------------------------------------------------------------------

ROW = r"^\| `(\w+)` \| ([^|]*)\|([^|]*)\|"


def test_every_event_is_documented_and_every_documented_event_exists() -> None:
    """docs/logs.md lists each event of the source with its level and its fields, and no other."""
    documented = {
        name: (level.strip(), set(re.findall(r"`(\w+)`", fields)))
        for name, level, fields in re.findall(ROW, _section("Events"), re.MULTILINE)
    }
    assert documented.pop("request")[0] == "info, warning, error"
    assert documented == _events_in_source() | _transition_events()


def test_every_field_of_the_request_line_is_documented() -> None:
    """docs/logs.md lists each field of the request line, in its order, and no other."""
    stream = io.BytesIO()
    request_log(stream).request(completion())
    fields = list(logged(stream)[0])
    assert fields[:3] == ["timestamp", "level", "event"]
    section = _section("The request line")
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == fields[3:]


def _section(title: str) -> str:
    return DOCS.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _transition_events() -> dict[str, tuple[str, set[str]]]:
    stream = io.BytesIO()
    log = request_log(stream)
    for after in BreakerState:
        log.transition(
            Transition("inference", BreakerState.OPEN, after, TransitionReason.OPERATOR, 0, 0.0)
        )
    head = {"timestamp", "level", "event"}
    return {line["event"]: (line["level"], line.keys() - head) for line in logged(stream)}


def _events_in_source() -> dict[str, tuple[str, set[str]]]:
    """All calls of the form `_log.info("event", field=...)`."""
    events = {}
    for path in Path(sidecar.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="_log"), attr=method),
                    args=[ast.Constant(value=str(name))],
                    keywords=keywords,
                ):
                    fields = {str(keyword.arg) for keyword in keywords}
                    if method == "exception":
                        fields.add("exception")
                    events[name] = ("error" if method == "exception" else method, fields)
    return events
