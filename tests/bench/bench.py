"""What do all measures share? Paces, sizes, and the processes they need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import configs
from tests.bench.contenders import (
    FIND_US,
    Contender,
    Running,
    await_answer,
    duty_in,
    nginx_command,
    python_module,
    running,
)
from tests.bench.figures import Figures
from tests.bench.origin import PLAIN_BODY
from tests.bench.process import BenchError, Process, free_port

# A limit that binds nobody: where the cost of carrying is measured, nobody shall wait.
UNBOUND = 4000


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how long; wrk knows whole seconds only."""

    rounds: int
    start_rounds: int
    load_s: int
    stream_s: float
    herd_rounds: int
    herd_s: float
    latency_rounds: int
    latency_of: frozenset[str] | None
    herd_of: frozenset[str] | None
    """Who takes part in what takes long; None for everybody."""


FULL = Pace(
    rounds=5, start_rounds=5, load_s=2, stream_s=1.4, herd_rounds=3, herd_s=2.5,
    latency_rounds=5, latency_of=None, herd_of=None,
)  # fmt: skip
QUICK = Pace(
    rounds=2, start_rounds=2, load_s=1, stream_s=0.7, herd_rounds=1, herd_s=1.5,
    latency_rounds=2, latency_of=frozenset({"sidecar", "haproxy", "envoy"}),
    herd_of=frozenset({"sidecar", "haproxy"}),
)  # fmt: skip


@dataclass(slots=True)
class Bench:
    """What all measures share."""

    pace: Pace
    contenders: Sequence[Contender]
    proxy_core: int
    load_core: int
    folder: Path
    figures: Figures
    _folders: int = 0

    def new_folder(self, name: str) -> Path:
        """A folder for one process."""
        self._folders += 1
        path = self.folder / f"{self._folders:03d}-{name}"
        path.mkdir(parents=True)
        return path

    @contextlib.contextmanager
    def one(self, contender: Contender, upstream_port: int, limit: int) -> Iterator[Running]:
        """One contender, fresh."""
        duty = duty_in(self.new_folder(contender.name), upstream_port, limit)
        with running(contender, duty, self.proxy_core) as started:
            yield started

    @contextlib.contextmanager
    def all_of(
        self, contenders: Iterable[Contender], upstream_port: int
    ) -> Iterator[list[Running]]:
        """All at once, each idle but in its turn; one that does not start is told and left out."""
        with contextlib.ExitStack() as stack:
            fleet = []
            for contender in contenders:
                try:
                    fleet.append(stack.enter_context(self.one(contender, upstream_port, UNBOUND)))
                except BenchError as error:
                    self.figures.note(f"{contender.name} left out: {error}")
            yield fleet

    @contextlib.contextmanager
    def origin(self) -> Iterator[int]:
        """The backend that streams and counts; its port."""
        port, folder = free_port(), self.new_folder("origin")
        command = python_module("tests.bench.origin", str(port))
        with self._helper("origin", command.argv, folder, port):
            yield port

    @contextlib.contextmanager
    def plain_origin(self) -> Iterator[int]:
        """The backend that answers at once: nginx; its port."""
        port, folder = free_port(), self.new_folder("plain-origin")
        config = folder / "nginx.conf"
        config.write_text(configs.nginx_origin(port, PLAIN_BODY.decode(), folder))
        with self._helper("nginx", nginx_command(str(config), folder).argv, folder, port):
            yield port

    def process(self, name: str, argv: list[str], folder: Path, *, core: int) -> Process:
        """A process of ours, with its log in its folder."""
        return Process(name, argv, core=core, log=folder / "log", env=FIND_US, cwd=folder)

    @contextlib.contextmanager
    def _helper(self, name: str, argv: list[str], folder: Path, port: int) -> Iterator[None]:
        with self.process(name, argv, folder, core=self.load_core) as process:
            await_answer(process, port, 10)
            yield
