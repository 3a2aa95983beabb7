"""Finished requests to tell metrics, logs and the admin port about."""

from __future__ import annotations

from typing import Any

from sidecar.admission.outcome import OutcomeLabel
from sidecar.telemetry.facts import RequestFact

COMPLETION = RequestFact(
    request_id="req-1",
    route="inference",
    method="POST",
    path="/v1/chat/completions",
    caller="key:1a2b3c4d",
    status=200,
    outcome=OutcomeLabel.OK,
    reason="",
    wait_s=0.25,
    first_event_s=0.75,
    hold_s=12.5,
    duration_s=12.8,
    overhead_s=0.000123,
    bytes_in=1000,
    bytes_out=50_000,
    cancel_phase=None,
)

REFUSED = COMPLETION._replace(
    request_id="req-2",
    status=503,
    outcome=OutcomeLabel.REFUSED,
    reason="queue_full",
    wait_s=0.0,
    first_event_s=None,
    hold_s=None,
    overhead_s=None,
)


def completion(**changes: Any) -> RequestFact:
    return COMPLETION._replace(**changes)


def refusal(**changes: Any) -> RequestFact:
    return REFUSED._replace(**changes)
