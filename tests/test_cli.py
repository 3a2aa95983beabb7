"""The command line: what each command prints, and the exit code it ends with."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from sidecar import __version__
from sidecar.admin.views import StatusFacts, status_dict
from sidecar.admission.answers import Permit, Subject
from sidecar.admission.config import BreakerConfig, BreakerMode, GuardConfig, QueueConfig
from sidecar.admission.guard import Guard
from sidecar.admission.outcome import Outcome, OutcomeLabel, Verdict
from sidecar.cli import main
from sidecar.settings.catalog import SETTINGS
from sidecar.settings.load import effective, load
from sidecar.telemetry.recent import RecentRefusal
from tests.support.guards import LOADING

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs the command line, with no SIDECAR_ variables but those given."""
    for name in [name for name in os.environ if name.startswith("SIDECAR_")]:
        monkeypatch.delenv(name)

    def run(*argv: str, **environ: str) -> Ended:
        for name, text in environ.items():
            monkeypatch.setenv(name, text)
        if argv[:1] in (("run",), ("demo",)):  # these make a second process
            ended = program("-m", "sidecar", *argv)
            return Ended(ended.returncode, ended.stdout, ended.stderr)
        code = main(argv)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


def program(*argv: str) -> subprocess.CompletedProcess[str]:
    """Runs the program as users do, in a process of its own."""
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, cwd=ROOT, check=False, timeout=20
    )


# -- help and wrong use -----------------------------------------------------------------------


def test_version(cli: Cli) -> None:
    """--version tells the version and nothing else."""
    assert cli("--version") == Ended(0, f"openclaw-sidecar {__version__}\n", "")


def test_help_lists_commands_with_examples(cli: Cli) -> None:
    """A newcomer sees all commands and can copy a first one."""
    ended = cli("--help")
    assert ended.code == 0
    for command in ("run", "check", "config", "demo", "status", "healthcheck"):
        assert f"\n  {command} " in ended.out
    assert "openclaw-sidecar run --upstream http://" in ended.out


@pytest.mark.parametrize("command", ["run", "check", "config", "demo"])
def test_help_of_a_command_names_every_setting(cli: Cli, command: str) -> None:
    """Every setting is a flag of every command that reads the configuration."""
    ended = cli(command, "--help")
    assert ended.code == 0
    assert "examples:" in ended.out
    assert "--config FILE" in ended.out
    for setting in SETTINGS.values():
        assert f"  {setting.flag} " in ended.out


