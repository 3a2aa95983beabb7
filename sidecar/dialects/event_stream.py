"""What does a stream of server-sent events say? How its events are told apart.

Source: WHATWG HTML, 9.2 "Server-sent events": lines end with LF, CRLF or CR, an empty line ends an
event, lines that begin with a colon are comments.
"""

from __future__ import annotations

import re

from sidecar.dialects.anthropic import AnthropicMessages
from sidecar.dialects.errors import error_in
from sidecar.dialects.gemini import Gemini
from sidecar.dialects.llama_cpp import LlamaCpp
from sidecar.dialects.openai_chat import OpenAIChat
from sidecar.dialects.openai_responses import OpenAIResponses
from sidecar.dialects.reading import json_object
from sidecar.dialects.records import behind_empty_lines
from sidecar.dialects.streams import StreamJudge

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")
# Atomic groups: the LF of a CRLF is no line end of its own.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LF, _CR, _COLON = 0x0A, 0x0D, 0x3A

# Some clients split at empty lines before they look for comments, so it brings its own. The clients
# that read it: see tests/dialects/test_sdks.py.
_HEARTBEAT = b": waiting\n\n"


class EventStreamJudge(StreamJudge):
    """Judges `text/event-stream`."""

    __slots__ = ()

    candidates = (OpenAIChat, OpenAIResponses, AnthropicMessages, Gemini, LlamaCpp)
    overlap = 2  # CR LF, of CR LF CR: with its third byte the empty line is there

    def heartbeat(self) -> bytes:
        """A comment."""
        return _HEARTBEAT

    def _end_of(self, data: bytes | bytearray, at: int) -> int:
        first = data[at]
        if first in (_LF, _CR):
            return behind_empty_lines(data, at)  # more of them than needed
        if first == _COLON:
            line_end = _LINE_END.search(data, at)
            return line_end.end() if line_end else -1
        return _end_of_event(data, at)

    def _has_end(self, data: bytearray, at: int) -> bool:
        if data[0] == _COLON:
            return _LINE_END.search(data, at) is not None
        return _end_of_event(data, at) >= 0

    def _end_behind(self, data: bytearray) -> int:
        return _end_of_event(data, 0)

    def _keep(self, rest: bytes) -> None:
        if (self._pending or rest)[0] == _COLON:
            self._pending[:] = b":"  # nobody reads a comment
        else:
            super()._keep(rest)

    def _terminator_of(self, record: bytes | bytearray) -> bytes:
        for terminator in (b"\n\n", b"\r\n\r\n"):
            if record.endswith(terminator):
                return terminator
        return b""

    def _unwrapped(self, record: bytes) -> tuple[str, bytes]:
        if record[:1] in b"\r\n":
            return "", b""
        if record.startswith(b"data:") and record.find(b"\n") == len(record) - 2:
            return "", record[5:]  # most records are one line
        name, lines = "", []
        for line in record.removeprefix(_BYTE_ORDER_MARK).splitlines():
            field, _, value = line.partition(b":")
            if field == b"data":
                lines.append(value)
            elif field == b"event":
                name = value.strip().decode("ascii", "replace")
            elif _is_stray_error(field, line):
                return "error", line[line.find(b"{") :]
        return name, b"\n".join(lines)


def _end_of_event(data: bytes | bytearray, at: int) -> int:
    """Where the first empty line behind `at` ends; -1 when there is none."""
    blank = data.find(b"\n\n", at)
    if data.find(b"\r", at, blank if blank >= 0 else len(data)) < 0:
        return blank + 2 if blank >= 0 else -1
    match = _BLANK_LINE.search(data, at)
    return match.end() if match else -1


def _is_stray_error(field: bytes, line: bytes) -> bool:
    """Whether a line that belongs to no event tells of an error.

    llama.cpp until 2025 wrote `error: {...}` (server_sent_event). Ollama's /v1 writes
    `{"error": ...}` without a field name (server/routes.go, streamResponse).
    """
    if field == b"error":
        return True
    if line[:1] != b"{":
        return False
    body = json_object(line)
    return body is not None and error_in(body) is not None
