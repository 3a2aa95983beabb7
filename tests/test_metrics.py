"""Does `/metrics` tell the truth, all of it, and as documented?"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sidecar.admission.answers import (
    BreakerState,
    Permit,
    Reason,
    Transition,
    TransitionReason,
)
from sidecar.admission.config import BreakerConfig, BreakerMode
from sidecar.admission.guard import Guard
from sidecar.admission.outcome import Condition, OutcomeLabel, Report
from sidecar.proxy.refusals import ProxyReason
from sidecar.telemetry.facts import CancelPhase, ConnectionEnd, HandshakeFailure, TlsReload
from sidecar.telemetry.metrics import (
    CLASSES,
    CONNECTION_SIDES,
    FREE,
    POSSIBLE_TRANSITIONS,
    TLS_USERS,
    Metrics,
)
from tests.support.facts import completion, refusal
from tests.support.guards import BUSY, FAILED, LOADING, WENT_WELL, ask, fail_until_open, make_guard

DOCS = Path(__file__).parent.parent / "docs" / "metrics.md"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


@pytest.fixture
def guards() -> list[Guard]:
    return [
        make_guard("inference"),
        make_guard("embeddings"),
        make_guard("upgrade", breaker=None),
    ]


@pytest.fixture
def metrics(guards: list[Guard]) -> Metrics:
    metrics = Metrics(ProxyReason)
    metrics.register_snapshots(lambda: tuple(guard.snapshot(100.0) for guard in guards))
    metrics.register_certificates(lambda: {"proxy": 2_000_000_000.0})
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"openclaw_sidecar_{name}", labels)


# -- counting requests --------------------------------------------------------------------


def test_a_finished_request_is_counted_everywhere_it_belongs(metrics: Metrics) -> None:
    """One completion shows in its counter, in the bytes and in each histogram, once."""
    metrics.request(completion())
    assert value(metrics, "requests_total", route="inference", outcome="ok") == 1
    assert value(metrics, "requests_total", route="embeddings", outcome="ok") == 0
    assert value(metrics, "bytes_total", direction="in") == 1000
    assert value(metrics, "bytes_total", direction="out") == 50_000
    for name, seconds in (
        ("queue_wait", 0.25),
        ("first_event", 0.75),
        ("slot_hold", 12.5),
        ("request_duration", 12.8),
        ("overhead", 0.000123),
    ):
        assert value(metrics, f"{name}_seconds_count", route="inference") == 1
        assert value(metrics, f"{name}_seconds_sum", route="inference") == seconds


def test_a_histogram_bound_belongs_to_its_bucket(metrics: Metrics) -> None:
    """A duration of exactly 10 s counts as `le="10"`, as Prometheus defines it."""
    metrics.request(completion(duration_s=10.0))

    def up_to(bound: str) -> float | None:
        return value(metrics, "request_duration_seconds_bucket", route="inference", le=bound)

    assert (up_to("5.0"), up_to("10.0"), up_to("+Inf")) == (0, 1, 1)


def test_durations_of_an_hour_still_have_a_bucket(metrics: Metrics) -> None:
    """Long generations can be told apart; only what exceeds an hour falls into +Inf alone."""
    metrics.request(completion(hold_s=3000.0))
    metrics.request(completion(hold_s=4000.0))
    assert value(metrics, "slot_hold_seconds_bucket", route="inference", le="3600.0") == 1
    assert value(metrics, "slot_hold_seconds_bucket", route="inference", le="+Inf") == 2


def test_refusals_are_counted_by_reason(metrics: Metrics) -> None:
    """Each answer of the sidecar's own is found under its reason, and took no slot."""
    metrics.request(refusal())
    metrics.request(completion(outcome=OutcomeLabel.RESET, reason="upstream_reset", status=502))
    assert value(metrics, "refusals_total", route="inference", reason="queue_full") == 1
    assert value(metrics, "refusals_total", route="inference", reason="upstream_reset") == 1
    assert value(metrics, "requests_total", route="inference", outcome="refused") == 1
    assert value(metrics, "slot_hold_seconds_count", route="inference") == 1
    assert value(metrics, "cut_streams_total", route="inference") == 0


