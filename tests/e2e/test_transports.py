"""Can clients and the backend be reached in every way that there is: TCP, TLS, unix sockets?"""

from __future__ import annotations

import os
import socket
import ssl
import stat
from pathlib import Path

import pytest
import trustme

from sidecar.app import Sidecar
from sidecar.proxy.server import ListenError
from sidecar.settings.load import load
from tests.e2e.harness import (
    ERROR_500,
    Hand,
    asked,
    assert_refusal,
    chat,
    eventually,
    guarded,
    on_both_loops,
    start_stream,
)
from tests.support.origin import LAST_CHUNK, Origin, OriginConnection, json_ok, respond
from tests.support.wire import request


@on_both_loops
async def test_a_backend_on_a_unix_socket(tmp_path: Path) -> None:
    """`unix:PATH` as upstream: plain and streamed answers, kept connections, failures."""
    hand = Hand()
    async with (
        Origin(hand, unix_path=tmp_path / "backend.sock") as origin,
        guarded(origin.url) as side,
        side.client() as client,
    ):
        for count in (1, 2):
            await client.send(chat(count))
            backend = await asked(origin, count)
            start_stream(backend)
            hand.finish(backend, LAST_CHUNK)
            assert (await client.read_response("POST")).chunks == [b"data: 1\n\n"]
        assert origin.accepted_count == 1
        assert origin.requests[0].value("host") == "test"
        old = request("GET", "/health").replace(b"HTTP/1.1\r\nHost: test", b"HTTP/1.0")
        await client.send(old)
        hand.finish(await asked(origin, 3), b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await client.read_response()).status == 204
        assert origin.requests[2].value("host") == "localhost"
        await origin.stop()
        refusal = await side.ask(chat())
        assert_refusal(refusal, "upstream_unreachable", 502, retry=False)


@on_both_loops
async def test_clients_on_a_unix_socket(tmp_path: Path) -> None:
    """`listen: unix:PATH`: the same answers; the caller is `local`; the file goes with us."""
    path = tmp_path / "proxy.sock"
    hand = Hand()
    async with Origin(hand) as origin:
        async with guarded(origin.url, {"listen": f"unix:{path}"}) as side, side.client() as client:
            assert stat.S_ISSOCK(path.stat().st_mode)
            await client.send(chat())
            backend = await asked(origin, 1)
            assert (await side.status())["guards"][0]["permits"][0]["caller"] == "local"
            hand.finish(backend, ERROR_500)
            assert (await client.read_response("POST")).status == 500
        assert not path.exists()


async def test_a_cut_answer_looks_cut_on_a_unix_socket_too(tmp_path: Path) -> None:
    """There is no reset to pass on, but the framing tells."""
    hand = Hand()
    async with (
        Origin(hand, unix_path=tmp_path / "backend.sock") as origin,
        guarded(origin.url, {"listen": f"unix:{tmp_path / 'proxy.sock'}"}) as side,
        side.client() as client,
    ):
        await client.send(chat())
        backend = await asked(origin, 1)
        start_stream(backend)
        await client.read_head()
        await client.read_chunk()
        backend.reset()
        assert LAST_CHUNK not in await client.read_until_closed()


async def test_a_socket_left_behind_by_a_crash_is_replaced(tmp_path: Path) -> None:
    """A file that nobody listens on is no hindrance; one that somebody does is."""
    path = tmp_path / "proxy.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    settings = {"listen": f"unix:{path}"}
    async with Origin(json_ok) as origin, guarded(origin.url, settings) as side:
        assert (await side.ask(chat())).status == 200
        flags = {"listen": f"unix:{path}", "admin": "127.0.0.1:0", "upstream": origin.url}
        second = Sidecar(load(flags, {}).settings.plain())
        with pytest.raises(ListenError, match="another process listens there"):
            await second.start()
        await second.stop()
        assert (await side.ask(chat())).status == 200, "the first one goes on"


# -- TLS -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.cert_pem.bytes())
    return path


