"""How do OpenAI's Responses stream?

Named events, each with its name as `type`; the last one holds the whole response. Source: OpenAI
API reference, "streaming events"; `openai.types.responses.ResponseStreamEvent`.
"""

from __future__ import annotations

import re

from sidecar.dialects.dialect import SERVER_FAULT, Dialect, named_event
from sidecar.dialects.reading import Json, inner, text

# "incomplete" is an answer that ran into a limit; "failed" is an error. `[DONE]`, which some
# servers add, proves nothing: OpenClaw sends it after errors, too.
_TERMINAL = frozenset({"response.completed", "response.incomplete"})

# Announced before anything is generated. Other items (tool calls) come with a name of the model's
# choosing.
_EMPTY_ITEMS = frozenset({"message", "reasoning"})


class OpenAIResponses(Dialect):
    """A stream is finished with `response.completed` or `response.incomplete`."""

    __slots__ = ()

    name = "OpenAI Responses"
    delta_head = re.compile(
        rb"(?:event: ?[\w.]+\r?\n)?data: ?\{\s?\"type\": ?\"response\.[\w.]+\.delta\""
    )

    @classmethod
    def claims(cls, kind: str, event: Json) -> bool:  # noqa: ARG003 - the kind tells
        """All but `error` begin with `response.`."""
        return kind.startswith("response.")

    def read(self, kind: str, event: Json) -> bool:
        """Deltas of text, reasoning, refusals, tool calls, code, audio; parts of images."""
        if kind in _TERMINAL:
            self.finished = True
        if kind == "response.failed":
            self.error = inner(inner(event, "response"), "error") or {"code": kind}
        if kind == "response.output_item.added":
            return text(inner(event, "item"), "type") not in _EMPTY_ITEMS
        return kind.endswith((".delta", ".partial_image"))

    def error_event(self, message: str, code: str) -> bytes:
        """An `error` event that also has an `error` member.

        On the flat event of the reference alone, and on `response.failed`, the Python and
        JavaScript SDKs do not raise: they do so only for `error` (`openai._streaming.Stream`).
        """
        error = {"message": message, "type": SERVER_FAULT, "code": code, "param": None}
        flat = {"type": "error", "code": code, "message": message, "param": None}
        return named_event("error", {**flat, "error": error})