def test_waiting_in_vain_counts_as_waiting(metrics: Metrics) -> None:
    """A queue time-out shows in the queue's histogram; a refusal at once does not."""
    metrics.request(refusal(reason="queue_timeout", wait_s=30.0))
    metrics.request(refusal(reason="queue_full"))
    assert value(metrics, "queue_wait_seconds_count", route="inference") == 1


def test_client_cancels_are_counted_by_phase(metrics: Metrics) -> None:
    """One sees whether clients lose patience in the queue, in the prefill or mid-stream."""
    for phase in CancelPhase:
        metrics.request(completion(outcome=OutcomeLabel.CLIENT_GONE, cancel_phase=phase))
    for phase in CancelPhase:
        assert value(metrics, "client_cancels_total", route="inference", phase=phase.value) == 1


@pytest.mark.parametrize("outcome", [OutcomeLabel.CUT, OutcomeLabel.STALL_TIMEOUT])
def test_answers_that_break_off_are_counted(metrics: Metrics, outcome: OutcomeLabel) -> None:
    """Whatever the cause, an answer that the client got only in part is a cut stream."""
    metrics.request(completion(outcome=outcome))
    assert value(metrics, "cut_streams_total", route="inference") == 1


def test_a_failure_before_the_answer_is_no_cut_stream(metrics: Metrics) -> None:
    """Nothing was cut where the client had got nothing yet."""
    metrics.request(completion(outcome=OutcomeLabel.ABORTED, status=0))
    metrics.request(completion(outcome=OutcomeLabel.CLIENT_GONE))
    assert value(metrics, "cut_streams_total", route="inference") == 0


def test_replays_are_counted(metrics: Metrics) -> None:
    """A request that was sent twice is visible."""
    metrics.request(completion(route="free", retried=True))
    assert value(metrics, "retries_total") == 1


def test_an_unknown_route_or_reason_is_counted_not_lost(metrics: Metrics) -> None:
    """A class of routes that was configured later gets its series with its first request."""
    metrics.request(refusal(route="batch", reason="caller_share"))
    assert value(metrics, "refusals_total", route="batch", reason="caller_share") == 1
    assert value(metrics, "refusals_total", route="batch", reason="queue_full") == 0


# -- breakers -----------------------------------------------------------------------------


def test_transitions_are_counted_from_to_and_why(metrics: Metrics) -> None:
    """Each change of state is counted under its own reason."""
    opened = Transition(
        "inference",
        BreakerState.CLOSED,
        BreakerState.OPEN,
        TransitionReason.CONSECUTIVE_FAILURES,
        failure_count=5,
        cooldown_s=60.0,
    )
    metrics.transition(opened)
    labels = {"from": "closed", "to": "open", "reason": "consecutive_failures"}
    assert value(metrics, "breaker_transitions_total", route="inference", **labels) == 1
    assert value(metrics, "breaker_transitions_total", route="embeddings", **labels) == 0


