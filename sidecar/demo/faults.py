"""How does the demo backend misbehave, and how long? Faults, and the switch that chooses one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

# Enough for "it had begun to answer"; fewer than any sensible answer has.
DEFAULT_AFTER_TOKENS = 3


class Fault(StrEnum):
    """What an inference request meets. Values are the names `POST /demo/fault` takes."""

    NONE = "none"
    ERROR_500 = "error_500"
    ERROR_503 = "error_503"
    ERROR_429 = "error_429"
    LOADING = "loading"
    HANG = "hang"
    HANG_AFTER_HEAD = "hang_after_head"
    STALL = "stall"
    CUT = "cut"
    SHORT = "short"
    RESET = "reset"
    ERROR_IN_STREAM = "error_in_stream"
    NO_DONE = "no_done"
    SLOW = "slow"


DESCRIPTIONS: Mapping[Fault, str] = {
    Fault.NONE: "answers as it should",
    Fault.ERROR_500: "500, the server had an error",
    Fault.ERROR_503: "503 with Retry-After: busy",
    Fault.ERROR_429: "429 with Retry-After: rate limit",
    Fault.LOADING: "503 Loading model, on /health and /readyz too",
    Fault.HANG: "takes the request and never answers",
    Fault.HANG_AFTER_HEAD: "sends the head (and the role chunk), then nothing more",
    Fault.STALL: "sends after_tokens tokens (or half a plain body), then nothing more",
    Fault.CUT: "resets the connection after after_tokens tokens (or half a plain body)",
    Fault.SHORT: "promises a Content-Length, closes after less",
    Fault.RESET: "resets the connection instead of answering",
    Fault.ERROR_IN_STREAM: "200, after_tokens tokens, an error event, then [DONE]; streams only",
    Fault.NO_DONE: "ends cleanly after after_tokens tokens, nothing says done; streams only",
    Fault.SLOW: "10 times slower",
}

# What breaks after some tokens have been sent.
BREAKS_WITHIN = frozenset(
    {Fault.STALL, Fault.CUT, Fault.SHORT, Fault.ERROR_IN_STREAM, Fault.NO_DONE}
)


class BadFaultError(ValueError):
    """What was asked of the switch makes no sense; the message says what would."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A fault as one request meets it."""

    fault: Fault = Fault.NONE
    after_tokens: int = DEFAULT_AFTER_TOKENS


class FaultSwitch:
    """The fault that is on; for all inference requests, or for the next few."""

    def __init__(self) -> None:
        self._setting = Setting()
        self._left: int | None = None

    @property
    def current(self) -> Fault:
        """The fault that the next request would meet."""
        return self._setting.fault

    def set(
        self,
        fault: Fault,
        *,
        count: int | None = None,
        after_tokens: int = DEFAULT_AFTER_TOKENS,
    ) -> None:
        """Switch to `fault` for the next `count` inference requests, or until changed."""
        self._setting = Setting(fault, after_tokens)
        self._left = count

    def set_from(self, wish: Mapping[str, object]) -> None:
        """Switch as the JSON object `wish` says. BadFaultError when it makes no sense."""
        unknown = wish.keys() - {"fault", "count", "after_tokens"}
        if unknown:
            raise BadFaultError(
                f"unknown key {min(unknown)}; the keys are fault, count, after_tokens"
            )
        fault = _fault_named(wish.get("fault"))
        count = _whole(wish, "count", least=1)
        after_tokens = _whole(wish, "after_tokens", least=0)
        self.set(
            fault,
            count=count,
            after_tokens=DEFAULT_AFTER_TOKENS if after_tokens is None else after_tokens,
        )

    def take(self) -> Setting:
        """What this inference request meets; counts it."""
        taken = self._setting
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.set(Fault.NONE)
        return taken

    def as_json(self) -> dict[str, object]:
        """What is on, and what could be."""
        return {
            "fault": self.current,
            "count": self._left,
            "after_tokens": self._setting.after_tokens,
            "faults": {fault.value: text for fault, text in DESCRIPTIONS.items()},
        }


def _fault_named(name: object) -> Fault:
    names = ", ".join(Fault)
    if not isinstance(name, str):
        raise BadFaultError(f'"fault" names one of {names}')
    try:
        return Fault(name)
    except ValueError:
        near = get_close_matches(name, list(Fault), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadFaultError(f"unknown fault {name!r}; use one of {names}{hint}") from None


def _whole(values: Mapping[str, object], key: str, *, least: int) -> int | None:
    match values.get(key):
        case None:
            return None
        case int(value) if value >= least and not isinstance(value, bool):
            return value
        case _:
            raise BadFaultError(f"{key} is a whole number, {least} or more")
