"""Does the sidecar need no more memory, however much passes through it?

A gigabyte each way, through a sidecar in a process of its own. Backend and client are threads with
blocking sockets: nothing else is fast enough. All that passes is one block again and again, so
that the receiver can compare every byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import cast

import pytest

from tests.e2e.harness import CHAT
from tests.e2e.process import Process, sidecar
from tests.support.certificates import Certificates
from tests.support.origin import LAST_CHUNK, chunk

pytestmark = [
    pytest.mark.timeout(120),  # ten seconds in all on two idle cores
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="only Linux tells the most memory ever used"
    ),
]

MIB = 1024 * 1024

# What the peak may grow by beyond that of the first few megabytes. A socket's read buffer is
# 256 KiB; one block kept too long would be 1 MiB.
GROWTH_MAX_BYTES = 4 * MIB

BLOCK = random.Random(1).randbytes(MIB)
# The same bytes as a stream of events, 4 KiB each.
EVENTS = b"".join(chunk(BLOCK[at : at + 4096]) for at in range(0, MIB, 4096))


@dataclass(frozen=True)
class Transfer:
    """A body of so many blocks, framed in one of two ways."""

    framing: str
    blocks: int

    @property
    def block(self) -> bytes:
        return EVENTS if self.framing == "chunked" else BLOCK

    @property
    def last(self) -> bytes:
        return LAST_CHUNK if self.framing == "chunked" else b""

    @property
    def field(self) -> str:
        if self.framing == "chunked":
            return "Transfer-Encoding: chunked"
        return f"Content-Length: {self.blocks * len(BLOCK)}"

    def send(self, sock: socket.socket) -> None:
        for _ in range(self.blocks):
            sock.sendall(self.block)
        sock.sendall(self.last)

    def take(self, reader: BufferedReader) -> None:
        """Read the whole body and compare it."""
        got = bytearray(len(self.block))
        for number in range(self.blocks):
            assert reader.readinto(got) == len(got)
            assert got == self.block, f"block {number} is not what was sent"
        assert reader.read(len(self.last)) == self.last

    def __str__(self) -> str:
        return f"{self.framing}-{self.blocks}"

    @classmethod
    def parse(cls, text: bytes) -> Transfer:
        """Read what `str` wrote."""
        framing, _, blocks = text.decode().partition("-")
        return cls(framing, int(blocks))


def reader_of(sock: socket.socket) -> BufferedReader:
    return cast("BufferedReader", sock.makefile("rb", buffering=len(BLOCK)))


def read_head(reader: BufferedReader) -> bytes:
    lines = [reader.readline()]
    while lines[-1] not in (b"\r\n", b""):
        lines.append(reader.readline())
    return b"".join(lines)


@contextlib.contextmanager
def backend(tls: ssl.SSLContext | None) -> Iterator[int]:
    """A backend that takes and gives as the target says; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=_accept, args=(listener, tls))
        serving.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        serving.join()


def _accept(listener: socket.socket, tls: ssl.SSLContext | None) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        with tls.wrap_socket(plain, server_side=True) if tls else plain as sock:
            reader = reader_of(sock)
            while head := read_head(reader):
                up, _, down = head.split(b" ")[1].partition(b"?")[2].partition(b"&")
                Transfer.parse(up).take(reader)
                answer = Transfer.parse(down)
                sock.sendall(f"HTTP/1.1 200 OK\r\n{answer.field}\r\n\r\n".encode())
                answer.send(sock)


class Client:
    """A client with one connection to the sidecar."""

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        plain = socket.create_connection(("127.0.0.1", port))
        self._sock = tls.wrap_socket(plain, server_hostname="127.0.0.1") if tls else plain
        self._reader = reader_of(self._sock)

    def exchange(self, up: Transfer, down: Transfer) -> None:
        """Send `up` and get `down`."""
        head = f"POST {CHAT}?{up}&{down} HTTP/1.1\r\nHost: test\r\n{up.field}\r\n\r\n"
        self._sock.sendall(head.encode())
        up.send(self._sock)
        assert read_head(self._reader).startswith(b"HTTP/1.1 200 OK\r\n")
        down.take(self._reader)

    def close(self) -> None:
        self._reader.close()
        self._sock.close()


def peak_bytes(side: Process) -> int:
    """The most memory that the process has had in RAM so far."""
    status = Path(f"/proc/{side.process.pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if "VmHWM" in line).split()[1])


async def growth_bytes(
    transfers: list[tuple[Transfer, Transfer]], tls: Certificates | None = None
) -> int:
    """What the peak grows by while these bodies pass, once some of each kind have."""
    words = tls.words if tls else []
    few = [(replace(up, blocks=8), replace(down, blocks=8)) for up, down in transfers]
    with backend(tls.server if tls else None) as port:
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        async with sidecar("run", "--upstream", url, "--log.level", "error", *words) as side:
            client = await asyncio.to_thread(Client, side.proxy, tls.client if tls else None)
            try:
                for up, down in few:
                    await asyncio.to_thread(client.exchange, up, down)
                before = peak_bytes(side)
                for up, down in transfers:
                    await asyncio.to_thread(client.exchange, up, down)
                return peak_bytes(side) - before
            finally:
                client.close()


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_gigabyte_each_way_takes_no_memory(framing: str) -> None:
    """1 GiB up and 1 GiB down, every byte the same, and the peak stays where it was."""
    gibibyte, little = Transfer(framing, 1024), Transfer(framing, 1)
    growth = await growth_bytes([(gibibyte, little), (little, gibibyte)])
    print(f"{framing}: the peak grew by {growth} bytes")
    assert growth <= GROWTH_MAX_BYTES


async def test_nor_does_what_passes_through_tls(tmp_path: Path) -> None:
    """The same with TLS on both sides, with 64 MiB of each kind each way."""
    length, chunked = Transfer("length", 64), Transfer("chunked", 64)
    growth = await growth_bytes([(length, chunked), (chunked, length)], Certificates(tmp_path))
    print(f"TLS: the peak grew by {growth} bytes")
    assert growth <= GROWTH_MAX_BYTES
