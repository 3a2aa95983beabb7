"""What does a stream of JSON lines say? One object per line (NDJSON): Ollama."""

from __future__ import annotations

from sidecar.dialects.ollama import Ollama
from sidecar.dialects.records import behind_empty_lines
from sidecar.dialects.streams import StreamJudge


class LinesJudge(StreamJudge):
    """Judges `application/x-ndjson`. Whatever could be inserted would have to be an object."""

    __slots__ = ()

    candidates = (Ollama,)
    overlap = 1

    def _end_of(self, data: bytes | bytearray, at: int) -> int:
        if data[at] in b"\r\n":
            return behind_empty_lines(data, at)
        return data.find(b"\n", at) + 1 or -1

    def _has_end(self, data: bytearray, at: int) -> bool:
        return data.find(b"\n", at) >= 0

    def _end_behind(self, data: bytearray) -> int:
        return data.find(b"\n") + 1 or -1

    def _terminator_of(self, record: bytes | bytearray) -> bytes:
        return b"\n" if record.endswith(b"\n") else b""

    def _unwrapped(self, record: bytes) -> tuple[str, bytes]:
        return "", record.strip()
