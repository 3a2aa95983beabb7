"""What is the time, as HTTP writes it? Computed once a second."""

from __future__ import annotations

import time
from email.utils import formatdate

_cache: tuple[int, bytes] = (0, b"")


def http_date() -> bytes:
    """The value of a Date field (RFC 9110, 5.6.7)."""
    global _cache  # noqa: PLW0603 - one value for the process, cheaper than a class
    now_s = int(time.time())
    if now_s != _cache[0]:
        _cache = (now_s, formatdate(now_s, usegmt=True).encode())
    return _cache[1]