def test_every_transition_of_a_real_breaker_has_its_series_from_the_start() -> None:
    """No alert misses the first opening because its series did not exist before."""
    told: list[Transition] = []
    config = BreakerConfig(
        failure_threshold=1, open_s=10.0, probe_s=5.0, min_calls=1, failure_ratio=1.0,
        slow_ratio=1.0, slow_call_s=3.0,
    )  # fmt: skip
    guard = make_guard(breaker=config, on_transition=told.append)
    fail_until_open(guard, 0.0, threshold=1)
    guard.reset(1.0)  # open -> closed
    fail_until_open(guard, 2.0, threshold=1)
    fail_until_open(guard, 20.0, threshold=1)  # the probe fails
    ask(guard, "hangs", 40.0)
    guard.advance(46.0)  # the probe times out
    guard.advance(60.0)
    guard.reset(61.0)  # half-open -> closed
    fail_until_open(guard, 62.0, threshold=1)
    probe = ask(guard, "recovers", 80.0)
    assert isinstance(probe, Permit)
    guard.settle(probe, WENT_WELL, 81.0)
    for outcome in (BUSY, WENT_WELL):  # the second is slow
        permit = ask(guard, "counts in the window", 82.0)
        assert isinstance(permit, Permit)
        guard.settle(permit, outcome, 90.0, Report(first_event_s=7.0))
        guard.reset(91.0)
    metrics = Metrics()
    before = _series(metrics.collect())
    for transition in told:
        metrics.transition(transition)
    assert {(one.before, one.after, one.reason) for one in told} == set(POSSIBLE_TRANSITIONS)
    assert _series(metrics.collect()) == before


def test_what_a_backend_says_of_itself_is_one_hot(metrics: Metrics, guards: list[Guard]) -> None:
    """A model that loads is seen as that, and not as an outage."""
    permit = ask(guards[0], "too early", 70.0)
    assert isinstance(permit, Permit)
    guards[0].settle(permit, LOADING, 70.0)
    conditions = {
        one.value: value(metrics, "backend_condition", route="inference", condition=one.value)
        for one in Condition
    }
    assert conditions == {"normal": 0, "warming": 1, "restarting": 0}
    assert value(metrics, "backend_condition", route="embeddings", condition="normal") == 1


def test_the_window_is_shown(metrics: Metrics, guards: list[Guard]) -> None:
    """One sees a ratio come near before it opens the circuit."""
    guards[0] = make_guard(breaker=BreakerConfig(failure_ratio=0.9, slow_call_s=3.0))
    for outcome, first_event_s in ((WENT_WELL, 1.0), (BUSY, None), (FAILED, 4.0)):
        permit = ask(guards[0], "counted", 60.0)
        assert isinstance(permit, Permit)
        guards[0].settle(permit, outcome, 65.0, Report(first_event_s=first_event_s))
    assert value(metrics, "breaker_window_calls", route="inference") == 3
    assert value(metrics, "breaker_window_failures", route="inference") == 2
    assert value(metrics, "breaker_window_slow_calls", route="inference") == 1


def test_probes_held_back_and_a_ramp_are_shown(metrics: Metrics, guards: list[Guard]) -> None:
    """One sees why requests are refused or wait although the open time is over."""
    guards[0] = make_guard(breaker=BreakerConfig(open_s=10.0, ramp_s=20.0))
    fail_until_open(guards[0], 70.0)
    guards[0].hold_probes(80.0, 129.0)
    assert value(metrics, "breaker_probe_hold_remaining_seconds", route="inference") == 29.0
    guards[0].hold_probes(80.0, 80.0)
    assert value(metrics, "breaker_probe_hold_remaining_seconds", route="inference") == 0.0
    probe = ask(guards[0], "probe", 80.0)
    assert isinstance(probe, Permit)
    assert value(metrics, "effective_concurrency_limit", route="inference") == 3
    guards[0].settle(probe, WENT_WELL, 95.0)
    assert value(metrics, "effective_concurrency_limit", route="inference") == 1
    assert value(metrics, "concurrency_limit", route="inference") == 3
    assert value(metrics, "effective_concurrency_limit", route="upgrade") == 3


def test_the_breakers_state_and_mode_are_one_hot(metrics: Metrics, guards: list[Guard]) -> None:
    """Exactly one state and one mode of a breaker are 1 at any time."""
    fail_until_open(guards[0], 70.0)
    guards[1].set_breaker_mode(BreakerMode.OBSERVE, 70.0)
    states = {
        state.value: value(metrics, "breaker_state", route="inference", state=state.value)
        for state in BreakerState
    }
    assert states == {"closed": 0, "open": 1, "half_open": 0}
    modes = {
        mode.value: value(metrics, "breaker_mode", route="embeddings", mode=mode.value)
        for mode in BreakerMode
    }
    assert modes == {"enforce": 0, "observe": 1, "disabled": 0, "forced_open": 0}
    assert value(metrics, "breaker_open_remaining_seconds", route="inference") == 30.0
    assert value(metrics, "breaker_consecutive_failures", route="inference") == 5


