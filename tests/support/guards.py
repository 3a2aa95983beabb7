"""Real guards in known states, for those who show them."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.admission.answers import Permit, Subject, Transition
from sidecar.admission.config import BreakerConfig, GuardConfig, QueueConfig
from sidecar.admission.guard import Guard
from sidecar.admission.outcome import (
    Ending,
    Outcome,
    OutcomeLabel,
    Said,
    Verdict,
    outcome_of,
)

FAILED = Outcome(Verdict.FAILURE, OutcomeLabel.RESET)
WENT_WELL = Outcome(Verdict.SUCCESS, OutcomeLabel.OK)
BUSY = Outcome(Verdict.OVERLOAD, OutcomeLabel.OVERLOAD)
LOADING = outcome_of(Ending.COMPLETED, 503, got_event=False, said=Said.LOADING)


def nobody(_transition: Transition) -> None:
    """An observer that does not care."""


def make_guard(
    name: str = "inference",
    *,
    max_concurrent: int = 3,
    breaker: BreakerConfig | None = BreakerConfig(),  # noqa: B008 - a frozen value
    on_transition: Callable[[Transition], None] = nobody,
    breaker_of: Guard | None = None,
) -> Guard:
    config = GuardConfig(max_concurrent, QueueConfig(), breaker)
    return Guard(
        name, config, random=lambda: 0.5, on_transition=on_transition, breaker_of=breaker_of
    )


def ask(guard: Guard, request_id: str, now_s: float, path: str = "/v1/messages") -> object:
    return guard.ask(Subject(request_id, "POST", path, "key:1a2b3c4d"), now_s)


def fail_until_open(guard: Guard, now_s: float, threshold: int = 5) -> None:
    """Let so many exchanges fail at this moment."""
    for number in range(threshold):
        permit = ask(guard, f"failing-{number}", now_s)
        assert isinstance(permit, Permit)
        guard.settle(permit, FAILED, now_s)
