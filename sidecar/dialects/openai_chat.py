"""How do OpenAI's chat completions (and the older completions) stream?

Chunks with `choices`, each with a `delta` (or `text`) and, in its last, a `finish_reason`; then
`data: [DONE]`. Source: OpenAI API reference, "chat completion chunk object". vLLM, llama.cpp,
SGLang, Ollama's /v1, OpenRouter and OpenClaw speak it.
"""

from __future__ import annotations

from sidecar.dialects.dialect import SERVER_FAULT, Answers, Dialect, data_event
from sidecar.dialects.reading import Json, inner

# In a delta, these are no content: the role stands in the first chunk, before the model has done
# anything. Whatever else is not empty counts, so that a new field (`reasoning`, `images`, ...) does
# not make a working stream look silent. LiteLLM adds the second.
_NO_CONTENT = frozenset({"role", "provider_specific_fields"})


class OpenAIChat(Dialect):
    """A stream is finished with `[DONE]`, or when every choice has its `finish_reason`."""

    __slots__ = ("_answers",)

    name = "OpenAI chat completions"
    ends_with_done = True

    def __init__(self) -> None:
        super().__init__()
        self._answers = Answers()

    @classmethod
    def claims(cls, kind: str, event: Json) -> bool:  # noqa: ARG003 - the content tells
        """All chunks have `choices`, if only an empty list beside the usage."""
        return isinstance(event.get("choices"), list)

    def read(self, kind: str, event: Json) -> bool:  # noqa: ARG002 - the content tells
        """A chunk is data when a choice of it has content."""
        choices = event.get("choices")
        is_data = False
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._note_choice(choice)
                delta = choice.get("delta")
                if choice.get("text") or (isinstance(delta, dict) and _has_content(delta)):
                    is_data = True
        return is_data

    def _note_choice(self, choice: Json) -> None:
        reason = choice.get("finish_reason")
        self.finished = self._answers.note(choice.get("index"), ended=bool(reason))
        if reason == "error":  # OpenRouter's end of a stream that failed ("Errors", streaming)
            self.error = inner(choice, "error") or {"code": "finish_reason_error"}

    def error_event(self, message: str, code: str) -> bytes:
        """Without `[DONE]`: `openai._streaming.Stream` raises APIError on any `error`."""
        error = {"message": message, "type": SERVER_FAULT, "code": code, "param": None}
        return data_event({"error": error})


def _has_content(delta: Json) -> bool:
    for key, value in delta.items():  # noqa: SIM110 - half the cost of any()
        if value and key not in _NO_CONTENT:
            return True
    return False
