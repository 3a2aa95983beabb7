"""How do Ollama's /api/chat and /api/generate stream?

One JSON object per line, each with `done`; the last has `"done": true` and the counts. An error is
a line with nothing but `error`. Source: Ollama's docs/api.md, and streaming.mdx and errors.mdx in
docs/api.
"""

from __future__ import annotations

import orjson

from sidecar.dialects.dialect import Dialect
from sidecar.dialects.reading import Json, inner


class Ollama(Dialect):
    """A stream is finished with `"done": true`."""

    __slots__ = ()

    name = "Ollama"

    @classmethod
    def claims(cls, kind: str, event: Json) -> bool:  # noqa: ARG003 - the content tells
        """Every line has `done`. (Those of /api/pull have not, and no end that could be told.)"""
        return isinstance(event.get("done"), bool)

    def read(self, kind: str, event: Json) -> bool:  # noqa: ARG002 - the content tells
        """A line is data when its message, response or thinking is not empty."""
        if event.get("done") is True:
            self.finished = True
        if event.get("response") or event.get("thinking"):
            return True
        message = inner(event, "message")
        return any(value and key != "role" for key, value in message.items())

    def error_event(self, message: str, code: str) -> bytes:  # noqa: ARG002 - there is only a text
        """`ollama.Client` raises ResponseError on a line with `error`."""
        return orjson.dumps({"error": message}) + b"\n"
