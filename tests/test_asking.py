"""How do `healthcheck` and `status` reach the admin port? Over TLS, and where a file says so."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from sidecar.cli import main
from sidecar.cli.asking import _admin_address
from sidecar.settings.address import DEFAULT_ADMIN
from tests.e2e.harness import guarded

ALIVE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs `healthcheck` with these flags and variables; returns its exit code and complaint."""
    for name in [name for name in os.environ if name.startswith("SIDECAR_")]:
        monkeypatch.delenv(name)

    def run(*flags: str, **environ: str) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            for name, text in environ.items():
                patch.setenv(name, text)
            code = main(["healthcheck", *flags])
        return code, capsys.readouterr().err.removeprefix("openclaw-sidecar healthcheck: ")

    return run


@contextmanager
def answering(answer: bytes, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A port that reads one request per connection and sends `answer`; its address."""

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # closed: the test is over
                return
            if tls is not None:
                connection = tls.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
            with connection, suppress(OSError):
                reply(connection)

    def reply(connection: socket.socket) -> None:
        if isinstance(connection, ssl.SSLSocket):
            try:
                connection.do_handshake()
            except ssl.SSLError:
                # Closed with something unread, a connection is reset, and our alert lost.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
                return
        connection.recv(65536)
        connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


# -- TLS -------------------------------------------------------------------------------------


class Files:
    """PEM files of an authority and of certificates that it issued."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        server = authority.issue_cert("127.0.0.1")
        client = authority.issue_cert("client@example.org")
        self.ca, self.server, self.client, self.key = (
            str(folder / name) for name in ("ca.pem", "server.pem", "client.pem", "key.pem")
        )
        self.stranger = str(folder / "stranger.pem")
        authority.cert_pem.write_to_path(self.ca)
        server.private_key_and_cert_chain_pem.write_to_path(self.server)
        client.cert_chain_pems[0].write_to_path(self.client)
        client.private_key_pem.write_to_path(self.key)
        trustme.CA().cert_pem.write_to_path(self.stranger)

    def context(self, *, clients_too: bool = False) -> ssl.SSLContext:
        """What the admin port shows, and what it asks of clients."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        if clients_too:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_an_authority_decides_whom_to_believe(ask: Ask, files: Files) -> None:
    """With --admin-ca a stranger's certificate is refused, with --insecure any will do."""
    with answering(ALIVE, files.context()) as address:
        assert ask("--admin", address, "--admin-ca", files.ca) == (0, "")
        assert ask("--admin", address, "--insecure") == (0, "")
        code, said = ask("--admin", address, "--admin-ca", files.stranger)
        assert (code, said.startswith(f"TLS with {address} failed: ")) == (1, True)
        assert "unable to get local issuer certificate" in said


def test_a_certificate_is_shown_where_one_is_asked_for(ask: Ask, files: Files) -> None:
    """admin_tls.client_ca_file lets in who has a certificate and its key, in one file or two."""
    with answering(ALIVE, files.context(clients_too=True)) as address:
        flags = ("--admin", address, "--admin-ca", files.ca)
        mine = ("--admin-cert", files.client, "--admin-key", files.key)
        assert ask(*flags, *mine) == (0, "")
        code, said = ask(*flags)
        assert (code, "certificate required" in said) == (1, True), said


def test_what_speaks_no_tls_is_told(ask: Ask, files: Files) -> None:
    """TLS towards a plain port is one line."""
    with answering(ALIVE) as address:
        code, said = ask("--admin", address, "--admin-ca", files.ca)
    assert (code, said) == (1, f"TLS with {address} failed: wrong version number\n")


def test_nobody_there_is_no_matter_of_tls(ask: Ask) -> None:
    """Without a listener TLS is not to blame."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        said = ask("--admin", address, "--insecure")
    assert said == (1, f"cannot reach {address}: Connection refused\n")


def test_the_sidecar_beside_us_is_asked_as_it_is_configured(
    ask: Ask, files: Files, tmp_path: Path
) -> None:
    """What gives the admin port a certificate makes the health check speak TLS, without a flag."""
    config = tmp_path / "sidecar.yaml"
    with answering(ALIVE, files.context()) as address:
        variable = {"SIDECAR_ADMIN_TLS__CERT_FILE": files.server}
        assert ask(SIDECAR_ADMIN=address, **variable) == (0, "")
        config.write_text(f"admin: {address}\nadmin_tls:\n  cert_file: {files.server}\n")
        assert ask(SIDECAR_CONFIG=str(config)) == (0, "")
        assert ask("--admin", address, SIDECAR_CONFIG=str(config))[0] == 1, "another one's TLS"
    with answering(ALIVE) as address:
        config.write_text(f"admin: {address}\nadmin_tls:\n  cert_file: null\n")
        assert ask(SIDECAR_CONFIG=str(config)) == (0, "")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--admin-ca", "/nonexistent"), "a file of --admin-* cannot be used: No such file"),
        (("--admin-ca", "{server}", "--admin-cert", "{ca}"), "a file of --admin-* cannot be used"),
        (("--admin-cert", "{client}"), "--admin-cert and --admin-key need --admin-ca or --ins"),
    ],
)
def test_files_that_cannot_be_used_are_wrong_use(
    ask: Ask, files: Files, flags: tuple[str, ...], said: str
) -> None:
    """They are told before anybody is asked."""
    code, complaint = ask(*(flag.format_map(vars(files)) for flag in flags))
    assert code == 2
    assert complaint.startswith(said)


async def test_a_port_that_speaks_tls_says_so(files: Files) -> None:
    """Asked in plain, a real admin port with a certificate makes the advice possible."""
    settings = {"admin_tls.cert_file": files.server, "admin_tls.key_file": files.server}
    async with guarded("http://127.0.0.1:9", settings) as side:
        address = str(side.admin)
        program = [sys.executable, "-m", "sidecar", "healthcheck", "--admin", address]
        plain = await asyncio.create_subprocess_exec(*program, stderr=subprocess.PIPE)
        _, said = await plain.communicate()
        encrypted = await asyncio.create_subprocess_exec(*program, "--admin-ca", files.ca)
        assert await encrypted.wait() == 0
    assert plain.returncode == 1
    assert said.decode().endswith(f"{address} speaks TLS: give --admin-ca FILE or --insecure\n")


# -- the file ---------------------------------------------------------------------------------


def test_only_the_address_is_looked_for_in_the_file(ask: Ask, tmp_path: Path) -> None:
    """A sidecar that runs is alive, whatever else has become of its file meanwhile."""
    config = tmp_path / "sidecar.yaml"
    with answering(ALIVE) as address:
        config.write_text(f"drain_s: 2024-13-45\nadmin: '{address}'\nmisspelt: !what [1]\n")
        assert ask(SIDECAR_CONFIG=str(config)) == (0, "")
        config.write_text(f"admin: [\n# {address}")
        code, said = ask(SIDECAR_CONFIG=str(config))
        assert (code, said) == (2, f"no admin address: {config} is not valid YAML\n")
    code, said = ask(SIDECAR_CONFIG=str(tmp_path / "none.yaml"))
    assert code == 2
    assert said.startswith(f"no admin address: {tmp_path}/none.yaml cannot be read: ")


@pytest.mark.parametrize("text", ["admin: {a: 1}", "admin: null", "- admin", "administrator: 1"])
def test_a_file_without_an_address_leaves_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Without a word on where it listens, the sidecar is asked where it listens by default."""
    config = tmp_path / "sidecar.yaml"
    config.write_text(text)
    monkeypatch.delenv("SIDECAR_ADMIN", raising=False)
    monkeypatch.setenv("SIDECAR_CONFIG", str(config))
    assert str(_admin_address(None)) == DEFAULT_ADMIN


# -- answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "does not answer as an admin port: nothing"),
        (b"SSH-2.0-x\r\n", "does not answer as an admin port: 'SSH-2.0-x\\r\\n'"),
        (b"HTTP/1.1 OK\r\n\r\n", "does not answer as an admin port: 'HTTP/1.1 OK\\r\\n'"),
        (ALIVE[:-1], "does not answer as an admin port: 1 bytes instead of 2"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "answers /livez with 204"),
    ],
)
def test_an_answer_that_is_none_is_one_line(ask: Ask, answer: bytes, said: str) -> None:
    """What another program on that port says is quoted, cut and on one line."""
    with answering(answer) as address:
        assert ask("--admin", address) == (1, f"{address} {said}\n")


def test_an_answer_may_end_with_its_connection(ask: Ask) -> None:
    """HTTP/1.0 needs no length."""
    with answering(b"HTTP/1.0 200 OK\r\n\r\nok") as address:
        assert ask("--admin", address) == (0, "")
