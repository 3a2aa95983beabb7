"""Does the door work where it is not plain TCP, and do vanished clients leave it?"""

from __future__ import annotations

import errno
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohappyeyeballs
import pytest
import trustme

from tests.e2e.harness import chat, eventually, guarded, on_both_loops
from tests.support.origin import Origin, json_ok
from tests.support.wire import RawClient, request

PLACES = 10


@on_both_loops
async def test_handshakes_that_never_come_take_nobody_s_place(tmp_path: Path) -> None:
    """TCP connections on a TLS port make room for those who speak TLS, and are counted."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    settings = {
        "tls.cert_file": chain, "tls.key_file": key, "limits.max_connections": PLACES
    }  # fmt: skip
    async with Origin(json_ok) as origin, guarded(origin.url, settings) as side:
        silent = [RawClient(side.listen.host, side.listen.port) for _ in range(PLACES)]
        for client in silent:
            await client.__aenter__()
        counts = side.sidecar.proxy.connection_counts
        await eventually(lambda: counts()["client"] == PLACES)
        async with RawClient(side.listen.host, side.listen.port, tls=trusting) as client:
            await client.send(chat())
            assert (await client.read_response("POST")).status == 200
            await silent[0].wait_closed_by_peer()
        for client in silent:
            await client.__aexit__(None, None, None)
        await eventually(lambda: counts()["client"] == 0)
        failures = (await side.metrics()).by_label("tls_handshake_failures_total", "reason")
        assert failures == {"refused": 1, "closed": PLACES - 1}


@on_both_loops
async def test_the_kernel_looks_for_clients_that_vanished() -> None:
    """A client whose machine went dark is gone after 90 s, whatever it was doing (tcp(7))."""
    async with Origin(json_ok) as origin, guarded(origin.url) as side, side.client() as client:
        await client.send(chat())
        await client.read_response("POST")
        (connection,) = side.sidecar.proxy.handler.connections
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle_s, gap_s, probes = (
            sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        )
        assert idle_s + gap_s * probes == 90


@on_both_loops
async def test_a_client_that_only_hears_is_gone() -> None:
    """A half-closed connection holds no place: who said its last word is not waited for."""
    async with Origin(json_ok) as origin, guarded(origin.url) as side:
        for first in (b"", b"GET / HT", request("POST", "/up", b"x")[:-1]):
            async with side.client() as client:
                await client.send(first)
                client.half_close()
                await client.wait_closed_by_peer()
        ended = (await side.metrics()).by_label("client_connections_ended_total", "reason")
        assert ended == {
            "client_left_idle": 1, "client_left_in_head": 1, "client_left_in_request": 1
        }  # fmt: skip


OUT_OF_FILES = [
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ENFILE, "Too many open files in system"),
    OSError(f"Multiple exceptions: [Errno 111] refused, [Errno {errno.EMFILE}] too many"),
]


@pytest.mark.parametrize("error", OUT_OF_FILES, ids=["process", "system", "several_addresses"])
async def test_a_want_of_files_is_not_the_backend_s_fault(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for a moment; the request then goes on, or is told, and no breaker opens."""
    connect = aiohappyeyeballs.start_connection
    in_vain = 1

    async def start_connection(*words: Any, **named: Any) -> socket.socket:
        nonlocal in_vain
        in_vain -= 1
        if in_vain >= 0:
            raise error
        return await connect(*words, **named)

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", start_connection)
    settings = {"breaker.failure_threshold": 1, "pool.idle_s": 0}
    async with Origin(json_ok) as origin, guarded(origin.url, settings) as side:
        assert (await side.ask(chat())).status == 200
        in_vain = 1000
        answer = await side.ask(chat())
        assert (answer.status, answer.value("x-sidecar-reason")) == (503, "out_of_files")
        assert answer.value("connection") is None, "its client may stay"
        assert side.breaker_state == "closed"
