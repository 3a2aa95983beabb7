"""What does a process cost? Starting it on a core, its CPU time, its memory, its end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"

# Long enough for a Go runtime or LiteLLM to go quietly on a busy machine: a guess.
_STOP_S = 5.0


class BenchError(Exception):
    """Something could not be measured; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time used so far, in seconds. `user_s + sys_s` is `total_s`."""

    total_s: float
    user_s: float
    sys_s: float

    def since(self, before: Cpu) -> Cpu:
        """What was used after `before`, split as precisely as clock ticks allow."""
        total_s = self.total_s - before.total_s
        user_s, sys_s = self.user_s - before.user_s, self.sys_s - before.sys_s
        ticks_s = user_s + sys_s
        share = user_s / ticks_s if ticks_s > 0 else 0.5
        return Cpu(total_s, total_s * share, total_s * (1 - share))


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in bytes; `pss` counts shared pages by the share of them."""

    rss: int
    pss: int


def cores() -> tuple[int, int]:
    """The core for the proxy and the one for load and backend.

    Raises `BenchError` where there is only one: its figures would mean nothing.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise BenchError("needs two cores: one for the proxy, one for the load and the backend")
    return allowed[0], allowed[1]


@contextlib.contextmanager
def pinned_to(core: int) -> Iterator[None]:
    """This process, and so what it starts, runs on one core while the block lasts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> int:
    """Allow as many open files as the system lets us, and return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A program that we started, in a session of its own; ended when the block is left."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        core: int,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.started_s = time.monotonic()
        # Installed programs are compiled: Python may keep what it compiles at a first start.
        own = {name: text for name, text in os.environ.items() if name != _NO_BYTECODE}
        with pinned_to(core), log.open("ab") as out:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**own, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check_alive(self) -> None:
        """Raises `BenchError` with the end of its log when it has exited."""
        code = self._popen.poll()
        if code is not None:
            raise BenchError(f"{self.name} exited with {code}: {self.log_tail()}")

    def log_tail(self) -> str:
        """The last thing it said."""
        text = self.log.read_text(errors="replace").strip()
        return " | ".join(text.splitlines()[-3:])[-400:] or "it said nothing"

    def stop(self) -> None:
        """End it and what it started: politely, then not."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._popen.poll() is not None:
                break
            # Its session is its own, so its process group holds nothing that we did not start.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_STOP_S)

    def pids(self) -> list[int]:
        """It and all its descendants."""
        found = [self._popen.pid]
        for pid in found:
            found.extend(_children(pid))
        return found

    def cpu(self) -> Cpu:
        """CPU time of it and its descendants, all threads."""
        total_s = user_s = sys_s = 0.0
        for pid in self.pids():
            with contextlib.suppress(OSError):  # ended meanwhile
                # The kernel's CPU clock of another process (clock_getcpuclockid(3)) is exact to
                # the nanosecond; the ticks in /proc are only good for the split.
                total_s += time.clock_gettime((~pid << 3) | 2)
                user, system = cpu_ticks(Path(f"/proc/{pid}/stat").read_text())
                user_s += user / _TICKS_PER_S
                sys_s += system / _TICKS_PER_S
        return Cpu(total_s, user_s, sys_s)

    def memory(self) -> Memory:
        """Resident memory of it and its descendants."""
        rss = pss = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):  # ended meanwhile
                rollup = memory_of_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())
                rss += rollup.rss
                pss += rollup.pss
        return Memory(rss, pss)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # ended meanwhile
            children.extend(map(int, task.read_text().split()))
    return children


def cpu_ticks(stat: str) -> tuple[int, int]:
    """User and system clock ticks of all threads in the text of /proc/PID/stat (proc(5))."""
    fields = stat.rpartition(")")[2].split()  # the name before may hold spaces
    return int(fields[11]), int(fields[12])


def memory_of_rollup(text: str) -> Memory:
    """The sums in the text of /proc/PID/smaps_rollup (proc(5))."""
    kilobytes = {
        line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if " kB" in line
    }
    return Memory(kilobytes["Rss"] * 1024, kilobytes["Pss"] * 1024)
