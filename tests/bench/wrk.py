"""How does wrk put a proxy under load? Its Lua script, and what it reports."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contenders import REQUEST_BODY, REQUEST_HEADERS, require
from tests.bench.process import BenchError


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw. Latencies in microseconds; `errors` counts requests that got no answer."""

    requests: int
    duration_s: float
    not_2xx: int
    errors: int
    p50_us: float
    p99_us: float

    @property
    def requests_per_s(self) -> float:
        """Answers per second."""
        return self.requests / self.duration_s


def script(think_ms: tuple[int, int] | None = None) -> str:
    """The Lua script; with `think_ms` each connection pauses so long between two requests."""
    fields = "\n".join(f'wrk.headers["{k}"] = "{v}"' for k, v in REQUEST_HEADERS.items())
    pause = ""
    if think_ms is not None:
        pause = f"function delay() return math.random({think_ms[0]}, {think_ms[1]}) end\n"
    return f"""\
wrk.method = "POST"
wrk.body = '{REQUEST_BODY % "false"}'
{fields}
{pause}function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{{"requests":%d,"duration_us":%d,"status":%d,"errors":%d,"p50":%d,"p99":%d}}\\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


def parse(output: str) -> Load:
    """Read the line that the script's `done` printed."""
    line = output.strip().splitlines()[-1]
    if not line.startswith("{"):
        raise BenchError(f"wrk said: {line}")
    seen = json.loads(line)
    return Load(
        requests=seen["requests"],
        duration_s=seen["duration_us"] / 1e6,
        not_2xx=seen["status"],
        errors=seen["errors"],
        p50_us=seen["p50"],
        p99_us=seen["p99"],
    )


def run(url: str, script_path: Path, *, connections: int, seconds: float) -> Load:
    """Load that URL from this process's core."""
    argv = [require("wrk"), "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s"]
    done = subprocess.run(
        [*argv, "-s", str(script_path), url],
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"wrk exited with {done.returncode}: {done.stderr.strip()[-300:]}")
    return parse(done.stdout)
