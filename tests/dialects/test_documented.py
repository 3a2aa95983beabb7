"""Does docs/dialects.md say what the code does?"""

from __future__ import annotations

import re
from pathlib import Path

from sidecar.admission.outcome import Said
from sidecar.dialects.event_stream import EventStreamJudge
from sidecar.dialects.lines import LinesJudge
from sidecar.dialects.records import MAX_EVENT_BYTES

PAGE = (Path(__file__).parents[2] / "docs" / "dialects.md").read_text()


def _first_column(heading: str) -> set[str]:
    """What stands first in each row of the table below a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \|", section, re.MULTILINE)
    return set(rows[2:])  # behind the head and its rule


def test_every_dialect_is_documented_with_its_source() -> None:
    """And no other."""
    names = {each.name for each in (*EventStreamJudge.candidates, *LinesJudge.candidates)}
    assert _first_column("Dialects") == names
    assert _first_column("Sources") == names


def test_everything_that_is_concluded_is_documented() -> None:
    """And nothing else."""
    assert _first_column("What is concluded") == {said.value for said in Said}


def test_the_largest_event_is_documented() -> None:
    """In KiB."""
    assert f"An event over {MAX_EVENT_BYTES // 1024} KiB" in PAGE
