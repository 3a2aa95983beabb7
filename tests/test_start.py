"""What does a start cost? Not measured in seconds here, but in what is loaded and what stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from sidecar.cli import main

# What only reading the settings needs. Together they would be a third of the resident memory.
SETTINGS_LIBRARIES = {"pydantic", "pydantic_core", "pydantic_settings", "annotated_types", "dotenv",
                      "typing_inspection", "yaml"}  # fmt: skip

# Runs the program, then says what it has loaded.
DRIVER = """
import os, sys
from sidecar.cli import main
code = main(sys.argv[1:])
print("modules", *sys.modules)
if "aiohttp.connector" in sys.modules:
    contexts = vars(sys.modules["aiohttp.connector"])
    authorities = [contexts[name].cert_store_stats()["x509_ca"]
                   for name in ("_SSL_CONTEXT_VERIFIED", "_SSL_CONTEXT_UNVERIFIED")]
    print("authorities", *authorities)
print("variable", os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
sys.exit(code)
"""


@contextlib.contextmanager
def started(*argv: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed when the block is left and it still runs."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("SIDECAR_")}
    with subprocess.Popen(
        [sys.executable, *argv], env=clean, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def run_until_ready(argv: list[str]) -> dict[str, list[str]]:
    """Run the sidecar until it says where it listens; what the driver says then, by first word."""
    ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with started("-c", DRIVER, *argv, *ports) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Ctrl-C"):
                break
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    return {words[0]: words[1:] for words in map(str.split, out.splitlines())}


def test_what_serves_holds_no_settings_libraries(tmp_path: Path) -> None:
    """A sidecar is small: what read its settings has gone with the process that did."""
    path = tmp_path / "sidecar.yaml"
    path.write_text("upstream: http://127.0.0.1:9\n")
    loaded = set(run_until_ready(["run", "--config", str(path)])["modules"])
    assert {"aiohttp", "structlog", "prometheus_client", "asyncio"} <= loaded
    assert not loaded & {*SETTINGS_LIBRARIES, "sidecar.settings.model", "sidecar.demo.backend"}


def test_the_demo_holds_no_settings_libraries() -> None:
    """Neither does the demo."""
    assert not set(run_until_ready(["demo"])["modules"]) & SETTINGS_LIBRARIES


def test_authorities_are_not_read_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without TLS the system's authorities take no memory; the variables that name them stay."""
    authorities = tmp_path / "authorities.pem"
    trustme.CA().cert_pem.write_to_path(str(authorities))
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    said = run_until_ready(["run", "--upstream", "http://127.0.0.1:9"])
    assert said["authorities"] == ["0", "0"]
    assert said["variable"] == [str(authorities), "None"]


def test_check_reads_no_yaml_without_a_file() -> None:
    """What is not needed is not loaded."""
    with started("-c", DRIVER, "check") as process:
        out, _ = process.communicate(timeout=20)
    assert "sidecar.settings.model" in out
    assert not {"yaml", "aiohttp", "uvloop"} & set(out.split())


# -- the process that reads the settings -------------------------------------------------------


@pytest.fixture
def silent_file(tmp_path: Path) -> Path:
    """A file that never comes to an end, so that whoever reads it waits."""
    path = tmp_path / "sidecar.yaml"
    os.mkfifo(path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="finds the second process in /proc")
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        # Short of memory, the kernel ends a process like that.
        (
            signal.SIGKILL,
            1,
            "openclaw-sidecar run: ended by signal 9 while the settings were read\n",
        ),
        (signal.SIGINT, 130, ""),  # whoever presses Ctrl-C knows why
    ],
)
def test_a_reader_that_is_ended_ends_the_start(
    silent_file: Path, number: signal.Signals, code: int, said: str
) -> None:
    """Without settings nothing starts, and nothing stays behind."""
    with (
        started("-m", "sidecar", "run", "--config", str(silent_file)) as process,
        silent_file.open("w"),  # opens when the reader has opened its end
    ):
        (reader,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(reader), number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (code, "", said)


def test_no_more_processes_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the number of processes is limited, the reason is told."""

    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    assert main(["run"]) == 1
    said = capsys.readouterr().err
    assert said == (
        "openclaw-sidecar run: no process can be started: Resource temporarily unavailable\n"
    )
