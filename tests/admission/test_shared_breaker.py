"""Do classes that share a breaker open, probe and close as one?"""

from __future__ import annotations

from dataclasses import replace

from sidecar.admission.answers import (
    BreakerState,
    Permit,
    Reason,
    Rejection,
    Ticket,
    TicketState,
    Transition,
)
from sidecar.admission.config import BreakerConfig, BreakerMode, GuardConfig
from sidecar.admission.guard import Guard
from tests.support.guards import FAILED, WENT_WELL, ask, fail_until_open, make_guard

CONFIG = BreakerConfig(failure_threshold=2, open_s=10.0)


def sharing(*names: str, told: list[Transition] | None = None) -> list[Guard]:
    """An owner and guards of these names that share its breaker, each with one slot."""
    observe = (told if told is not None else []).append
    owner = make_guard("owner", max_concurrent=1, breaker=CONFIG, on_transition=observe)
    others = [
        make_guard(name, max_concurrent=1, on_transition=observe, breaker_of=owner)
        for name in names
    ]
    return [owner, *others]


def reason(answer: object) -> Reason | None:
    return answer.reason if isinstance(answer, Rejection) else None


def test_failures_of_all_count_together() -> None:
    """One failure in each of two classes is two in a row for the breaker that they share."""
    owner, other = sharing("other")
    fail_until_open(owner, 0.0, threshold=1)
    assert reason(ask(other, "between", 0.5)) is None
    owner, other = sharing("other")
    fail_until_open(owner, 0.0, threshold=1)
    fail_until_open(other, 1.0, threshold=1)
    for guard in (owner, other):
        refused = ask(guard, "late", 2.0)
        assert isinstance(refused, Rejection)
        assert (refused.reason, refused.guard) == (Reason.CIRCUIT_OPEN, guard.name)


def test_whoever_waits_in_any_class_is_refused_when_it_opens() -> None:
    """No waiter of another class is sent to the backend that has just been given up."""
    guards = owner, other, third = sharing("other", "third")
    for guard in guards:
        for number in range(3):  # one gets the slot, two wait
            ask(guard, f"{guard.name}-{number}", 0.0)
    (first,) = other.snapshot(1.0).permits
    (granted,) = other.settle(first, FAILED, 1.0)
    assert isinstance(granted.result, Permit)
    answers = other.settle(granted.result, FAILED, 2.0)
    assert {answer.ticket.subject.request_id for answer in answers} == {
        *("owner-1", "owner-2", "other-2", "third-1", "third-2"),
    }
    for ticket, result in answers:
        assert isinstance(result, Rejection)
        assert (result.reason, result.guard) == (Reason.CIRCUIT_OPEN, ticket.guard)
        assert ticket.state is TicketState.ANSWERED
    assert [guard.snapshot(2.0).waiting for guard in (owner, other, third)] == [0, 0, 0]


def test_an_operator_who_forces_it_open_refuses_all_who_wait() -> None:
    """The override of one class is the override of its breaker, and so of all that share it."""
    owner, other = sharing("other")
    for guard in (owner, other):
        ask(guard, "runs", 0.0)
        ask(guard, "waits", 0.0)
    answers = other.set_breaker_mode(BreakerMode.FORCED_OPEN, 1.0)
    assert sorted(answer.ticket.guard for answer in answers) == ["other", "owner"]


def test_one_probe_speaks_for_all() -> None:
    """While one class probes the others are refused; its success lets all in again."""
    owner, other = sharing("other")
    fail_until_open(owner, 0.0, threshold=2)
    probe = ask(other, "probe", 10.0)
    assert isinstance(probe, Permit)
    assert probe.passed.probe
    assert reason(ask(owner, "second", 10.5)) is Reason.PROBING
    other.settle(probe, WENT_WELL, 11.0)
    assert isinstance(ask(owner, "third", 11.0), Permit)


def test_a_probe_of_one_class_that_fails_refuses_the_waiting_of_another() -> None:
    """Also who began to wait while the breaker was half-open is told at once."""
    owner = make_guard("owner", max_concurrent=1, breaker=replace(CONFIG, probes=2))
    other = make_guard("other", breaker_of=owner)
    ask(owner, "runs on", 0.0)
    fail_until_open(other, 0.0, threshold=2)
    probe = ask(other, "probe", 10.0)
    waiting = ask(owner, "waits", 10.0)
    assert isinstance(probe, Permit)
    assert isinstance(waiting, Ticket)
    (answer,) = other.settle(probe, FAILED, 11.0)
    assert answer.ticket is waiting
    assert reason(answer.result) is Reason.CIRCUIT_OPEN


def test_transitions_are_told_once_under_the_owners_name() -> None:
    """An alert fires once for one breaker, however many classes obey it."""
    told: list[Transition] = []
    _, other, third = sharing("other", "third", told=told)
    fail_until_open(other, 0.0, threshold=2)
    probe = ask(third, "probe", 10.0)
    assert isinstance(probe, Permit)
    third.settle(probe, WENT_WELL, 11.0)
    assert [(one.guard, one.after) for one in told] == [
        ("owner", BreakerState.OPEN),
        ("owner", BreakerState.HALF_OPEN),
        ("owner", BreakerState.CLOSED),
    ]


def test_slots_and_queues_stay_apart() -> None:
    """Sharing a breaker is sharing nothing else."""
    owner, other = sharing("other")
    assert isinstance(ask(owner, "one", 0.0), Permit)
    assert isinstance(ask(other, "one", 0.0), Permit)
    assert isinstance(ask(owner, "two", 0.0), Ticket)
    assert other.snapshot(1.0).waiting == 0


def test_everybody_sees_whose_breaker_it_is() -> None:
    """The snapshot of each class shows the state, and the name of the class that has it."""
    owner, other = sharing("other")
    alone, without = make_guard("alone"), make_guard("without", breaker=None)
    fail_until_open(other, 0.0, threshold=2)
    snapshots = [guard.snapshot(1.0) for guard in (owner, other, alone, without)]
    assert [one.breaker_of for one in snapshots] == ["owner", "owner", "alone", ""]
    assert snapshots[0].breaker == snapshots[1].breaker


def test_a_class_can_share_with_one_that_shares() -> None:
    """It is the same breaker, whoever leads to it."""
    owner, other = sharing("other")
    third = make_guard("third", breaker_of=other)
    fail_until_open(third, 0.0, threshold=2)
    assert reason(ask(owner, "late", 1.0)) is Reason.CIRCUIT_OPEN
    assert third.snapshot(1.0).breaker_of == "owner"


def test_sharing_with_a_class_without_breaker_is_having_none() -> None:
    """Nobody is refused, and nothing is shown."""
    without = make_guard("without", breaker=None)
    other = make_guard("other", breaker_of=without)
    fail_until_open(other, 0.0, threshold=9)
    assert isinstance(ask(other, "still", 1.0), Permit)
    assert other.snapshot(1.0).breaker is None
    assert other.snapshot(1.0).breaker_of == ""


def test_new_numbers_for_the_breaker_come_from_its_owner() -> None:
    """What a class that shares is configured with does not touch the shared breaker."""
    owner, other = sharing("other")
    other.reconfigure(GuardConfig(1, breaker=None), 0.0)
    fail_until_open(other, 0.0, threshold=2)
    assert reason(ask(owner, "late", 1.0)) is Reason.CIRCUIT_OPEN