@pytest.mark.parametrize("command", ["status", "healthcheck"])
def test_help_of_asking_commands(cli: Cli, command: str) -> None:
    """They need the admin address only."""
    ended = cli(command, "--help")
    assert ended.code == 0
    assert "--admin ADDRESS" in ended.out
    assert "examples:" in ended.out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "openclaw-sidecar: a command is missing: run, check, config, demo, status"),
        (("rnu",), "openclaw-sidecar: unknown command 'rnu'; did you mean run?"),
        (("xyz",), "openclaw-sidecar: unknown command 'xyz'; commands are run, check"),
        (("--upstream", "x"), "openclaw-sidecar: the command comes first, such as: "),
        (("run",), "openclaw-sidecar run: upstream: must be set: --upstream or SIDECAR_UPSTREAM"),
        (("run", "--upstream"), "openclaw-sidecar run: argument --upstream: expected one argument"),
        (("check", "--listen", "x"), "openclaw-sidecar check: --listen = x: must be HOST:PORT"),
        (("check", "x"), "openclaw-sidecar check: x: stands where a flag is expected"),
        (
            ("check", "--max-concurent", "5"),
            "openclaw-sidecar check: --max-concurent: unknown flag; did you mean --max-concurrent?",
        ),
        (
            ("check", "--open-s=5"),
            "openclaw-sidecar check: --open-s: unknown flag; did you mean --breaker.open-s?",
        ),
        (
            ("config", "--jsn"),
            "openclaw-sidecar config: --jsn: unknown flag; did you mean --json?",
        ),
        (("config", "--schema", "--json"), "openclaw-sidecar config: argument --json: not allowed"),
        (("config", "--schema", "--x"), "openclaw-sidecar config: --x: unknown flag"),
        (
            ("status", "--admni", "x"),
            "openclaw-sidecar status: --admni: unknown flag; did you mean --admin?",
        ),
        (("status", "--admin", "9091"), "openclaw-sidecar status: --admin = 9091: must be HOST"),
        (("healthcheck", "--admin", ":0"), "openclaw-sidecar healthcheck: --admin = :0: must name"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(cli: Cli, argv: tuple[str, ...], said: str) -> None:
    """Never a traceback, never a page of usage."""
    ended = cli(*argv)
    assert ended.code == 2
    assert ended.err.startswith(said)
    assert ended.err.count("\n") == 1
    assert ended.out == ""


def test_several_mistakes_are_listed_together(cli: Cli, tmp_path: Path) -> None:
    """Flags, variables and the file are checked in one go."""
    path = tmp_path / "sidecar.yaml"
    path.write_text("drain: 5\n")
    ended = cli(
        "run",
        "--config",
        str(path),
        "--max-concurent",
        "5",
        "--queue.timeout-s=never",
        SIDECAR_LISTEN="here",
    )
    assert ended.code == 2
    assert ended.err.splitlines() == [
        "openclaw-sidecar run: 5 mistakes",
        "  --max-concurent: unknown flag; did you mean --max-concurrent?",
        f"  {path}:1: drain: unknown key; did you mean drain_s?",
        "  --queue.timeout-s = never: must be a number",
        "  SIDECAR_LISTEN = here: must be HOST:PORT, :PORT for all interfaces, or unix:PATH",
        "  upstream: must be set: --upstream or SIDECAR_UPSTREAM or a key in the file",
    ]


# -- check and config -------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_check_passes_on_every_file_we_ship(cli: Cli, path: Path) -> None:
    """The presets are good as they are."""
    ended = cli("check", "--config", str(path))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("the configuration is good\n")


def test_check_says_when_run_would_need_more(cli: Cli) -> None:
    """A file may leave the backend to the environment; one is reminded."""
    assert "run also needs --upstream" in cli("check").out
    assert "needs" not in cli("check", "--upstream", "http://x").out


def test_config_shows_each_value_with_its_source(cli: Cli, tmp_path: Path) -> None:
    """One sees what is in force and where to change it."""
    path = tmp_path / "sidecar.yaml"
    path.write_text("breaker:\n  open_s: 30\n")
    argv = ("config", "--config", str(path), "--max-concurrent", "5", "--log.requests")
    ended = cli(*argv, SIDECAR_DRAIN_S="10")
    lines = [line.split() for line in ended.out.splitlines()]
    assert ["max_concurrent:", "5", "#", "--max-concurrent"] in lines
    assert ["drain_s:", "10", "#", "SIDECAR_DRAIN_S"] in lines
    assert ["open_s:", "30", "#", f"{path}:2"] in lines
    assert ["requests:", "true", "#", "--log.requests"] in lines
    assert ["max_upgrades:", "64", "#", "default"] in lines


def test_config_prints_a_file_that_means_the_same(cli: Cli, tmp_path: Path) -> None:
    """What `config` prints can be used as a file."""
    argv = ("--upstream", "http://a:1", "--trusted-proxies", "10.0.0.0/8", "--timers.total-s", "9")
    path = tmp_path / "printed.yaml"
    path.write_text(cli("config", *argv).out)
    again = load({}, {}, str(path)).settings
    assert again.upstream == "http://a:1"
    assert again.timers.total_s == 9
    assert [str(network) for network in again.trusted_proxies] == ["10.0.0.0/8"]


def test_a_list_flag_may_be_repeated(cli: Cli) -> None:
    """Repeating a flag adds to the list."""
    argv = ("--trusted-proxies", "10.0.0.0/8", "--trusted-proxies", "::1/128,127.0.0.0/8")
    printed = yaml.safe_load(cli("config", *argv).out)
    assert printed["trusted_proxies"] == ["10.0.0.0/8", "::1/128", "127.0.0.0/8"]


def test_config_as_json(cli: Cli) -> None:
    """Programs get keys, values and sources."""
    printed = json.loads(cli("config", "--json", "--drain-s", "5").out)
    assert printed["drain_s"] == {"value": 5, "source": "--drain-s"}
    assert {key: entry["value"] for key, entry in printed.items()} == effective(
        load({"drain_s": "5"}, {}).settings
    )


def test_config_prints_its_schema(cli: Cli) -> None:
    """Editors can check the file while it is written."""
    schema = json.loads(cli("config", "--schema").out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["additionalProperties"] is False
    assert schema["properties"]["max_concurrent"]["minimum"] == 1
    assert schema["properties"]["listen"]["default"] == "127.0.0.1:8080"


# -- a process of its own ---------------------------------------------------------------------


@pytest.mark.parametrize("argv", [("--version",), ("--help",), ("healthcheck",), ("status",)])
def test_small_commands_import_nothing_big(argv: tuple[str, ...]) -> None:
    """A health check runs every few seconds and must cost next to nothing."""
    code = (
        "import os, sys\n"
        "before = set(sys.modules)\n"  # coverage, when it is on
        "for name in [n for n in os.environ if n.startswith('SIDECAR_')]: del os.environ[name]\n"
        "os.environ['SIDECAR_ADMIN'] = 'unix:/nonexistent'\n"
        "from sidecar.cli import main\n"
        f"main({list(argv)!r})\n"
        "big = {'aiohttp', 'uvloop', 'pydantic', 'yaml', 'structlog', 'asyncio', 'ssl', 'email',\n"
        "       'http', 'pathlib', 'inspect', 'difflib', 'pickle'}\n"
        "print('imported:', sorted(big & set(sys.modules) - before))\n"
    )
    ended = program("-c", code)
    assert ended.stdout.endswith("imported: []\n"), ended.stderr


def test_python_m_sidecar_is_the_same_program() -> None:
    """`python -m sidecar` works where the command is not on the path."""
    ended = program("-m", "sidecar", "--version")
    assert (ended.returncode, ended.stdout) == (0, f"openclaw-sidecar {__version__}\n")


def test_output_may_be_cut_short() -> None:
    """`openclaw-sidecar config | head -1` ends without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        ended = subprocess.run(
            [sys.executable, "-m", "sidecar", "config"],
            stdout=closed,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": ""},  # buffered, as users run it
            check=False,
            timeout=20,
        )
    assert ended.stderr == b""


# -- status and healthcheck -------------------------------------------------------------------


class _Answers(BaseHTTPRequestHandler):
    """An admin port that says what the test tells it to."""

    answers: dict[str, tuple[int, bytes]]

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path, (404, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        del args

    def address_string(self) -> str:
        return "client"  # a Unix socket's peer has no address


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@dataclass(slots=True)
class AdminPort:
    address: str
    unix_address: str
    answers: dict[str, tuple[int, bytes]]


@pytest.fixture
def admin_port(tmp_path: Path) -> Iterator[AdminPort]:
    """A server on a TCP port and on a Unix socket; `answers` is by path."""
    answers: dict[str, tuple[int, bytes]] = {}
    handler = type("Handler", (_Answers,), {"answers": answers})
    unix_path = str(tmp_path / "admin.sock")
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as tcp,
        _UnixServer(unix_path, handler) as un,
    ):
        servers: list[socketserver.BaseServer] = [tcp, un]
        threads = [
            threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers
        ]
        for thread in threads:
            thread.start()
        yield AdminPort(f"127.0.0.1:{tcp.server_address[1]}", f"unix:{unix_path}", answers)
        for server in servers:
            server.shutdown()
        for thread in threads:
            thread.join()


def busy_sidecar(*, draining: bool = False) -> dict[str, object]:
    """What /status says of three guards: one busy, one open, one without a breaker."""
    busy = _guard("inference", GuardConfig(max_concurrent=1))
    failed = busy.ask(Subject("first", "POST", "/v1/chat/completions"), 0.0)
    assert isinstance(failed, Permit)
    busy.settle(failed, Outcome(Verdict.FAILURE, OutcomeLabel.SERVER_ERROR), 8.0)
    busy.ask(Subject("running", "POST", "/v1/chat/completions", "key:1a2b"), 20.0)
    busy.ask(Subject("queued", "POST", "/v1/\x1b[31mred", "10.0.0.7"), 25.0)
    failing = _guard("embeddings", GuardConfig(breaker=BreakerConfig(failure_threshold=1)))
    trip = failing.ask(Subject("tripped", "POST", "/v1/embeddings"), 0.0)
    assert isinstance(trip, Permit)
    failing.settle(trip, Outcome(Verdict.FAILURE, OutcomeLabel.SERVER_ERROR), 10.0)
    upgrade = _guard("upgrade", GuardConfig(64, QueueConfig(max_waiting=0), breaker=None))
    at = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
    refusal = RecentRefusal(at, "r-9", "embeddings", "circuit_open", "/v1/embeddings", "key:9f")
    return status_dict(
        StatusFacts(
            version="1.2.3",
            upstream="http://127.0.0.1:18789",
            uptime_s=7980.0,
            drain_remaining_s=42.0 if draining else None,
            now_s=30.0,
            at=at,
            guards=tuple(guard.snapshot(30.0) for guard in (busy, failing, upgrade)),
            recent_refusals=(refusal,),
        )
    )


def _guard(name: str, config: GuardConfig) -> Guard:
    return Guard(name, config, random=lambda: 0.0, on_transition=lambda _: None)


def test_status_reads_well(cli: Cli, admin_port: AdminPort) -> None:
    """State, slots, breaker, queue and refusals at a glance."""
    admin_port.answers["/status"] = (200, json.dumps(busy_sidecar()).encode())
    ended = cli("status", "--admin", admin_port.address)
    assert (ended.code, ended.err) == (0, "")
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert lines[0] == (
        "openclaw-sidecar 1.2.3 in front of http://127.0.0.1:18789: serving, up 2 h 13 min"
    )
    assert "inference 1/1 1/64 5.0 s 8.0 s 0 B closed, 1 of 5 failures" in lines
    opened = "open, 40.0 s left (server_error), since 2026-05-01T11:59:40.000Z"
    assert f"embeddings 0/3 0/64 - 10.0 s 0 B {opened}" in lines
    assert "upgrade 0/64 0/0 - 5.0 s 0 B none" in lines
    assert "running inference POST /v1/chat/completions key:1a2b 10.0 s 0.0 s" in lines
    assert "queued inference POST /v1/?[31mred 10.0.0.7 5.0 s 1" in lines
    assert "2026-05-01T12:00:00.000Z embeddings /v1/embeddings key:9f circuit_open" in lines


def test_status_cannot_steer_the_terminal(cli: Cli, admin_port: AdminPort) -> None:
    """A path that a client chose may hold escape sequences; none is printed."""
    admin_port.answers["/status"] = (200, json.dumps(busy_sidecar()).encode())
    assert "\x1b" not in cli("status", "--admin", admin_port.address).out


def test_status_says_when_it_drains(cli: Cli, admin_port: AdminPort) -> None:
    """During a shutdown one sees how long it may take."""
    admin_port.answers["/status"] = (200, json.dumps(busy_sidecar(draining=True)).encode())
    ended = cli("status", "--admin", admin_port.address)
    assert "draining, up 2 h 13 min, ends in 42.0 s at the latest" in ended.out


def test_status_as_json_is_what_the_admin_port_says(cli: Cli, admin_port: AdminPort) -> None:
    """Programs get the whole snapshot, also over a Unix socket."""
    admin_port.answers["/status"] = (200, json.dumps(busy_sidecar()).encode())
    ended = cli("status", "--json", "--admin", admin_port.unix_address)
    assert json.loads(ended.out) == busy_sidecar()


def test_status_tells_whose_breaker_a_class_shares(cli: Cli, admin_port: AdminPort) -> None:
    """A class that shares shows the same state, and the class that has it."""
    owner = _guard("inference", GuardConfig())
    small = Guard(
        "small", GuardConfig(), random=lambda: 0.0, on_transition=lambda _: None, breaker_of=owner
    )
    snapshots = (owner.snapshot(0.0), small.snapshot(0.0))
    facts = StatusFacts("1", "", 1.0, None, 0.0, datetime.now(UTC), snapshots, ())
    admin_port.answers["/status"] = (200, json.dumps(status_dict(facts)).encode())
    lines = cli("status", "--admin", admin_port.address).out.splitlines()
    assert [" ".join(line.split()) for line in lines if "closed" in line] == [
        "inference 0/3 0/64 - 5.0 s 0 B closed",
        "small 0/3 0/64 - 5.0 s 0 B closed (shared with inference)",
    ]


def test_status_of_an_observing_breaker(cli: Cli, admin_port: AdminPort) -> None:
    """A breaker that only observes says what it would have done."""
    guard = _guard("inference", GuardConfig(breaker=BreakerConfig(mode=BreakerMode.OBSERVE)))
    facts = StatusFacts("1", "", 90_000.0, None, 0.0, datetime.now(UTC), (guard.snapshot(0.0),), ())
    status = status_dict(facts)
    admin_port.answers["/status"] = (200, json.dumps(status).encode())
    out = cli("status", "--admin", admin_port.address).out
    assert "closed [observe: 0 would have been refused]" in out
    assert "up 1 d 1 h" in out
    assert "no recent refusals" in out


def test_status_of_a_backend_that_loads_its_model(cli: Cli, admin_port: AdminPort) -> None:
    """What the backend says of itself is told beside the breaker's state."""
    guard = _guard("inference", GuardConfig())
    early = guard.ask(Subject("early", "POST", "/v1/chat/completions"), 0.0)
    assert isinstance(early, Permit)
    guard.settle(early, LOADING, 1.0)
    facts = StatusFacts("1", "x", 2.0, None, 2.0, datetime.now(UTC), (guard.snapshot(2.0),), ())
    admin_port.answers["/status"] = (200, json.dumps(status_dict(facts)).encode())
    assert "closed, backend warming" in cli("status", "--admin", admin_port.address).out


def test_status_of_a_probing_breaker_and_a_full_buffer(cli: Cli, admin_port: AdminPort) -> None:
    """While it finds out whether the backend is back, one sees the probes; sizes are readable."""
    guard = _guard("inference", GuardConfig(breaker=BreakerConfig(failure_threshold=1)))
    trip = guard.ask(Subject("trip", "POST", "/v1/chat/completions"), 0.0)
    assert isinstance(trip, Permit)
    guard.settle(trip, Outcome(Verdict.FAILURE, OutcomeLabel.CUT), 1.0)
    guard.ask(Subject("probe", "POST", "/v1/chat/completions"), 100.0)
    assert guard.hold_bytes(3 * 1024 * 1024) is None
    snapshots = (guard.snapshot(200.0),)
    facts = StatusFacts("1", "x", 70.0, None, 200.0, datetime.now(UTC), snapshots, ())
    admin_port.answers["/status"] = (200, json.dumps(status_dict(facts)).encode())
    out = cli("status", "--admin", admin_port.address).out
    assert "half-open, probes: 1 (cut)" in out
    assert "3 MiB" in out
    assert "up 1 min 10 s" in out
    assert "1 min 40 s  0.0 s   probe" in out


def test_the_admin_address_is_found(cli: Cli, admin_port: AdminPort, tmp_path: Path) -> None:
    """A health check needs no flag: it asks where the sidecar was told to listen."""
    admin_port.answers["/livez"] = (200, b"ok")
    path = tmp_path / "sidecar.yaml"
    path.write_text(f"admin: {admin_port.address}")
    assert cli("healthcheck", SIDECAR_CONFIG=str(path)).code == 0
    port = admin_port.address.rpartition(":")[2]
    assert cli("healthcheck", SIDECAR_ADMIN=f":{port}").code == 0
    path.write_text("admin: nowhere")
    assert cli("healthcheck").code == 0  # the variable is stronger than the file
    assert cli("healthcheck", SIDECAR_ADMIN="").code == 2


def test_healthcheck_tells_by_its_exit_code(cli: Cli, admin_port: AdminPort) -> None:
    """0 and silence when alive; 1 and one line when not."""
    admin_port.answers["/livez"] = (200, b"ok")
    admin_port.answers["/readyz"] = (503, b"draining")
    assert cli("healthcheck", "--admin", admin_port.address) == Ended(0, "", "")
    assert cli("healthcheck", "--admin", admin_port.unix_address) == Ended(0, "", "")
    ended = cli("healthcheck", "--ready", "--admin", admin_port.address)
    assert ended.code == 1
    assert ended.err == (
        f"openclaw-sidecar healthcheck: {admin_port.address} answers /readyz with 503\n"
    )


@pytest.mark.parametrize("command", ["status", "healthcheck"])
def test_nobody_there_is_one_line(cli: Cli, tmp_path: Path, command: str) -> None:
    """A sidecar that is not running is told as such, with exit code 1."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        ended = cli(command, "--admin", address)
    assert ended.code == 1
    assert ended.err == f"openclaw-sidecar {command}: cannot reach {address}: Connection refused\n"
    ended = cli(command, "--admin", f"unix:{tmp_path}/none")
    assert ended.code == 1
    assert ended.err.endswith("No such file or directory\n")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "answers /status without JSON: is it the admin port?"),
        (b"[]", "answers /status in a form this version does not know"),
        (b'{"version": 1}', "answers /status in a form this version does not know"),
    ],
)
def test_a_strange_answer_is_one_line(
    cli: Cli, admin_port: AdminPort, body: bytes, said: str
) -> None:
    """Another program on that port does not make a traceback."""
    admin_port.answers["/status"] = (200, body)
    ended = cli("status", "--admin", admin_port.address)
    assert ended.code == 1
    assert ended.err == f"openclaw-sidecar status: {admin_port.address} {said}\n"


def test_what_does_not_speak_http_is_one_line(cli: Cli) -> None:
    """Neither does one that speaks something else."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"SSH-2.0-x\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        ended = cli("status", "--admin", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert ended.code == 1
    assert "does not answer as an admin port" in ended.err
