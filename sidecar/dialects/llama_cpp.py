"""How does llama.cpp's own /completion stream?

Events with `content` and `stop`; the last has `"stop": true` and the counts. Source: llama.cpp,
tools/server/README.md, "POST /completion". (Its /v1 speaks OpenAI's dialects and Anthropic's.)
"""

from __future__ import annotations

from sidecar.dialects.dialect import SERVER_FAULT, Dialect, data_event
from sidecar.dialects.reading import Json, text


class LlamaCpp(Dialect):
    """A stream is finished with `"stop": true`."""

    __slots__ = ()

    name = "llama.cpp completion"

    @classmethod
    def claims(cls, kind: str, event: Json) -> bool:  # noqa: ARG003 - the content tells
        """Every event has both."""
        return isinstance(event.get("stop"), bool) and isinstance(event.get("content"), str)

    def read(self, kind: str, event: Json) -> bool:  # noqa: ARG002 - the content tells
        """An event is data when its content is not empty."""
        if event.get("stop") is True:
            self.finished = True
        return bool(text(event, "content"))

    def error_event(self, message: str, code: str) -> bytes:
        """As the server itself says it (format_error_response)."""
        return data_event({"error": {"code": code, "message": message, "type": SERVER_FAULT}})
