"""What does the page on `/` look like? Plain HTML made here: no script, no other resources."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from sidecar.telemetry.safe_text import printable

# Recent refusals on the page; `/status` has all that are kept.
_SHOWN_REFUSALS = 10

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
h1 { font-size: 1.3rem; margin-bottom: 0 }
h2 { font-size: 1.05rem; margin: 2rem 0 .3rem }
p { margin: .3rem 0 }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #8885; padding: .25rem .8rem .25rem 0; text-align: left }
.good { color: #1a7f37 } .bad { color: #cf222e } .good, .bad { font-weight: 600 }
@media (prefers-color-scheme: dark) { .good { color: #3fb950 } .bad { color: #ff7b72 } }
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_LINKS = (
    ("/status", "everything, as JSON"),
    ("/metrics", "for Prometheus"),
    ("/readyz", "may traffic come?"),
    ("/livez", "is the process alive?"),
)


class _Html(str):
    """Text that is HTML already; everything else is escaped before it gets onto the page."""

    __slots__ = ()


def page(status: Mapping[str, Any], at: str) -> str:
    """The page for what `/status` says; `at` is the moment of it."""
    serving = status["state"] == "serving"
    state = _marked(status["state"], good=serving)
    if not serving:
        state += f", at most {status['drain_remaining_s']:.0f} s to go"
    return _document(
        f"<h1>openclaw-sidecar {_text(status['version'])}</h1>"
        f"<p>{state}, in front of {_text(status['upstream'])}, "
        f"up for {_duration(status['uptime_s'])}; as of {_text(at)}.</p>"
        "<h2>Guards</h2>"
        + _guards(status["guards"])
        + "<h2>Recent refusals</h2>"
        + _refusals(status["recent_refusals"])
        + "<h2>More</h2><ul>"
        + "".join(f'<li><a href="{path}">{path}</a>: {what}</li>' for path, what in _LINKS)
        + "</ul>"
    )


def _document(body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>openclaw-sidecar</title><style>{_STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def _guards(guards: Sequence[Mapping[str, Any]]) -> str:
    heads = ("guard", "in flight", "waiting", "longest wait", "breaker", "failures in a row")
    rows = [
        (
            guard["name"],
            f"{guard['in_flight']} of {_limit(guard)}",
            f"{guard['waiting']} of {guard['max_waiting']}",
            _duration(guard["oldest_wait_s"]),
            _breaker(guard),
            _failures(guard["breaker"]),
        )
        for guard in guards
    ]
    return _table(heads, rows)


def _limit(guard: Mapping[str, Any]) -> str:
    limit, now = guard["limit"], guard["effective_limit"]
    return f"{limit}" if now == limit else f"{now}, rising to {limit}"


def _breaker(guard: Mapping[str, Any]) -> str:
    breaker = guard["breaker"]
    if breaker is None:
        return "none"
    text = _marked(breaker["state"].replace("_", "-"), good=breaker["state"] == "closed")
    if breaker["mode"] != "enforce":
        text += f" (mode {_text(breaker['mode'])})"
    if breaker["state"] == "open":
        text += f", {_duration(breaker['open_remaining_s'])} to go"
    if breaker["trip_reason"]:
        text += f": {_text(breaker['trip_reason'])}"
    if guard["breaker_of"] != guard["name"]:
        text += f" (shared with {_text(guard['breaker_of'])})"
    if breaker["condition"] != "normal":
        text += f"; the backend is {_text(breaker['condition'])}"
    return _Html(text)


def _failures(breaker: Mapping[str, Any] | None) -> str:
    return f"{breaker['failure_count']} of {breaker['failure_threshold']}" if breaker else ""


def _refusals(refusals: Sequence[Mapping[str, Any]]) -> str:
    if not refusals:
        return "<p>None.</p>"
    keys = ("at", "route", "reason", "path", "caller", "request_id")
    heads = ("at", "route", "reason", "path", "caller", "request")
    return _table(heads, [[one[key] for key in keys] for one in refusals[:_SHOWN_REFUSALS]])


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _marked(word: str, *, good: bool) -> str:
    return f'<span class="{"good" if good else "bad"}">{_text(word)}</span>'


def _text(value: str) -> str:
    return value if isinstance(value, _Html) else escape(printable(value))


def _duration(seconds: float) -> str:
    """Roughly, for people: `12.3 s`, `5 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