# -- gauges -------------------------------------------------------------------------------


def test_gauges_show_the_moment_of_the_scrape(metrics: Metrics, guards: list[Guard]) -> None:
    """Slots and queue are read when Prometheus asks, so they can never drift."""
    for number in range(5):
        ask(guards[0], f"req-{number}", 90.0 + number)
    guards[0].hold_bytes(77)
    expected = {
        "in_flight": 3,
        "waiting": 2,
        "oldest_wait_seconds": 7.0,
        "concurrency_limit": 3,
        "queue_limit": 64,
        "queue_held_bytes": 77,
    }
    assert {name: value(metrics, name, route="inference") for name in expected} == expected


def test_draining_shows_and_counts_down(metrics: Metrics) -> None:
    """During a shutdown one sees that it is one, and how long it may still take."""
    assert value(metrics, "draining") == 0
    assert value(metrics, "drain_remaining_seconds") == 0
    metrics.register_drain(lambda: 0.0)
    assert value(metrics, "draining") == 1
    metrics.register_drain(lambda: 12.5)
    assert value(metrics, "drain_remaining_seconds") == 12.5


def test_connections_are_counted_by_side(metrics: Metrics) -> None:
    """Connections to clients and to the backend can be told apart."""
    metrics.register_connections(lambda: {"client": 7, "upstream_busy": 3})
    sides = {side: value(metrics, "connections", side=side) for side in CONNECTION_SIDES}
    assert sides == {"client": 7, "upstream_idle": 0, "upstream_busy": 3}


def test_connections_of_clients_are_counted_with_their_ends(metrics: Metrics) -> None:
    """Those that ended by reason; with those that did not, they are as many as there ever were."""
    name = "client_connections_ended_total"
    assert value(metrics, "client_connections_total") == 0
    assert {value(metrics, name, reason=end.value) for end in ConnectionEnd} == {0}
    ended = dict.fromkeys(ConnectionEnd, 0) | {ConnectionEnd.TURNED_AWAY: 4}
    metrics.register_client_connections(lambda: (9, ended))
    assert value(metrics, "client_connections_total") == 9
    assert value(metrics, name, reason="turned_away") == 4
    assert value(metrics, name, reason="answered") == 0


# -- what is there from the start ---------------------------------------------------------


def test_every_series_is_there_at_zero_from_the_start(metrics: Metrics) -> None:
    """A dashboard has no holes and `rate()` no blind spot before the first event."""
    for route in (*CLASSES, FREE):
        for outcome in OutcomeLabel:
            assert value(metrics, "requests_total", route=route, outcome=outcome.value) == 0
        for reason in (*Reason, *ProxyReason):
            assert value(metrics, "refusals_total", route=route, reason=reason.value) == 0
    before = _series(metrics.collect())
    metrics.request(completion(outcome=OutcomeLabel.CLIENT_GONE, cancel_phase=CancelPhase.QUEUED))
    metrics.request(refusal(reason="bad_request", route="free"))
    assert _series(metrics.collect()) == before


def test_configured_classes_are_there_at_zero_too() -> None:
    """A class of one's own has all its series from the start, breaker and all."""
    own, shares = make_guard("own"), make_guard("shares", breaker=None)
    metrics = Metrics(ProxyReason, ["own", "shares"], ["own"])
    metrics.register_snapshots(lambda: tuple(guard.snapshot(0.0) for guard in (own, shares)))
    for route in ("own", "shares", FREE):
        assert value(metrics, "requests_total", route=route, outcome="ok") == 0
        assert value(metrics, "queue_wait_seconds_count", route=route) == 0
    change = {"from": "closed", "to": "open", "reason": "consecutive_failures"}
    assert value(metrics, "breaker_transitions_total", route="own", **change) == 0
    assert value(metrics, "breaker_transitions_total", route="shares", **change) is None
    assert value(metrics, "requests_total", route="inference", outcome="ok") is None
    before = _series(metrics.collect())
    metrics.request(completion(route="shares"))
    assert _series(metrics.collect()) == before