@on_both_loops
async def test_a_backend_with_a_certificate_of_the_own_authority(
    authority: trustme.CA, ca_file: Path
) -> None:
    """`upstream_tls.ca_file` names whom to trust; answers stream, connections are kept."""
    hand = Hand()
    settings = {"upstream_tls.ca_file": ca_file}
    async with (
        Origin(hand, tls=server_context(authority)) as origin,
        guarded(origin.url, settings) as side,
        side.client() as client,
    ):
        for count in (1, 2):
            await client.send(chat(size=100_000))
            backend = await asked(origin, count)
            start_stream(backend)
            assert await client.read_until(b"data: 1\n\n\r\n")
            hand.finish(backend, LAST_CHUNK)
            await client.read_until(LAST_CHUNK)
            assert len(origin.requests[-1].body) > 100_000
        assert origin.accepted_count == 1
        tls = backend.transport.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "http/1.1"


@on_both_loops
async def test_the_backend_sees_clients_leave_through_tls_too(
    authority: trustme.CA, ca_file: Path
) -> None:
    """A client that hangs up ends the TLS connection to the backend at once."""
    async with (
        Origin(Hand(), tls=server_context(authority)) as origin,
        guarded(origin.url, {"upstream_tls.ca_file": ca_file}) as side,
        side.client() as client,
    ):
        await client.send(chat())
        backend = await asked(origin, 1)
        client.abort()
        await backend.ended()
        await side.until(lambda guard: guard.in_flight == 0)


@on_both_loops
async def test_a_large_answer_is_whole_through_tls(authority: trustme.CA, ca_file: Path) -> None:
    """Also for a slow reader: TLS holds back what the client does not take."""
    body = os.urandom(24 * 1024 * 1024)  # more than all socket buffers on the way hold together
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with (
        Origin(respond(answer), tls=server_context(authority)) as origin,
        guarded(origin.url, {"upstream_tls.ca_file": ca_file}) as side,
        side.client() as client,
    ):
        await client.send(chat())
        await client.read_head()
        client.pause_reading()
        (at_sidecar,) = side.sidecar.proxy.handler.connections
        await eventually(lambda: at_sidecar.paused)
        client.resume_reading()
        assert await client.read_exactly(len(body)) == body


@pytest.mark.parametrize("wrong", ["authority", "name"])
@on_both_loops
async def test_a_backend_that_cannot_prove_who_it_is_is_not_asked(
    authority: trustme.CA, ca_file: Path, wrong: str
) -> None:
    """An unknown authority or another name: 502, a failure for the breaker, and no request sent."""
    if wrong == "authority":
        context = server_context(trustme.CA())
    else:
        context = server_context(authority, "elsewhere.example")
    settings = {"upstream_tls.ca_file": ca_file, "breaker.failure_threshold": 1}
    async with Origin(json_ok, tls=context) as origin, guarded(origin.url, settings) as side:
        refusal = await side.ask(chat())
        assert_refusal(refusal, "upstream_unreachable", 502, retry=False)
        assert "TLS" in refusal.json()["error"]["message"]
        assert side.breaker_state == "open"
        assert (await side.metrics()).value("requests_total", outcome="tls_failed") == 1
        assert not origin.requests


@on_both_loops
async def test_verification_is_off_only_when_it_is_switched_off() -> None:
    """`upstream_tls.verify: false` trusts anybody, and the log says so."""
    context = server_context(trustme.CA(), "elsewhere.example")
    settings = {"upstream_tls.verify": "false"}
    async with Origin(json_ok, tls=context) as origin, guarded(origin.url, settings) as side:
        assert (await side.ask(chat())).status == 200


async def test_switched_off_verification_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever reads the log learns that anybody may pose as the backend."""
    settings = {"upstream_tls.verify": "false"}
    async with Origin(json_ok) as origin:
        async with guarded(origin.url, settings):
            pass
        assert "upstream_certificate_not_verified" in capfd.readouterr().err
        async with guarded(origin.url):
            pass
        assert "upstream_certificate_not_verified" not in capfd.readouterr().err


async def test_a_backend_that_speaks_no_tls_is_told_apart() -> None:
    """`https://` in front of plain HTTP is a TLS failure, told as such."""

    async def script(connection: OriginConnection) -> None:
        await connection.read_exactly(10)  # of a TLS hello, which is no HTTP
        connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with (
        Origin(script) as origin,
        guarded(origin.url.replace("http:", "https:")) as side,
    ):
        refusal = await side.ask(chat())
        assert_refusal(refusal, "upstream_unreachable", 502, retry=False)
        assert "TLS" in refusal.json()["error"]["message"]
