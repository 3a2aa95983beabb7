"""On what, and when, was it measured? What a reader needs to judge a run."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from sidecar import __version__
from tests.bench.contenders import LITELLM_WHEEL, ROOT, Contender, find, shipped_folder
from tests.bench.goals import MAX_FOREIGN_CORES

_VERSION_FLAG = {"haproxy": "-v", "nginx": "-v", "envoy": "--version", "traefik": "version",
                 "caddy": "version"}  # fmt: skip
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)?")


class Bystanders:
    """How much CPU do others use, on all cores together? Counts from when it is made."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._others_s = _busy_s() - _own_s()

    def cores(self) -> float:
        """How many cores they kept busy, once all our processes have ended."""
        others_s = _busy_s() - _own_s() - self._others_s
        return max(0.0, others_s / (time.monotonic() - self._began_s))


def _busy_s() -> float:
    """CPU time that the whole machine has used, stolen time included (proc(5), /proc/stat)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    """CPU time that this process and its ended children have used."""
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system


def load_average() -> float:
    """Processes that ran or wanted to, over the last minute."""
    return os.getloadavg()[0]


_TOO_BUSY = "too much to trust times: read the ratios"


def facts(
    contenders: Sequence[Contender], load_before: float, foreign_cores: float, took_s: float
) -> dict[str, str]:
    """What stands at the top of a result."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, the run took {took_s:.0f} s",
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "others": f"load average {load_before:.2f} before the run; during it others used "
        f"{foreign_cores:.2f} cores"
        + (f", {_TOO_BUSY}" if foreign_cores > MAX_FOREIGN_CORES else ""),
        "sidecar": f"{__version__}{_commit()}, Python {platform.python_version()}, "
        f"uvloop {version('uvloop')}, {_environment()}",
        "peers": ", ".join(_named_version(one) for one in contenders if one.name != "sidecar"),
    }


def _environment() -> str:
    if shipped_folder().exists():
        return "only requirements.txt installed"
    return "development tools installed (make bench ARGS=--install leaves them out)"


def _cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _commit() -> str:
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=ROOT, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return f" ({said.stdout.strip()})"


def _named_version(contender: Contender) -> str:
    if contender.name == "litellm":
        return LITELLM_WHEEL.replace("[proxy]==", " ")
    if contender.program is None:
        return f"{contender.name} (aiohttp {version('aiohttp')})"
    program = find(contender.program)
    if program is None:
        return contender.name
    said = subprocess.run(
        [program, _VERSION_FLAG[contender.program]],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    found = _VERSION.search(said.stdout + said.stderr)
    return f"{contender.name} {found[0] if found else '?'}"