def test_a_shared_breaker_is_shown_once() -> None:
    """What classes share counts once in a sum over all of them, under its owner's name."""
    owner = make_guard("owner")
    shares = make_guard("shares", breaker_of=owner)
    metrics = Metrics(ProxyReason, ["owner", "shares"], ["owner"])
    metrics.register_snapshots(lambda: tuple(guard.snapshot(0.0) for guard in (owner, shares)))
    fail_until_open(shares, 0.0)
    assert value(metrics, "breaker_state", route="owner", state="open") == 1
    assert value(metrics, "breaker_state", route="shares", state="open") is None
    assert value(metrics, "late_results_total", route="shares") is None
    assert value(metrics, "in_flight", route="shares") == 0


def _series(families: Iterable[Metric]) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {
        (sample.name, frozenset(sample.labels.items()))
        for family in families
        for sample in family.samples
    }


# -- rendering ----------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain;version=0.0.4"])
def test_prometheus_text_is_the_default(metrics: Metrics, accept: str) -> None:
    """Everybody who does not ask for OpenMetrics gets the classic format."""
    body, content_type = metrics.render(accept)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert "openclaw_sidecar_requests" in {family.name for family in parse_text(body.decode())}


def test_openmetrics_is_spoken_when_asked_for(metrics: Metrics) -> None:
    """What Prometheus asks for by itself is valid OpenMetrics, down to the last line."""
    body, content_type = metrics.render(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    parsed = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
    families = {family.name for family in parsed}
    assert "openclaw_sidecar_requests" in families


@pytest.mark.parametrize("version", ["1.x", '"1.0.0"', "2.\udcff", "2.\xe9"])
def test_a_strange_version_gets_plain_text(metrics: Metrics, version: str) -> None:
    """No Accept header, however odd, makes the scrape fail or gets into the answer's head."""
    accept = f"application/openmetrics-text;version={version}"
    _, content_type = metrics.render(accept)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_there_are_no_created_series(metrics: Metrics, accept: str) -> None:
    """No series is doubled by its time of creation."""
    metrics.request(completion())
    assert b"_created" not in metrics.render(accept)[0]


# -- documentation ------------------------------------------------------------------------


def test_every_metric_is_documented_and_every_documented_metric_exists(metrics: Metrics) -> None:
    """docs/metrics.md names each metric with its type and labels, and no other."""
    documented = {
        (name, kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(
            r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", DOCS.read_text(), re.MULTILINE
        )
    }
    exported = {_description(family) for family in metrics.registry.collect()}
    if sys.platform != "linux":  # there is no /proc to read the process from
        exported |= {line for line in documented if line[0].startswith("process_")}
    assert documented == exported


def _description(family: Metric) -> tuple[str, str, frozenset[str]]:
    kind = "gauge" if family.type == "info" else family.type
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    labels = {label for sample in family.samples for label in sample.labels if label != "le"}
    return family.name + suffix, kind, frozenset(labels)


def test_label_values_are_documented() -> None:
    """Whoever writes an alert finds every outcome, reason and transition in docs/metrics.md."""
    text = DOCS.read_text()
    values = [*OutcomeLabel, *Reason, *ProxyReason, *TransitionReason, *BreakerState, *BreakerMode]
    values += [*CancelPhase, *ConnectionEnd, *HandshakeFailure, *TlsReload]
    words = {str(one) for one in values} | {*CLASSES, FREE} | set(CONNECTION_SIDES) | set(TLS_USERS)
    assert {word for word in words if f"`{word}`" not in text} == set()
