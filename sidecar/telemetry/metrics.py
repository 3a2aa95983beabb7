"""How many, how long, how much? Counts finished requests and answers `/metrics`.

What is counted lies in plain numbers, not in `prometheus_client` objects: those take a lock and
walk their buckets for each observation. Measured on one core (Python 3.11), one `request()` of an
inference costs 1.6 us here, and 7.5 us with their counters and histograms. The numbers are made
into families at scrape time. Everything runs in the event loop's thread; so there is no lock.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder

from sidecar import __version__
from sidecar.admission.answers import BreakerState, Reason, Transition, TransitionReason
from sidecar.admission.guard import GuardSnapshot
from sidecar.admission.outcome import OutcomeLabel
from sidecar.telemetry.facts import (
    CancelPhase,
    ConnectionEnd,
    HandshakeFailure,
    RequestFact,
    TlsReload,
)
from sidecar.telemetry.families import Buckets, Histogram, counter, gauge, histogram
from sidecar.telemetry.gauges import guard_families

# The classes there are without configuration, and what passes freely beside any of them.
CLASSES = ("inference", "embeddings", "upgrade")
CLASSES_WITH_BREAKER = ("inference", "embeddings")
FREE = "free"
TLS_LISTENERS = ("proxy", "admin")
TLS_USERS = (*TLS_LISTENERS, "upstream")  # who has certificates
CONNECTION_SIDES = ("client", "upstream_idle", "upstream_busy")

# All that a breaker can do (the table in `admission.breaker`).
POSSIBLE_TRANSITIONS = (
    (BreakerState.CLOSED, BreakerState.OPEN, TransitionReason.CONSECUTIVE_FAILURES),
    (BreakerState.CLOSED, BreakerState.OPEN, TransitionReason.FAILURE_RATIO),
    (BreakerState.CLOSED, BreakerState.OPEN, TransitionReason.SLOW_RATIO),
    (BreakerState.OPEN, BreakerState.HALF_OPEN, TransitionReason.OPEN_TIME_OVER),
    (BreakerState.HALF_OPEN, BreakerState.CLOSED, TransitionReason.PROBE_SUCCEEDED),
    (BreakerState.HALF_OPEN, BreakerState.OPEN, TransitionReason.PROBE_FAILED),
    (BreakerState.HALF_OPEN, BreakerState.OPEN, TransitionReason.PROBE_TIMEOUT),
    (BreakerState.OPEN, BreakerState.CLOSED, TransitionReason.OPERATOR),
    (BreakerState.HALF_OPEN, BreakerState.CLOSED, TransitionReason.OPERATOR),
)

# From a cached answer to a long agentic generation. Coarse on purpose: each bound is a series.
_LONG = Buckets(0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)

# Our own share is well under a millisecond; what lies above it tells of a blocked event loop.
_FINE = Buckets(50e-6, 100e-6, 200e-6, 500e-6, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1)

# The rest of an answer never came although its beginning had been sent to the client.
_CUT_SHORT = frozenset(
    {
        OutcomeLabel.CUT,
        OutcomeLabel.RESET,
        OutcomeLabel.BAD_RESPONSE,
        OutcomeLabel.FIRST_EVENT_TIMEOUT,
        OutcomeLabel.STALL_TIMEOUT,
        OutcomeLabel.TOTAL_TIMEOUT,
        OutcomeLabel.ABORTED,
        OutcomeLabel.INTERNAL_ERROR,
    }
)


class _Route:
    """What was counted of one class of routes."""

    __slots__ = (
        "cancels", "cut_streams", "duration", "first_event", "outcomes", "overhead", "reasons",
        "slot_hold", "wait",
    )  # fmt: skip

    def __init__(self, reasons: Iterable[str]) -> None:
        self.outcomes: dict[str, int] = dict.fromkeys(map(str, OutcomeLabel), 0)
        self.reasons: dict[str, int] = dict.fromkeys(reasons, 0)
        self.cancels: dict[str, int] = dict.fromkeys(map(str, CancelPhase), 0)
        self.cut_streams = 0
        self.wait = Histogram(_LONG)
        self.first_event = Histogram(_LONG)
        self.slot_hold = Histogram(_LONG)
        self.duration = Histogram(_LONG)
        self.overhead = Histogram(_FINE)


def _no_guards() -> tuple[GuardSnapshot, ...]:
    return ()


def _no_connections() -> Mapping[str, int]:
    return {}


def _none_ended() -> tuple[int, Mapping[ConnectionEnd, int]]:
    return 0, dict.fromkeys(ConnectionEnd, 0)


def _no_certificates() -> Mapping[str, float]:
    return {}


def _not_draining() -> float | None:
    return None


class Metrics:
    """All counters, and the readers of all gauges. `proxy_reasons` are the data path's refusals.

    Every series is there at zero from the start, so that `rate()` sees the first increase:
    for all `classes` of routes, and for those that have a breaker of their own (`breakers`).
    """

    def __init__(
        self,
        proxy_reasons: Iterable[str] = (),
        classes: Iterable[str] = CLASSES,
        breakers: Iterable[str] = CLASSES_WITH_BREAKER,
    ) -> None:
        self._reasons = tuple(dict.fromkeys([*map(str, Reason), *map(str, proxy_reasons)]))
        self._routes = {route: _Route(self._reasons) for route in (*classes, FREE)}
        self._transitions = {
            (route, *change): 0 for route in breakers for change in POSSIBLE_TRANSITIONS
        }
        self._bytes_in = 0
        self._bytes_out = 0
        self._retries = 0
        self._tls_reloads = {(user, result): 0 for user in TLS_USERS for result in TlsReload}
        self._handshake_failures = {
            (listener, reason): 0 for listener in TLS_LISTENERS for reason in HandshakeFailure
        }
        self._snapshots = _no_guards
        self._connections = _no_connections
        self._client_connections = _none_ended
        self._drain_remaining_s = _not_draining
        self._not_after_s = _no_certificates
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    # -- hearing --------------------------------------------------------------------------

    def request(self, fact: RequestFact) -> None:
        """Count one finished request. On the path of every request: keep it short."""
        route = self._routes.get(fact.route) or self._add_route(fact.route)
        route.outcomes[fact.outcome] += 1
        if fact.reason:
            route.reasons[fact.reason] = route.reasons.get(fact.reason, 0) + 1
        elif fact.outcome in _CUT_SHORT and fact.status:
            route.cut_streams += 1
        if fact.cancel_phase is not None:
            route.cancels[fact.cancel_phase] += 1
        if fact.retried:
            self._retries += 1
        self._bytes_in += fact.bytes_in
        self._bytes_out += fact.bytes_out
        route.duration.observe(fact.duration_s)
        if fact.hold_s is not None:
            route.wait.observe(fact.wait_s)
            route.slot_hold.observe(fact.hold_s)
        elif fact.wait_s:  # waited in vain
            route.wait.observe(fact.wait_s)
        if fact.first_event_s is not None:
            route.first_event.observe(fact.first_event_s)
        if fact.overhead_s is not None:
            route.overhead.observe(fact.overhead_s)

    def transition(self, change: Transition) -> None:
        """Count one change of a breaker's state."""
        key = (change.guard, change.before, change.after, change.reason)
        self._transitions[key] = self._transitions.get(key, 0) + 1

    def tls_reload(self, user: str, result: TlsReload) -> None:
        """Count one change of certificate files; `user` is one of `TLS_USERS`."""
        self._tls_reloads[user, result] += 1

    def handshake_failure(self, listener: str, reason: HandshakeFailure) -> None:
        """Count one client that got no TLS; `listener` is one of `TLS_LISTENERS`."""
        self._handshake_failures[listener, reason] += 1

    def _add_route(self, name: str) -> _Route:
        return self._routes.setdefault(name, _Route(self._reasons))

    # -- reading at scrape time -----------------------------------------------------------

    def register_snapshots(self, read: Callable[[], tuple[GuardSnapshot, ...]]) -> None:
        """Take the guards' gauges from `read`, called at each scrape."""
        self._snapshots = read

    def register_connections(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Take the number of open connections by side (`CONNECTION_SIDES`) from `read`."""
        self._connections = read

    def register_client_connections(
        self, read: Callable[[], tuple[int, Mapping[ConnectionEnd, int]]]
    ) -> None:
        """Take how many clients connected, and why those ended that did, from `read`."""
        self._client_connections = read

    def register_certificates(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Take the Unix time at which each certificate in use ends, by user, from `read`."""
        self._not_after_s = read

    def register_drain(self, read: Callable[[], float | None]) -> None:
        """Take the seconds a drain may still last from `read`; None while not draining."""
        self._drain_remaining_s = read

    def render(self, accept: str) -> tuple[bytes, str]:
        """The body of `/metrics` and its content type, as the `Accept` header wishes."""
        try:
            encoder, content_type = choose_encoder(accept)
        except TypeError:  # a version that is no number, such as `version=1.x`
            encoder, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        # The version asked for is repeated in the answer's header.
        if not (content_type.isascii() and content_type.isprintable()):
            encoder, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        return encoder(self.registry), content_type

    def collect(self) -> Iterator[Metric]:
        """All families, as `prometheus_client` asks for them."""
        yield gauge(
            "build_info",
            "Always 1; version of the sidecar and of Python.",
            ["version", "python"],
            [([__version__, platform.python_version()], 1)],
        )
        yield from self._counters()
        yield from self._histograms()
        yield from guard_families(self._snapshots())
        yield from self._process_gauges()

    def _counters(self) -> Iterator[Metric]:
        yield self._per_route("requests", "Finished requests.", "outcome", "outcomes")
        yield self._per_route(
            "refusals", "Requests answered by the sidecar itself.", "reason", "reasons"
        )
        yield self._per_route(
            "client_cancels", "Clients that left before their answer's end.", "phase", "cancels"
        )
        yield counter(
            "cut_streams",
            "Answers that broke off after their beginning had been sent to the client.",
            ["route"],
            [([name], route.cut_streams) for name, route in self._routes.items()],
        )
        yield counter(
            "breaker_transitions",
            "Changes of a breaker's state.",
            ["route", "from", "to", "reason"],
            [(list(map(str, key)), number) for key, number in self._transitions.items()],
        )
        yield counter(
            "bytes",
            "Bytes of request bodies (in) and of answers (out), upgraded connections included.",
            ["direction"],
            [(["in"], self._bytes_in), (["out"], self._bytes_out)],
        )
        yield counter(
            "retries",
            "Requests sent once more because a kept upstream connection had gone stale.",
            [],
            [([], self._retries)],
        )
        made, ended = self._client_connections()
        yield counter("client_connections", "Connections of clients.", [], [([], made)])
        yield counter(
            "client_connections_ended",
            "Connections of clients that are over, by the reason; each is counted once.",
            ["reason"],
            [([str(end)], number) for end, number in ended.items()],
        )
        yield counter(
            "tls_reloads",
            "Changes of certificate files; refused: the files were no good.",
            ["listener", "result"],
            [(list(map(str, key)), number) for key, number in self._tls_reloads.items()],
        )
        yield counter(
            "tls_handshake_failures",
            "Clients that got no TLS connection.",
            ["listener", "reason"],
            [(list(map(str, key)), number) for key, number in self._handshake_failures.items()],
        )

    def _per_route(self, name: str, meaning: str, label: str, attribute: str) -> Metric:
        rows = [
            ([route_name, value], number)
            for route_name, route in self._routes.items()
            for value, number in getattr(route, attribute).items()
        ]
        return counter(name, meaning, ["route", label], rows)

    def _histograms(self) -> Iterator[Metric]:
        for name, meaning, attribute in (
            ("queue_wait_seconds", "Time in the queue, of those that asked for a slot.", "wait"),
            (
                "first_event_seconds",
                "From the slot's grant to the first data event of the answer.",
                "first_event",
            ),
            ("slot_hold_seconds", "From the slot's grant to its return.", "slot_hold"),
            (
                "overhead_seconds",
                "Spent in the sidecar before the backend was asked, queue aside.",
                "overhead",
            ),
            ("request_duration_seconds", "From the request's arrival to its end.", "duration"),
        ):
            rows = [([route], getattr(one, attribute)) for route, one in self._routes.items()]
            yield histogram(name, meaning, ["route"], rows)

    def _process_gauges(self) -> Iterator[Metric]:
        remaining_s = self._drain_remaining_s()
        yield gauge(
            "draining", "1 while shutting down.", [], [([], float(remaining_s is not None))]
        )
        yield gauge(
            "drain_remaining_seconds",
            "Time that running exchanges still have; 0 unless draining.",
            [],
            [([], remaining_s or 0.0)],
        )
        open_now = self._connections()
        yield gauge(
            "connections",
            "Open connections: to clients, and to the backend idle or in use.",
            ["side"],
            [([side], open_now.get(side, 0)) for side in CONNECTION_SIDES],
        )
        yield gauge(
            "tls_certificate_not_after_seconds",
            "When the certificate in use ends, in Unix time; absent without one.",
            ["listener"],
            [([user], ends_s) for user, ends_s in self._not_after_s().items()],
        )
