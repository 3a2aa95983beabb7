"""What would somebody write into a field who wants it read as something else?"""

from __future__ import annotations

MARK = b"forged"
LINE = b'{"event":"request","outcome":"ok","path":"/forged"}'
SERIES = b'openclaw_sidecar_requests_total{route="forged"} 1'
SECRET = b"sk-secret-of-somebody"

# What could end a line, a string, a label, an element or a terminal's patience; as it may stand in
# a field's value.
HOSTILE = {
    "json": b'","event":"forged","x":"',
    "json_escapes": b'\\n\\u000a\\" ' + LINE,
    "labels": b'"} 1\\n' + SERIES,
    "encoded_line_ends": b"%0d%0a" + LINE + b"%0a" + SERIES,
    "next_line": b"\xc2\x85" + LINE + b"\xe2\x80\xa8" + LINE + b"\x85" + LINE,
    "directions": "\u202e\u2066forged\u2069".encode(),
    "no_utf8": b"\xff\xfe\xc0\xaf" + MARK,
    "surrogates": b"\xed\xa0\x80" + MARK,
    "markup": b"<script>forged()</script><!--'\"&",
    "format": b"%s%n{0}{forged}${forged}",
    "c1_escape": b"\x9b31mforged\x9d0;forged\x9c",
    "long": MARK * 2000,
}
FIELDS = [
    b"X-Request-Id", b"traceparent", b"Authorization", b"X-Api-Key", b"User-Agent", b"Referer",
    b"X-Forwarded-For", b"Forwarded", b"Via", b"Cookie", b"Content-Type", b"Accept", b"Origin",
    b"x-sidecar-reason", b"X-Request-Timeout", b"Connection", b"Upgrade", b"Server-Timing",
]  # fmt: skip
