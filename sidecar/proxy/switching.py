"""Do both sides agree to switch protocols? Only then does a connection become a tunnel.

A tunnel carries bytes past every limit. So it must not come about because somebody found a page of
the backend that answers with a status of his choice: HTTP behind such a 101 would never be counted.
"""

from __future__ import annotations

import base64
import hashlib

from sidecar.proxy.wire.heads import RequestHead, ResponseHead, tokens_of

_WEBSOCKET = b"websocket"
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_KEY, _ACCEPT = b"sec-websocket-key", b"sec-websocket-accept"


def wants_upgrade(head: RequestHead) -> bool:
    """Whether a request may switch: by GET without a body, and never to another HTTP.

    An h2c tunnel would carry requests past every limit.
    """
    if b"upgrade" not in head.special or b"upgrade" not in head.connection:
        return False
    protocols = tokens_of(head.values(b"upgrade"))
    return (
        head.method == b"GET"
        and head.minor == 1
        and not head.has_body
        and not any(name.startswith(b"h2") or b"http" in name for name in protocols)
    )


def is_agreed(request: RequestHead, answer: ResponseHead) -> bool:
    """Whether a 101 switches to what was asked for (RFC 9110, 15.2.2; RFC 6455, 4.1)."""
    if b"upgrade" not in answer.special:
        return False
    chosen = tokens_of(answer.values(b"upgrade"))
    if not chosen or not chosen <= tokens_of(request.values(b"upgrade")):
        return False
    return _WEBSOCKET not in chosen or _is_accepted(request, answer)


def _is_accepted(request: RequestHead, answer: ResponseHead) -> bool:
    """Whether the backend proves that it read the handshake as one."""
    keys, accepted = request.values(_KEY), answer.values(_ACCEPT)
    if len(keys) != 1:
        return False
    # SHA-1 is what the protocol prescribes; nothing is protected by it.
    digest = hashlib.sha1(keys[0] + _WEBSOCKET_GUID, usedforsecurity=False).digest()
    return accepted == [base64.b64encode(digest)]
