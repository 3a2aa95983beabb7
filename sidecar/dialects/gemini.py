"""How does Gemini's streamGenerateContent with `alt=sse` stream?

Each event is a GenerateContentResponse. A candidate's last one has a `finishReason`: "if empty, the
model has not stopped generating tokens" (Gemini API reference, Candidate). A blocked prompt has no
candidates but a `blockReason`. Without `alt=sse` the answer is one JSON array; it has no event that
could be told from a cut, and is judged as plain JSON.
"""

from __future__ import annotations

from sidecar.dialects.dialect import Answers, Dialect, data_event
from sidecar.dialects.reading import Json, inner, items, text

# Beside a part's content, not content itself.
_NO_CONTENT = frozenset({"thought", "thoughtSignature"})


class Gemini(Dialect):
    """A stream is finished when every candidate has its `finishReason`, or was never begun."""

    __slots__ = ("_answers",)

    name = "Gemini"

    def __init__(self) -> None:
        super().__init__()
        self._answers = Answers()

    @classmethod
    def claims(cls, kind: str, event: Json) -> bool:  # noqa: ARG003 - the content tells
        """Members that no other dialect has."""
        if isinstance(event.get("candidates"), list):
            return True
        return "usageMetadata" in event or "promptFeedback" in event

    def read(self, kind: str, event: Json) -> bool:  # noqa: ARG002 - the content tells
        """An event is data when a part of a candidate has content."""
        if text(inner(event, "promptFeedback"), "blockReason"):
            self.finished = True
        is_data = False
        for candidate in items(event, "candidates"):
            ended = bool(text(candidate, "finishReason"))
            self.finished = self._answers.note(candidate.get("index"), ended=ended)
            for part in items(inner(candidate, "content"), "parts"):
                if any(value and key not in _NO_CONTENT for key, value in part.items()):
                    is_data = True
        return is_data

    def error_event(self, message: str, code: str) -> bytes:  # noqa: ARG002 - codes are numbers here
        """The API's own shape of an error (google.rpc.Status)."""
        return data_event({"error": {"code": 500, "message": message, "status": "INTERNAL"}})
