"""Where does the image run? A private Docker engine of Debian's own package, gone after the tests.

It touches nothing of the machine's network: no bridge, no packet filter rules, no forwarding. So
builds and containers use the host's network.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system.waiting import until

_DOCKERD = "/usr/sbin/dockerd"
_DOCKER = "/usr/bin/docker"  # another client in /usr/local/bin may not fit Debian's engine
_READY_S = 60.0  # measured: 0.4 s
_STOP_S = 60.0  # measured: 0.3 s


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine, by its socket."""

    environment: dict[str, str]
    """What a Docker client must find in its environment to talk to this engine."""

    def docker(self, *arguments: str, within_s: float = 60) -> str:
        """Run the client; returns what it printed. Raises `AssertionError` with its complaint."""
        done = subprocess.run(
            [_DOCKER, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def logs(self, container: str) -> str:
        """What the container has written, to both its outputs."""
        command = [_DOCKER, "logs", container]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout + done.stderr

    def make_image(self, root: Path, image: str) -> float:
        """Build the project's image with `make image`; returns the seconds that took."""
        start_s = time.monotonic()
        variables = [f"DOCKER={_DOCKER}", f"IMAGE={image}", "ARGS=--network=host"]
        done = subprocess.run(
            ["make", "--no-print-directory", "image", *variables],
            cwd=root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"make image:\n{done.stdout}{done.stderr}"
        return time.monotonic() - start_s


@contextmanager
def running_engine() -> Iterator[Engine]:
    """Start an engine, and end it with all that it holds."""
    # Unix sockets' paths are limited to 107 bytes, so not in pytest's deep folders.
    with tempfile.TemporaryDirectory(prefix="engine-") as name:
        folder = Path(name)
        host = f"unix://{folder}/docker.sock"
        command = [_DOCKERD, "--bridge=none", "--iptables=false", "--ip6tables=false"]
        command += ["--ip-forward=false", f"--data-root={folder}/data", f"--host={host}"]
        command += [f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
        log = folder / "log"
        with (
            log.open("wb") as output,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            ) as process,
        ):
            engine = Engine(dict(os.environ) | {"DOCKER_HOST": host, "DOCKER_BUILDKIT": "1"})
            try:
                until(lambda: _is_up(engine, process), _READY_S, "the engine answers")
                yield engine
            except BaseException:
                print("the engine's log ends with:", *log.read_text().splitlines()[-15:], sep="\n")
                raise
            finally:
                process.terminate()
                process.wait(_STOP_S)
                _unmount_below(folder)


def _is_up(engine: Engine, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, f"dockerd ended with {process.returncode}"
    answer = subprocess.run(
        [_DOCKER, "version"], env=engine.environment, capture_output=True, timeout=30, check=False
    )
    return answer.returncode == 0


def _unmount_below(folder: Path) -> None:
    """Undo the mounts that the engine leaves behind; they would keep the folder from going."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{folder}/")]):
        subprocess.run(["umount", mount], check=True, timeout=30)
