"""What does a stream of events say?

Only events that differ from the one before are parsed: the first, the last, errors, usage, a new
role or tool.

Measured (`python -m tests.dialects.cost`; one event per `feed`, 130 to 320 bytes; one core of a
shared AMD EPYC with two, under load, Python 3.11; `orjson.loads` alone takes 1.0 us there): 0.4 us
per event of Anthropic and Responses, 0.5 us of llama.cpp and vLLM, 0.8 us of Ollama and OpenAI. An
event that has to be parsed costs 6 us: that is every one where counts, timings or log probabilities
stand in each (by request), of Gemini, and of two and more choices in turn.
"""

from __future__ import annotations

import re
from abc import abstractmethod

from sidecar.admission.outcome import Said
from sidecar.dialects.dialect import Dialect
from sidecar.dialects.errors import complaint_of, error_in_event
from sidecar.dialects.openai_chat import OpenAIChat
from sidecar.dialects.reading import Json, json_object, merged, model_in, usage_in
from sidecar.dialects.records import RecordJudge
from sidecar.dialects.usual import learn

# Where as many events told no dialect, the next will not either.
_MAX_STRANGE_EVENTS = 16

# How many data events are parsed before a look that never came again is given up for a new one.
_FIRST_PATIENCE = 4
_MAX_PATIENCE = 256

# What the beginning of a large event may tell: its type, or that it is the last one.
_KIND = re.compile(rb'"type": ?"([\w.]+)"')
_ENDS = re.compile(rb'"(?:done|stop)": ?true')


class StreamJudge(RecordJudge):
    """Recognises the dialect by the events, and reads them."""

    __slots__ = (
        "_dialect",
        "_learned_at",
        "_over",
        "_patience",
        "_read_since",
        "_recognised",
        "_strange",
    )

    candidates: tuple[type[Dialect], ...]
    """The dialects that come in such streams."""

    def __init__(self, hint: type[Dialect] | None) -> None:
        super().__init__()
        self._dialect: Dialect | None = None  # as hinted, until events tell
        self._recognised = False
        self._strange = 0  # events that told no dialect
        self._over = False  # `[DONE]` came where that is the end
        self._learned_at = -1  # `events` when `_usual` was learned
        self._read_since = 0  # data events that have been parsed since
        self._patience = _FIRST_PATIENCE
        if hint is not None:
            self._speak(hint)

    @abstractmethod
    def _unwrapped(self, record: bytes) -> tuple[str, bytes]:
        """The name and the data of a record; no data when it is no event."""

    @abstractmethod
    def _terminator_of(self, record: bytes | bytearray) -> bytes:
        """With what a record ends; nothing when it ends in no usual way."""

    def error_event(self, message: str, code: str) -> bytes | None:
        """In the dialect's words."""
        # A lone surrogate could not be encoded.
        message = message.encode("utf-8", "replace").decode()
        return None if self._dialect is None else self._dialect.error_event(message, code)

    def _read(self, record: bytes, *, whole: bool) -> None:
        name, data = self._unwrapped(record)
        if not data:
            return
        if self._is_lost() and b'"error"' not in data:
            self.events += 1
            return
        event = json_object(data)
        if event is None:
            if data.strip().startswith(b"[DONE]"):  # as the SDKs compare it
                self._read_done()
            elif whole and not self._recognised and self._wonder(name):
                self.events += 1
        elif self._understand(name, event):
            self.events += 1
            self._learn(record)

    def _is_lost(self) -> bool:
        """Whether so much came that told no dialect that nothing but an error is expected."""
        return self._strange >= _MAX_STRANGE_EVENTS and not self._recognised

    def _understand(self, name: str, event: Json) -> bool:
        """Take in one event; returns whether it is a data event."""
        kind = event.get("type")
        if not isinstance(kind, str):
            kind = name
        if not self._recognised:
            self._recognise(kind, event)
        self._note_facts(event)
        error = error_in_event(name, event)
        if error is not None:
            self._complain(error)
            return False
        dialect = self._dialect if self._recognised else None
        if dialect is None:
            return self._wonder(kind)
        is_data = dialect.read(kind, event)
        if dialect.error is not None:
            self._complain(dialect.error)
        if dialect.finished or self.said is not Said.UNFINISHED:
            self._conclude()
        return is_data

    def _recognise(self, kind: str, event: Json) -> None:
        for candidate in self.candidates:
            if candidate.claims(kind, event):
                if type(self._dialect) is not candidate:
                    self._speak(candidate)
                self._recognised = True
                return

    def _wonder(self, kind: str) -> bool:
        """An event of no known dialect: what the path made us expect is not what came."""
        if kind == "ping":
            return False
        self._strange += 1
        self._dialect = None
        self._conclude()
        return True

    def _speak(self, dialect: type[Dialect]) -> None:
        self._dialect = dialect()
        self._conclude()

    def _conclude(self) -> None:
        if self.said in (Said.FAILED, Said.BUSY):
            return  # whatever follows: an answer with an error in it has failed
        if self._dialect is None:
            self.said = Said.NOTHING
        else:
            finished = self._over or self._dialect.finished
            self.said = Said.FINISHED if finished else Said.UNFINISHED

    def _complain(self, error: object) -> None:
        if self.said not in (Said.FAILED, Said.BUSY):
            self.said, self.error_message = complaint_of(error)

    def _read_done(self) -> None:
        if self._dialect is None and not self._strange:
            self._speak(OpenAIChat)
        self._over = self._dialect is not None and self._dialect.ends_with_done
        self._conclude()

    def _note_facts(self, event: Json) -> None:
        usage = usage_in(event)
        if usage is not None:
            self.usage = merged(self.usage, usage)
        if not self.model:
            self.model = model_in(event)

    def _read_large(self, head: bytes) -> None:
        """Take in an event by its beginning."""
        name, _ = self._unwrapped(head)
        kind = _KIND.search(head)
        event: dict[str, object] = {"type": kind[1].decode()} if kind else {}
        ends = bool(_ENDS.search(head))
        event |= {key: ends for key in ("done", "stop") if b'"%b"' % key.encode() in head}
        event |= {key: [] for key in ("choices", "candidates") if b'"%b"' % key.encode() in head}
        is_data = self._understand(name, event)
        typed = self._dialect is not None and self._dialect.delta_head is not None
        if is_data or not (typed or ends):
            self.events += 1

    # -- the everyday path ----------------------------------------------------------------------

    def _learn(self, record: bytes) -> None:
        """Remember how a data event looks, unless what is remembered proves good."""
        self._read_since += 1
        matched = self.events - self._learned_at - self._read_since
        if self._learned_at >= 0 and matched <= 0 and self._read_since < self._patience:
            return
        self._patience = _FIRST_PATIENCE if matched > 0 else min(2 * self._patience, _MAX_PATIENCE)
        terminator = self._terminator_of(record)
        head = None if self._dialect is None else self._dialect.delta_head
        self._usual = learn(record, terminator, head) if terminator else None
        self._learned_at, self._read_since = self.events, 0
