"""What stands in for the proxy? A guard with a clock that the test moves, and who asked what."""

from __future__ import annotations

from sidecar.admission.answers import (
    Answer,
    BreakerState,
    Permit,
    Reason,
    Rejection,
    Subject,
    Ticket,
    Transition,
    TransitionReason,
)
from sidecar.admission.breaker import BreakerSnapshot
from sidecar.admission.config import BreakerConfig, BreakerMode, GuardConfig, QueueConfig
from sidecar.admission.guard import Guard, GuardSnapshot
from sidecar.admission.outcome import (
    NO_REPORT,
    Ending,
    Outcome,
    OutcomeLabel,
    Report,
    Said,
    Verdict,
    outcome_of,
)

OK = outcome_of(Ending.COMPLETED, 200, got_event=True)
FAILED = outcome_of(Ending.COMPLETED, 502, got_event=True)
BUSY = outcome_of(Ending.COMPLETED, 429, got_event=True)
BAD_REQUEST = outcome_of(Ending.COMPLETED, 400, got_event=True)
CUT = outcome_of(Ending.CUT, 200, got_event=True)
NOBODY_LISTENS = outcome_of(Ending.CONNECT_FAILED, None, got_event=False)
LOADING = outcome_of(Ending.COMPLETED, 503, got_event=True, said=Said.LOADING)
RESTARTING = outcome_of(Ending.COMPLETED, 503, got_event=True, said=Said.RESTARTING)
LEFT_WITH_NOTHING = outcome_of(Ending.CLIENT_GONE, None, got_event=False)
LEFT_MID_STREAM = outcome_of(Ending.CLIENT_GONE, 200, got_event=True)

# One outcome for each verdict that an outcome may have.
OUTCOMES = {
    verdict: Outcome(verdict, label, got_event=True)
    for verdict, label in (
        (Verdict.SUCCESS, OutcomeLabel.OK),
        (Verdict.FAILURE, OutcomeLabel.SERVER_ERROR),
        (Verdict.OVERLOAD, OutcomeLabel.OVERLOAD),
        (Verdict.ANSWERED, OutcomeLabel.CLIENT_GONE),
        (Verdict.NEUTRAL, OutcomeLabel.CLIENT_ERROR),
    )
}


class Driver:
    """Asks and settles like the proxy does. `now_s` moves only when a test moves it."""

    def __init__(
        self,
        *,
        slots: int = 3,
        queue: QueueConfig = QueueConfig(),  # noqa: B008 - a frozen value
        breaker: BreakerConfig | None = BreakerConfig(),  # noqa: B008 - a frozen value
    ) -> None:
        self.config = GuardConfig(slots, queue, breaker)
        self.now_s = 1_000.0  # a monotonic clock starts anywhere
        self.random = 0.0
        self.transitions: list[Transition] = []
        self.guard = Guard(
            "inference",
            self.config,
            random=lambda: self.random,
            on_transition=self.transitions.append,
        )
        self._asked = 0

    # -- time and looking -----------------------------------------------------------------

    def wait(self, seconds: float) -> list[Answer]:
        """Let time pass, and the guard notice it as the proxy's tick does."""
        self.now_s += seconds
        return self.guard.advance(self.now_s)

    @property
    def seen(self) -> GuardSnapshot:
        return self.guard.snapshot(self.now_s)

    @property
    def breaker(self) -> BreakerSnapshot:
        breaker = self.seen.breaker
        assert breaker is not None
        return breaker

    @property
    def state(self) -> BreakerState:
        return self.breaker.state

    @property
    def steps(self) -> list[tuple[BreakerState, TransitionReason]]:
        """Where the breaker went, and why."""
        return [(step.after, step.reason) for step in self.transitions]

    # -- asking ---------------------------------------------------------------------------

    def ask(self, body_bytes: int = 0) -> Permit | Ticket | Rejection:
        self._asked += 1
        subject = Subject(f"r-{self._asked}", "POST", "/v1/chat/completions", "key-1")
        return self.guard.ask(subject, self.now_s, body_bytes)

    def permit(self) -> Permit:
        answer = self.ask()
        assert isinstance(answer, Permit), answer
        return answer

    def ticket(self, body_bytes: int = 0) -> Ticket:
        answer = self.ask(body_bytes)
        assert isinstance(answer, Ticket), answer
        return answer

    def refused(self) -> Rejection:
        answer = self.ask()
        assert isinstance(answer, Rejection), answer
        return answer

    def reason(self) -> Reason | None:
        """Why a newcomer would be refused; None when it would not be. Takes nothing."""
        rejection = self.guard.refuses(self.now_s)
        return rejection.reason if rejection else None

    # -- giving back ----------------------------------------------------------------------

    def settle(
        self, permit: Permit, outcome: Outcome = OK, report: Report = NO_REPORT
    ) -> list[Answer]:
        return self.guard.settle(permit, outcome, self.now_s, report)

    def first_event(self, permit: Permit) -> list[Answer]:
        return self.guard.first_event(permit, self.now_s)

    def exchange(self, *outcomes: Outcome, report: Report = NO_REPORT) -> None:
        """One request after the other from beginning to end, at once."""
        for outcome in outcomes:
            self.settle(self.permit(), outcome, report)

    def fail(self, times: int) -> None:
        self.exchange(*[FAILED] * times)

    # -- usual situations -----------------------------------------------------------------

    def open(self) -> None:
        """Have the backend fail until the circuit opens."""
        self.fail(self.breaker.failure_threshold - self.breaker.failure_count)
        assert self.state is BreakerState.OPEN

    def half_open(self) -> None:
        """Have the circuit open, and its time pass."""
        if self.state is BreakerState.CLOSED:
            self.open()
        self.wait(self.breaker.open_remaining_s)
        assert self.state is BreakerState.HALF_OPEN

    def set_mode(self, mode: BreakerMode) -> list[Answer]:
        return self.guard.set_breaker_mode(mode, self.now_s)

    def reconfigure(
        self,
        *,
        slots: int | None = None,
        queue: QueueConfig | None = None,
        breaker: BreakerConfig | None = None,
    ) -> list[Answer]:
        """Change what is named and leave the rest."""
        old = self.config
        self.config = GuardConfig(
            slots or old.max_concurrent, queue or old.queue, breaker or old.breaker
        )
        return self.guard.reconfigure(self.config, self.now_s)


def granted(answers: list[Answer]) -> list[Permit]:
    """The permits among some answers, all of which must be permits."""
    results = [answer.result for answer in answers]
    permits = [result for result in results if isinstance(result, Permit)]
    assert len(permits) == len(results), results
    return permits


def turned_away(answers: list[Answer]) -> list[Rejection]:
    """The rejections among some answers, all of which must be rejections."""
    results = [answer.result for answer in answers]
    rejections = [result for result in results if isinstance(result, Rejection)]
    assert len(rejections) == len(results), results
    return rejections
