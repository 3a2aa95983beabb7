"""Whose retry is a request? SDKs number their attempts at one logical request."""

from __future__ import annotations

import re
from typing import NamedTuple

from sidecar.proxy.wire.heads import RequestHead

_RETRY_COUNT = re.compile(rb"[0-9]{1,4}")
_KEY_MAX = 128


class Attempt(NamedTuple):
    """Which attempt a head says it is. `key` is what the SDK calls the logical request, or ""."""

    numbered: bool
    is_retry: bool
    key: str


UNNUMBERED = Attempt(numbered=False, is_retry=False, key="")


def attempt_in(head: RequestHead) -> Attempt:
    """Read x-stainless-retry-count (the SDKs of OpenAI and Anthropic) and Idempotency-Key."""
    if b"x-stainless-retry-count" not in head.special:
        return UNNUMBERED
    count = _RETRY_COUNT.fullmatch(head.value(b"x-stainless-retry-count"))
    if count is None:
        return UNNUMBERED
    key = b""
    if b"idempotency-key" in head.special:
        key = head.value(b"idempotency-key")[:_KEY_MAX]
    return Attempt(numbered=True, is_retry=int(count[0]) > 0, key=key.decode("latin-1"))
