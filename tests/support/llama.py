"""How do a test and a reader get a real llama.cpp server? `python -m tests.support.llama`.

It writes a tiny random model, serves it on 127.0.0.1, prints its URL when it is ready, and ends
with Ctrl-C. The fixture `llama_server` runs the same in a process of its own.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import xllamacpp

from tests.support.tiny_model import write_tiny_model

DEFAULT_SLOTS = 3
_CONTEXT_PER_SLOT = 2048  # tokens, prompt and answer together
_STOP_S = 10.0  # far more than the server needs (measured: 0.05 s)
_LOG_ERRORS_ONLY = 1  # llama.cpp's verbosity: 0 output, 1 errors, 2 warnings, 3 all


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """A llama.cpp server that is ready."""

    url: str
    """Its base URL; `/v1` below it is the OpenAI-compatible part."""
    slots: int
    """How many inferences it runs at once; more wait in its own queue."""


def start(model: Path, port: int, slots: int) -> xllamacpp.Server:
    """Start a server in this process; it is ready on return. Port 0 lets the system choose."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {"tiny-random"}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_parallel = slots
    parameters.n_ctx = _CONTEXT_PER_SLOT * slots
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = False
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = True
    parameters.verbosity = _LOG_ERRORS_ONLY
    return xllamacpp.Server(parameters)


def health(url: str) -> int:
    """The status of GET /health; 200 means ready."""
    with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
        status: int = response.status
        return status


def serve(port: int, slots: int) -> None:
    """Serve until SIGINT or SIGTERM; the first line printed is the URL."""
    # Blocked before the server's threads start, so that they inherit it and only we wait for it.
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with tempfile.TemporaryDirectory(prefix="tiny-model-") as folder:
        model = Path(folder) / "tiny.gguf"
        write_tiny_model(model)
        try:
            server = start(model, port, slots)
        except RuntimeError as error:  # says nothing of its own; the server has logged why
            raise SystemExit(f"no llama.cpp server on port {port}, see above: {error}") from None
        url = server.listening_address
        assert health(url) == 200
        print(url, flush=True)
        signal.sigwait(ends)
        del server  # its end closes the listener and joins its threads


@pytest.fixture(scope="session")
def llama_server() -> Iterator[LlamaServer]:
    """A real llama.cpp server with 3 slots, in a process of its own, for the whole session."""
    command = [sys.executable, "-m", "tests.support.llama", "--port", "0"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()  # comes when it is ready, or never
        assert url, "the llama.cpp server did not start; its reason is above"
        yield LlamaServer(url, DEFAULT_SLOTS)
        process.send_signal(signal.SIGINT)
        assert process.wait(_STOP_S) == 0


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.llama", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=8081, help="default: 8081; 0: the system chooses"
    )
    parser.add_argument("--slots", type=int, default=DEFAULT_SLOTS, help="default: 3")
    options = parser.parse_args()
    serve(options.port, options.slots)


if __name__ == "__main__":
    main()
