"""Do clients get TLS, who may come in, and what happens to certificates that are renewed?"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from tests.e2e.harness import chat, eventually, guarded, on_both_loops
from tests.support.origin import Origin, OriginConnection, json_ok, sse
from tests.support.raw import ClosedByPeerError
from tests.support.wire import RawClient, RawResponse


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def issue(authority: trustme.CA, folder: Path, name: str = "proxy") -> dict[str, str]:
    """A certificate for 127.0.0.1, as files; the settings that name them, in their group."""
    certificate = authority.issue_cert("127.0.0.1")
    pair = {"cert_file": folder / f"{name}.pem", "key_file": folder / f"{name}.key"}
    # Renewed files replace the old ones in one step, as certificate managers do it.
    fresh = folder / "fresh"
    for path, blobs in (
        (pair["cert_file"], certificate.cert_chain_pems),
        (pair["key_file"], [certificate.private_key_pem]),
    ):
        fresh.write_bytes(b"".join(blob.bytes() for blob in blobs))
        fresh.replace(path)
    return {key: str(path) for key, path in pair.items()}


def spoil(path: str) -> None:
    Path(path).write_text("no certificate")


def authority_file(authority: trustme.CA, folder: Path) -> str:
    path = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def trusting(authority: trustme.CA, own: dict[str, str] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if own is not None:
        context.load_cert_chain(own["cert_file"], own["key_file"])
    return context


def in_group(group: str, pair: dict[str, str]) -> dict[str, object]:
    return {f"{group}.{key}": path for key, path in pair.items()}


async def ask(port: int, context: ssl.SSLContext) -> RawResponse:
    async with RawClient("127.0.0.1", port, tls=context) as client:
        await client.send(chat())
        return await client.read_response("POST")


@on_both_loops
async def test_clients_speak_tls_and_get_streams_chunk_by_chunk(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """With a certificate the listener speaks TLS; every event passes as it comes."""
    settings = in_group("tls", issue(authority, tmp_path))
    events = [b"data: %d\n\n" % number for number in range(5)]
    async with (
        Origin(sse(events, 0.01)) as origin,
        guarded(origin.url, settings) as side,
        RawClient("127.0.0.1", side.listen.port, tls=trusting(authority)) as client,
    ):
        for _ in range(2):  # the connection is kept
            await client.send(chat())
            response = await client.read_response("POST")
            assert (response.status, response.complete) == (200, True)
            assert response.chunks == events


@on_both_loops
async def test_a_large_upload_and_answer_pass_both_ways_through_tls(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """Four MiB up and down, whole, whatever the sockets take at once."""
    settings = in_group("tls", issue(authority, tmp_path)) | {"queue.body_buffer_bytes": 1000}
    size = 4 * 1024 * 1024

    async def echo(connection: OriginConnection) -> None:
        body = (await connection.read_request()).body
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        connection.answered()
        await connection.drain()
        await connection.wait_closed_by_peer()

    async with (
        Origin(echo) as origin,
        guarded(origin.url, settings) as side,
        RawClient("127.0.0.1", side.listen.port, tls=trusting(authority)) as client,
    ):
        await client.send(chat(size=size))
        response = await client.read_response("POST")
        assert response.complete
        assert response.body == origin.requests[0].body
        assert len(response.body) > size


@on_both_loops
async def test_only_clients_with_a_certificate_come_in_where_one_is_demanded(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """`tls.client_ca_file`: who shows none, or a stranger's, gets no answer; it is counted."""
    settings = in_group("tls", issue(authority, tmp_path))
    settings["tls.client_ca_file"] = authority_file(authority, tmp_path)
    own = issue(authority, tmp_path, "client")
    strange = issue(trustme.CA(), tmp_path, "stranger")
    async with Origin(json_ok) as origin, guarded(origin.url, settings) as side:
        assert (await ask(side.listen.port, trusting(authority, own))).status == 200
        for context in (trusting(authority), trusting(authority, strange)):
            with pytest.raises((ClosedByPeerError, OSError)):
                await ask(side.listen.port, context)
        assert len(origin.requests) == 1
        metrics = await side.metrics()
        failures = metrics.value("tls_handshake_failures_total", reason="certificate")
        assert failures == 2


@on_both_loops
async def test_a_backend_may_demand_a_certificate_of_the_sidecar(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """`upstream_tls.cert_file` is shown to it; without one the answer is 502 and says TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    trust: dict[str, object] = {"upstream_tls.ca_file": authority_file(authority, tmp_path)}
    own = in_group("upstream_tls", issue(authority, tmp_path, "client"))
    async with Origin(json_ok, tls=context) as origin:
        async with guarded(origin.url, trust | own) as side:
            assert (await side.ask(chat())).status == 200
        async with guarded(origin.url, trust) as side:
            assert (await side.ask(chat())).status == 502


@on_both_loops
async def test_a_renewed_certificate_is_used_without_a_restart(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New connections get it, running ones go on; files that are no good change nothing."""
    monkeypatch.setattr("sidecar.proxy.tls.reloading.POLL_S", 0.02)
    settings = in_group("tls", issue(authority, tmp_path))
    renewed = trustme.CA()
    async with (
        Origin(json_ok) as origin,
        guarded(origin.url, settings) as side,
        RawClient("127.0.0.1", side.listen.port, tls=trusting(authority)) as old,
    ):
        metrics = side.sidecar.metrics

        def reloads(result: str) -> str:
            text = metrics.render("")[0].decode()
            [line] = [
                line
                for line in text.splitlines()
                if line.startswith("openclaw_sidecar_tls_reloads_total")
                and 'listener="proxy"' in line
                and f'result="{result}"' in line
            ]
            return line.split()[-1]

        spoil(str(settings["tls.cert_file"]))
        await eventually(lambda: float(reloads("refused")) >= 1, lambda: reloads("refused"))
        assert (await ask(side.listen.port, trusting(authority))).status == 200

        issue(renewed, tmp_path)
        await eventually(lambda: float(reloads("loaded")) >= 1, lambda: reloads("loaded"))
        assert (await ask(side.listen.port, trusting(renewed))).status == 200
        with pytest.raises(ssl.SSLError):
            await ask(side.listen.port, trusting(authority))
        await old.send(chat())
        assert (await old.read_response("POST")).status == 200


@on_both_loops
async def test_an_answer_cut_inside_tls_is_not_taken_for_whole(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """Without length only TLS's own goodbye ends an answer; a bare close of TCP is a cut."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = {"upstream_tls.ca_file": authority_file(authority, tmp_path)}

    async def truncating(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of it")
        await asyncio.sleep(0)
        connection.answered()
        # FIN from below the TLS layer, as if somebody on the way had sent it.
        sock = connection.transport.get_extra_info("socket")
        await asyncio.sleep(0.05)
        with socket.socket(fileno=os.dup(sock.fileno())) as twin:
            twin.shutdown(socket.SHUT_WR)
        await asyncio.wait(connection.endings, return_when=asyncio.FIRST_COMPLETED)

    async with Origin(truncating, tls=context) as origin, guarded(origin.url, trust) as side:
        response = await side.ask(chat())
        assert response.status == 200
        assert not response.complete
        assert (await side.metrics()).value("requests_total", outcome="cut") == 1
