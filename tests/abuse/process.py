"""How does a real sidecar look from outside while it is attacked? Process, log and metrics."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.abuse.sockets import ask, connect
from tests.e2e.harness import Scrape

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_QUIET_S = 10.0


@dataclass
class Sidecar:
    """A sidecar in a process of its own."""

    process: subprocess.Popen[str]
    proxy: int
    admin: int
    log: Path
    before: Scrape | None = None

    @contextlib.contextmanager
    def attacked(self) -> Iterator[None]:
        """Count from now on; when the block is left nothing may be left of the attack."""
        self.before = self.metrics()
        yield
        self.until_quiet()

    # -- what it says -------------------------------------------------------------------------

    def admin_get(self, path: str, *fields: str) -> bytes:
        """The body of an answer of the admin port."""
        lines = [f"GET {path} HTTP/1.1", "Host: a", "Connection: close", *fields, "", ""]
        answer = ask(self.admin, "\r\n".join(lines).encode())
        return answer.partition(b"\r\n\r\n")[2]

    def metrics(self) -> Scrape:
        """What `/metrics` says."""
        return Scrape(self.admin_get("/metrics").decode())

    def gained(self, name: str, **labels: str) -> float:
        """By how much a counter has grown since the attack began."""
        assert self.before is not None
        return self.metrics().value(name, **labels) - self.before.value(name, **labels)

    def lines(self) -> list[dict[str, Any]]:
        """Everything it has logged; each line must be one JSON object."""
        text = self.log.read_bytes()
        assert text.endswith(b"\n") or not text
        return [json.loads(line) for line in text.split(b"\n")[:-1]]

    # -- what it costs ------------------------------------------------------------------------

    def cpu_s(self) -> float:
        """CPU time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def resident_bytes(self) -> int:
        """Memory in RAM."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024

    def open_files(self) -> int:
        """Open file descriptors."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    # -- waiting ------------------------------------------------------------------------------

    def until_gained(self, name: str, wanted: float, **labels: str) -> None:
        """Wait until a metric has grown so far; another process tells of nothing."""
        deadline_s = time.monotonic() + _QUIET_S
        while (seen := self.gained(name, **labels)) < wanted:
            assert time.monotonic() < deadline_s, f"{name} {labels} is {seen}, not {wanted}"

    def until_quiet(self, clients: int = 0) -> None:
        """Wait until nothing is left but so many clients: no request, no slot, no held byte."""
        deadline_s = time.monotonic() + _QUIET_S
        while True:
            seen = self.metrics()
            left = {
                "clients": max(0, seen.value("connections", side="client") - clients),
                "backend": seen.value("connections", side="upstream_busy"),
                "in_flight": seen.value("in_flight"),
                "waiting": seen.value("waiting"),
                "held": seen.value("queue_held_bytes"),
            }
            if not any(left.values()):
                break
            assert time.monotonic() < deadline_s, left
        # Each connection that ever was has ended, once.
        ended = seen.value("client_connections_ended_total")
        assert seen.value("client_connections_total") - ended <= clients


@contextlib.contextmanager
def sidecar(
    upstream: str, settings: Mapping[str, object] = {}, *, open_files: int | None = None
) -> Iterator[Sidecar]:
    """Run a sidecar in front of `upstream`; `open_files` is its limit of them (RLIMIT_NOFILE)."""
    words = [sys.executable, "-m", "sidecar", "run", "--upstream", upstream]
    words += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log.format", "json"]
    words += ["--drain-s", "0"]
    for key, value in settings.items():
        words += [f"--{key}".replace("_", "-"), str(value)]
    if open_files is not None:
        words = ["sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh", *words]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as errors:
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            proxy, admin = _ports(process, log)
            attacked = Sidecar(process, proxy, admin, log)
            attacked.before = attacked.metrics()
            yield attacked
            assert process.poll() is None, log.read_text()
            assert "Traceback" not in log.read_text()
        finally:
            process.terminate()  # politely: it has to write down what coverage saw
            try:
                process.communicate(timeout=_QUIET_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _ports(process: subprocess.Popen[str], log: Path) -> tuple[int, int]:
    assert process.stdout is not None
    ports: list[str] = []
    while len(ports) < 2:
        line = process.stdout.readline()
        assert line, f"it ended before it said where it listens: {log.read_text()}"
        ports += re.findall(r"^  (?:proxy|admin)  https?://127\.0\.0\.1:(\d+)", line)
    with connect(int(ports[0])):
        pass
    return int(ports[0]), int(ports[1])
