"""How is one target fuzzed for some time? In a process of its own, with folders that last."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from tests.fuzz import outcome
from tests.fuzz.outcome import Outcome
from tests.fuzz.targets import TARGETS
from tests.proxy.grammar import PIECES

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".fuzz"
"""What one run leaves to the next, and to people: corpus, findings, logs."""

# Larger inputs only take more time: with a tight plan these fill every buffer there is.
_INPUT_MAX_BYTES = 4096
# One input takes a few milliseconds; one that takes so long never ends. So much memory is a leak.
_ENDLESS_S = 10
_MEMORY_MAX_MB = 1024
# What a run may take beyond its time: to read the code and to try the seeds, on a slow machine.
_GRACE_S = 120


def fuzz(name: str, seconds: int, runs: int | None) -> Outcome:
    """Fuzz one target until its time is over, or something is found."""
    findings, log = FOLDER / "findings", FOLDER / f"{name}.log"
    corpus, seeds = FOLDER / "corpus" / name, FOLDER / "seeds" / name
    for folder in (findings, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    _write_seeds(name, seeds)
    command = [
        sys.executable, "-m", "tests.fuzz.engine", name,
        f"-max_total_time={seconds}",
        *([] if runs is None else [f"-runs={runs}"]),
        "-keep_seed=1",  # each trick is one, also where it takes no way that others do not
        f"-dict={_dictionary()}", f"-max_len={_INPUT_MAX_BYTES}",
        f"-timeout={_ENDLESS_S}", f"-rss_limit_mb={_MEMORY_MAX_MB}",
        f"-artifact_prefix={findings}/{name}-", "-print_final_stats=1",
        str(corpus), str(seeds),
    ]  # fmt: skip
    with log.open("wb") as file:
        try:
            code = subprocess.run(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                timeout=seconds + _GRACE_S, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = -1
    result = outcome.read(log.read_text(errors="replace"))
    if code and not result.told:
        result = replace(result, told=f"ended with {code}; see {log.relative_to(ROOT)}")
    return result


def target_of(finding: Path) -> str | None:
    """The target in which a finding was made, by the name of its file."""
    names = [name for name in TARGETS if finding.name.startswith(f"{name}-")]
    return names[0] if names else None


def _write_seeds(name: str, folder: Path) -> None:
    """Afresh each time: they may have changed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for data in TARGETS[name].seeds().values():
        if len(data) <= _INPUT_MAX_BYTES:
            (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def _dictionary() -> Path:
    """What libFuzzer may put in, in its own notation."""
    path = FOLDER / "dictionary"
    lines = ["".join(f"\\x{byte:02x}" for byte in piece) for piece in PIECES]
    path.write_text("".join(f'"{line}"\n' for line in lines))
    return path
