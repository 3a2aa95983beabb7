"""What happened to one request? The frozen facts that metrics and the request log are made from."""

from __future__ import annotations

from bisect import bisect_left
from enum import StrEnum
from typing import NamedTuple

from sidecar.admission.outcome import OutcomeLabel


class CancelPhase(StrEnum):
    """What a request was doing when its client left. Values are a metric label."""

    QUEUED = "queued"
    PREFILL = "prefill"  # sent to the backend, no data event yet
    STREAMING = "streaming"


class ConnectionEnd(StrEnum):
    """Why a client's connection ended. Each ends once; values are a metric label."""

    ANSWERED = "answered"  # closed after an answer, as agreed with it; tunnels too
    CUT = "cut"  # broken off within an answer
    LEFT_IDLE = "client_left_idle"  # by the client, between requests or before the first
    LEFT_IN_HEAD = "client_left_in_head"
    LEFT_IN_REQUEST = "client_left_in_request"
    IDLE_TIMEOUT = "idle_timeout"
    UNREADABLE = "unreadable"  # refused, because no request could be read
    MADE_ROOM = "made_room"  # waited for a request when its place was needed
    TURNED_AWAY = "turned_away"  # at the door
    WRITE_STALL = "write_stall"  # took nothing of its answers
    TUNNEL_IDLE = "tunnel_idle"
    SHUTDOWN = "shutdown"


class HandshakeFailure(StrEnum):
    """Why a client got no TLS. Values are a metric label."""

    TIMEOUT = "timeout"
    CLOSED = "closed"  # by the client: port scans, probes by TCP
    CERTIFICATE = "certificate"  # one of the two was missing or not accepted
    REFUSED = "refused"  # too many connections
    PROTOCOL = "protocol"  # no version or cipher in common, or no TLS at all


class TlsReload(StrEnum):
    """What came of changed certificate files. Values are a metric label."""

    LOADED = "loaded"
    REFUSED = "refused"  # they are no good; what was in use stays so


class RequestFact(NamedTuple):
    """One finished request, refused ones included. Times in seconds, sizes in bytes.

    `route` is the class that guarded it (`inference`, `embeddings`, `upgrade`, or one of the
    configured ones) or `free`.
    """

    request_id: str
    route: str
    method: str
    path: str  # as received, without the query, which may hold secrets
    caller: str  # hash of the API key, or the address; never the key
    status: int  # what the client got; 0 when it left before a status was sent
    outcome: OutcomeLabel
    reason: str  # refusal reason (a value of `Reason` or of `proxy.refusals`), or ""
    wait_s: float  # in the queue
    first_event_s: float | None  # from the slot's grant to the first data event
    hold_s: float | None  # from the slot's grant to its return; None where no slot was held
    duration_s: float
    overhead_s: float | None  # spent in the sidecar before the backend was asked, queue aside
    bytes_in: int  # from the client
    bytes_out: int  # to the client
    cancel_phase: CancelPhase | None
    retried: bool = False  # replayed once on a fresh upstream connection
    trace_id: str = ""


class Gaps:
    """How long the gaps between the data events of one stream were. Times in seconds."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(GAP_BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, gap_s: float) -> None:
        """Count one gap."""
        self.counts[bisect_left(GAP_BOUNDS_S, gap_s)] += 1
        self.sum_s += gap_s


# From a fast model's token to a stall's time-out.
GAP_BOUNDS_S = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
)
