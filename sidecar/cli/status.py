"""How does `/status` read for people? Text for a terminal, from the JSON of the admin port."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

# Paths and callers come from clients; longer ones are cut to keep a line a line.
_SHOWN_CHARACTERS = 60

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400


def text_of(status: Json) -> str:
    """The whole status. Raises `KeyError`, `TypeError` and the like for another shape."""
    guards = status["guards"]
    blocks = [_headline(status), _table(_GUARD_HEADS, [_guard_row(guard) for guard in guards])]
    permits = [_permit_row(guard, permit) for guard in guards for permit in guard["permits"]]
    if permits:
        blocks.append(_table(("in flight", "", "request", "caller", "for", "waited", ""), permits))
    tickets = [_ticket_row(guard, ticket) for guard in guards for ticket in guard["tickets"]]
    if tickets:
        blocks.append(_table(("waiting", "", "request", "caller", "for", "position"), tickets))
    refusals = [_refusal_row(refusal) for refusal in status["recent_refusals"]]
    if refusals:
        blocks.append(_table(("recently refused", "", "request", "caller", "reason"), refusals))
    else:
        blocks.append("no recent refusals\n")
    return "\n".join(blocks)


def _headline(status: Json) -> str:
    line = (
        f"openclaw-sidecar {_plain(status['version'])} in front of {_plain(status['upstream'])}: "
        f"{_plain(status['state'])}, up {_duration(status['uptime_s'])}"
    )
    if status["state"] == "draining" and status["drain_remaining_s"] is not None:
        line += f", ends in {_duration(status['drain_remaining_s'])} at the latest"
    return line + "\n"


_GUARD_HEADS = ("class", "slots", "waiting", "longest", "mean slot", "held", "breaker")


def _guard_row(guard: Json) -> list[str]:
    return [
        _plain(guard["name"]),
        f"{guard['in_flight']}/{guard['limit']}",
        f"{guard['waiting']}/{guard['max_waiting']}",
        _duration(guard["oldest_wait_s"]) if guard["waiting"] else "-",
        _duration(guard["mean_slot_s"]),
        _size(guard["held_bytes"]),
        _breaker(guard),
    ]


def _breaker(guard: Json) -> str:
    breaker = guard["breaker"]
    if breaker is None:
        return "none"
    text = _plain(breaker["state"]).replace("_", "-")
    if breaker["state"] == "open":
        text += f", {_duration(breaker['open_remaining_s'])} left"
    elif breaker["state"] == "half_open":
        text += f", probes: {breaker['probes_in_flight']}"
    elif breaker["failure_count"]:
        text += f", {breaker['failure_count']} of {breaker['failure_threshold']} failures"
    if breaker["trip_reason"]:
        text += f" ({_plain(breaker['trip_reason'])})"
    if breaker["condition"] != "normal":
        text += f", backend {_plain(breaker['condition'])}"
    if breaker["opened_at"]:
        text += f", since {_plain(breaker['opened_at'])}"
    if breaker["mode"] != "enforce":
        text += f" [{_plain(breaker['mode'])}: {breaker['would_refuse']} would have been refused]"
    if guard["breaker_of"] != guard["name"]:
        text += f" (shared with {_plain(guard['breaker_of'])})"
    return text


def _permit_row(guard: Json, permit: Json) -> list[str]:
    return [
        _plain(permit["request_id"]),
        _plain(guard["name"]),
        _request(permit),
        _plain(permit["caller"]),
        _duration(permit["age_s"]),
        _duration(permit["waited_s"]),
        "probe" if permit["probe"] else "",
    ]


def _ticket_row(guard: Json, ticket: Json) -> list[str]:
    return [
        _plain(ticket["request_id"]),
        _plain(guard["name"]),
        _request(ticket),
        _plain(ticket["caller"]),
        _duration(ticket["waited_s"]),
        str(ticket["position"]),
    ]


def _refusal_row(refusal: Json) -> list[str]:
    return [
        _plain(refusal["at"]),
        _plain(refusal["route"]),
        _plain(refusal["path"]),
        _plain(refusal["caller"]),
        _plain(refusal["reason"]),
    ]


def _request(entry: Json) -> str:
    return _plain(f"{entry['method']} {entry['path']}")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def _plain(value: object) -> str:
    """Text that cannot steer the terminal: what a client sent may hold escape sequences."""
    text = "".join(char if char.isprintable() else "?" for char in str(value))
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _duration(seconds: float) -> str:
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    if seconds < _HOUR_S:
        return f"{int(seconds // _MINUTE_S)} min {int(seconds % _MINUTE_S)} s"
    if seconds < _DAY_S:
        return f"{int(seconds // _HOUR_S)} h {int(seconds % _HOUR_S // _MINUTE_S)} min"
    return f"{int(seconds // _DAY_S)} d {int(seconds % _DAY_S // _HOUR_S)} h"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
