"""Does the image work as a locked-down container in front of a real backend?"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidecar import __version__
from tests.support.llama import LlamaServer
from tests.system import chat
from tests.system.conftest import Record
from tests.system.engine import Engine
from tests.system.waiting import answers, free_port, text_of, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

_MEMORY_LIMIT = "128m"
_START_S = 20.0  # measured: 1 s
_STOP_S = 5.0  # measured: 0.3 s


@dataclass(frozen=True, slots=True)
class Container:
    """The sidecar in a container on the host's network."""

    name: str
    proxy: str
    admin: str


@contextmanager
def _started(engine: Engine, image: str, upstream: str) -> Iterator[Container]:
    name, proxy, admin = f"sidecar-{free_port()}", free_port(), free_port()
    engine.docker(
        "run", "--detach", f"--name={name}", "--network=host", "--read-only", "--cap-drop=ALL",
        "--security-opt=no-new-privileges", f"--memory={_MEMORY_LIMIT}", "--pids-limit=64",
        "--health-interval=1s", f"--env=SIDECAR_UPSTREAM={upstream}",
        f"--env=SIDECAR_LISTEN=127.0.0.1:{proxy}", f"--env=SIDECAR_ADMIN=127.0.0.1:{admin}", image,
    )  # fmt: skip
    try:
        container = Container(name, f"http://127.0.0.1:{proxy}", f"http://127.0.0.1:{admin}")
        until(lambda: _is_ready(engine, container), _START_S, "the sidecar is ready")
        yield container
    except BaseException:
        print(f"logs of {name}:", engine.logs(name), sep="\n")
        raise
    finally:
        engine.docker("rm", "--force", name)


def _is_ready(engine: Engine, container: Container) -> bool:
    assert _inspect(engine, container.name)["State"]["Running"], "the sidecar ended by itself"
    return answers(f"{container.admin}/readyz")


@pytest.fixture(scope="module")
def container(engine: Engine, image: str, llama_server: LlamaServer) -> Iterator[Container]:
    """The image, running in front of a real llama.cpp server."""
    with _started(engine, image, llama_server.url) as container:
        yield container


def _inspect(engine: Engine, name: str) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(engine.docker("inspect", name))[0]
    return described


def test_the_image_says_what_it_is(engine: Engine, image: str) -> None:
    """Version, licence and revision stand in the labels, the version is the program's."""
    labels = _inspect(engine, image)["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert "org.opencontainers.image.revision" in labels
    told = engine.docker("run", "--rm", "--network=none", image, "--version")
    assert told == f"openclaw-sidecar {__version__}"


def test_nothing_that_installs_is_in_the_image(engine: Engine, image: str) -> None:
    """The environment in the image holds what runs, neither pip nor the build backend."""
    code = "import importlib.metadata as m; print(*[d.name.lower() for d in m.distributions()])"
    python = "--entrypoint=/app/.venv/bin/python"
    names = engine.docker("run", "--rm", "--network=none", python, image, "-c", code).split()
    assert "openclaw-sidecar" in names
    assert not {"pip", "hatchling", "pytest", "uv"} & set(names)


def test_it_runs_without_any_privilege(engine: Engine, container: Container) -> None:
    """As user 65532, without capabilities, unable to gain any, and with system calls filtered."""
    pid = _inspect(engine, container.name)["State"]["Pid"]
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert status["Uid"].split() == ["65532"] * 4
    assert status["Gid"].split() == ["65532"] * 4
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_its_health_check_turns_healthy(engine: Engine, container: Container) -> None:
    """The program checks itself; no curl and no shell are needed for it."""

    def healthy() -> bool:
        state: str = _inspect(engine, container.name)["State"]["Health"]["Status"]
        return state == "healthy"

    until(healthy, 30, "the container is healthy")


def test_completions_get_through(container: Container) -> None:
    """A plain and a streamed chat completion of a real llama.cpp server arrive whole."""
    assert chat.plain(container.proxy)
    events = chat.streamed(container.proxy)
    assert events[-1] == "[DONE]"
    assert len(events) > 4


def test_metrics_count_what_passed(container: Container) -> None:
    """`/metrics` of the container counts the completions it carried."""
    before = _successes(container)
    chat.plain(container.proxy)
    until(lambda: _successes(container) == before + 1, 5, "the request is counted")


def _successes(container: Container) -> float:
    wanted = 'openclaw_sidecar_requests_total{outcome="ok",route="inference"}'
    for line in text_of(f"{container.admin}/metrics").splitlines():
        if line.startswith(wanted):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"{wanted} is missing")


def test_it_stops_promptly(
    engine: Engine, image: str, llama_server: LlamaServer, record: Record
) -> None:
    """SIGTERM ends an idle container at once, with exit code 0; figures are taken on the way."""
    start_s = time.monotonic()
    with _started(engine, image, llama_server.url) as container:
        ready_s = time.monotonic() - start_s
        chat.streamed(container.proxy)
        memory = engine.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container.name)
        stop_s = time.monotonic()
        engine.docker("stop", "--time=30", container.name)
        stop_s = time.monotonic() - stop_s
        assert _inspect(engine, container.name)["State"]["ExitCode"] == 0
    assert stop_s < _STOP_S
    record(f"container: ready in {ready_s:.2f} s, stopped in {stop_s:.2f} s")
    record(f"memory after one stream: {memory}")
