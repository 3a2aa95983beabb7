"""Does the sidecar say no in a form that people, SDKs and proxies understand?"""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime

import pytest

from sidecar.admission.answers import Reason, Rejection
from sidecar.proxy.refusals import STATUS_OF, ProxyReason, Refusal, refusal_bytes
from tests.support.raw import Field, split_head, value_of


def parts_of(data: bytes) -> tuple[str, list[Field], bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    line, fields = split_head(head + b"\r\n\r\n")
    return line, fields, body


def said(
    refusal: Refusal, *, close: bool = False, head_only: bool = False, waited_ms: float = 0
) -> tuple[str, list[Field], bytes]:
    return parts_of(
        refusal_bytes(refusal, b"id-1", close=close, head_only=head_only, waited_ms=waited_ms)
    )


@pytest.mark.parametrize("reason", [*Reason, *ProxyReason])
def test_every_reason_has_a_status_and_the_same_shape(reason: Reason | ProxyReason) -> None:
    """Whatever the reason: a status with its phrase, and an error as OpenAI's API writes it."""
    status = STATUS_OF[reason]
    line, fields, body = said(Refusal(reason, 'not "now"\r\n', status))
    assert line.startswith(f"HTTP/1.1 {status} ")
    assert len(line) > len(f"HTTP/1.1 {status} ")
    error = json.loads(body)["error"]
    assert error == {
        "message": 'openclaw-sidecar: not "now"\r\n',
        "type": "invalid_request_error" if status < 500 else "server_error",
        "code": reason.value,
        "param": None,
    }
    assert value_of(fields, "content-length") == str(len(body))
    assert value_of(fields, "content-type") == "application/json"
    assert value_of(fields, "x-sidecar-reason") == reason.value
    assert value_of(fields, "x-request-id") == "id-1"
    assert value_of(fields, "via") == "1.1 openclaw-sidecar"
    assert parsedate_to_datetime(value_of(fields, "date") or "").tzinfo is not None


@pytest.mark.parametrize("status", [400, 408, 414, 417, 431, 500, 501, 502, 503, 504, 505])
def test_every_status_that_a_message_may_carry_has_a_phrase(status: int) -> None:
    """No refusal fails for want of words."""
    line, _, _ = said(Refusal.of(ProxyReason.BAD_REQUEST, "x", status))
    assert line.startswith(f"HTTP/1.1 {status} ")


@pytest.mark.parametrize(
    ("retry_after_s", "seconds", "milliseconds", "should_retry"),
    [
        (None, None, None, None),
        (0.0, "0", "0", None),
        (0.2, "1", "200", None),
        (60.0, "60", "60000", None),
        (60.1, "61", "60100", "false"),
    ],
)
def test_when_to_come_back(
    retry_after_s: float | None,
    seconds: str | None,
    milliseconds: str | None,
    should_retry: str | None,
) -> None:
    """Whole seconds, rounded up, for all; milliseconds for SDKs; no retry beyond their patience."""
    _, fields, _ = said(Refusal(Reason.CIRCUIT_OPEN, "x", 503, retry_after_s))
    assert value_of(fields, "retry-after") == seconds
    assert value_of(fields, "retry-after-ms") == milliseconds
    assert value_of(fields, "x-should-retry") == should_retry


def test_what_admission_answers_is_told_as_it_is() -> None:
    """Reason, message and waiting time are admission's own."""
    refusal = Refusal.from_rejection(Rejection("inference", Reason.QUEUE_FULL, "full", 1.5))
    assert refusal == Refusal(Reason.QUEUE_FULL, "full", 503, 1.5)


def test_how_long_a_request_waited_in_vain() -> None:
    """A refusal after waiting says how long that was."""
    _, fields, _ = said(Refusal.of(ProxyReason.UPSTREAM_RESET, "x"), waited_ms=1234.56)
    assert value_of(fields, "x-sidecar-queue-ms") == "1234"
    assert value_of(fields, "server-timing") == "sidecar-queue;dur=1234.6"
    _, fields, _ = said(Refusal.of(ProxyReason.UPSTREAM_RESET, "x"))
    assert value_of(fields, "x-sidecar-queue-ms") is None


def test_a_connection_that_ends_is_announced() -> None:
    """Connection: close stands where the connection is closed, and only there."""
    refusal = Refusal.of(ProxyReason.BAD_REQUEST, "x")
    assert value_of(said(refusal, close=True)[1], "connection") == "close"
    assert value_of(said(refusal)[1], "connection") is None


def test_head_gets_the_head() -> None:
    """The length of what a GET would get, and no body."""
    refusal = Refusal.of(ProxyReason.BAD_REQUEST, "x")
    line, fields, body = said(refusal, head_only=True)
    whole = said(refusal)
    assert (line, body) == (whole[0], b"")
    assert value_of(fields, "content-length") == str(len(whole[2]))


def test_what_closes_the_connection() -> None:
    """Where the next request's beginning is in doubt, or nothing more is wanted, it ends."""
    every: list[Reason | ProxyReason] = [*Reason, *ProxyReason]
    closing = {reason for reason in every if Refusal(reason, "", 400).closes}
    assert {
        ProxyReason.BAD_REQUEST,
        ProxyReason.HEAD_TOO_LARGE,
        ProxyReason.HEAD_TIMEOUT,
        ProxyReason.BODY_TIMEOUT,
        Reason.DRAINING,
    } <= closing
    assert not closing & {Reason.CIRCUIT_OPEN, Reason.QUEUE_FULL, ProxyReason.UPSTREAM_RESET}
