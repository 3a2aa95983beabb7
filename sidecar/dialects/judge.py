"""What is known of one response while its body passes by?

A `Judge` is fed the body's bytes as they come and tells at any time what they mean. It changes and
delays none of them, never raises, and keeps a bounded number, whatever a backend sends.
"""

from __future__ import annotations

from typing import NamedTuple

from sidecar.admission.outcome import Said


class Usage(NamedTuple):
    """Tokens as the backend counted them; 0 where it told nothing."""

    prompt_tokens: int = 0
    """All of the prompt, cached tokens included."""
    completion_tokens: int = 0


class Judge:
    """Listens to one response. This one understands nothing: every piece of the body is data.

    So it is for whatever is no known dialect, and for compressed bodies, which are never unpacked.
    """

    __slots__ = ("error_message", "events", "model", "said", "usage")

    def __init__(self) -> None:
        self.events = 0
        """Data events so far: those with generated content (text, tool call, reasoning).

        A lone role chunk, comments, pings, usage and errors are none. Where nothing is understood,
        every piece of a body below 400 is one.
        """
        self.said = Said.NOTHING
        self.error_message = ""
        """Why the backend failed, for logs: one short printable line, without prompt or answer."""
        self.usage: Usage | None = None
        self.model = ""
        """The model that answered, as told by the response; "" when it told none."""

    @property
    def got_event(self) -> bool:
        """Whether a data event came."""
        return self.events > 0

    @property
    def at_boundary(self) -> bool:
        """Whether something may be inserted here: in a stream, between two events."""
        return False

    def feed(self, payload: bytes) -> None:
        """Listen to the next bytes of the body, cut anywhere, without the framing of chunks."""
        if payload:
            self.events += 1

    def end(self) -> None:
        """The body came to a clean end. Some things are only known now."""

    def error_event(self, message: str, code: str) -> bytes | None:  # noqa: ARG002 - for subclasses
        """What ends a broken stream so that the dialect's SDKs raise; None where there is nothing.

        To be sent `at_boundary` only.
        """
        return None

    def heartbeat(self) -> bytes | None:
        """What keeps a silent stream alive and means nothing; None where there is no such thing."""
        return None
