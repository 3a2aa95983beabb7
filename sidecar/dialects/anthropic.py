"""How do Anthropic's messages stream?

Named events, each with its name as `type`: `message_start`, blocks with their deltas,
`message_delta` with the stop reason, `message_stop`; in between, `ping`. Source: Anthropic's
documentation, "Streaming messages"; `anthropic.types.RawMessageStreamEvent`. llama.cpp and vLLM
speak it, too (vLLM adds `data: [DONE]`).
"""

from __future__ import annotations

import re

from sidecar.dialects.dialect import SERVER_FAULT, Dialect, named_event
from sidecar.dialects.reading import Json, inner, text

_KINDS = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    }
)


class AnthropicMessages(Dialect):
    """A stream is finished with `message_stop`."""

    __slots__ = ()

    name = "Anthropic messages"
    delta_head = re.compile(
        rb"(?:event: ?[\w.]+\r?\n)?data: ?\{\s?\"type\": ?\"content_block_delta\""
    )

    @classmethod
    def claims(cls, kind: str, event: Json) -> bool:  # noqa: ARG003 - the kind tells
        """All but `ping` and `error`, which others have, too."""
        return kind in _KINDS

    def read(self, kind: str, event: Json) -> bool:
        """Deltas, and blocks that begin with more than an empty text: tool calls have a name."""
        if kind == "message_stop":
            self.finished = True
        if kind == "content_block_start":
            block = inner(event, "content_block")
            empty = text(block, "type") in ("text", "thinking")
            return not empty or bool(text(block, "text") or text(block, "thinking"))
        return kind == "content_block_delta"

    def error_event(self, message: str, code: str) -> bytes:
        """`anthropic._streaming.Stream` raises APIStatusError on every event named `error`."""
        error = {"type": SERVER_FAULT, "message": message, "code": code}
        return named_event("error", {"type": "error", "error": error})
