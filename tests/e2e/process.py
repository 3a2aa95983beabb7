"""How does a test get a sidecar in a process of its own, as users run it?

async with sidecar("run", "--upstream", origin.url) as side:
    async with side.client() as client: ...
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests.support.wire import RawClient, request


@dataclass
class Process:
    """A running sidecar, and the ports it listens on."""

    process: asyncio.subprocess.Process
    proxy: int
    admin: int

    def client(self) -> RawClient:
        """A connection to the proxy, to be opened by `async with`."""
        return RawClient("127.0.0.1", self.proxy)

    async def admin_get(self, path: str) -> tuple[int, bytes]:
        """Ask the admin port; status and body."""
        async with RawClient("127.0.0.1", self.admin) as client:
            await client.send(request("GET", path))
            response = await client.read_response()
            return response.status, response.body

    async def status(self) -> dict[str, int]:
        """In flight and waiting, of the inference class."""
        _, body = await self.admin_get("/status")
        guard = json.loads(body)["guards"][0]
        return {"in_flight": guard["in_flight"], "waiting": guard["waiting"]}

    async def until(self, **wanted: int) -> None:
        """Wait until `status` says so."""
        while await self.status() != wanted:
            pass  # another process: nothing to await but its answers

    async def ended(self) -> int:
        """Wait for the end; its exit code."""
        return await asyncio.wait_for(self.process.wait(), 10)


async def start(*words: str) -> asyncio.subprocess.Process:
    """Start the command line with these words."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def sidecar(*words: str) -> AsyncIterator[Process]:
    """Run a sidecar with these words; killed at the end if it still runs."""
    process = await start(*words, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert process.stdout is not None
    try:
        ports: list[str] = []
        while len(ports) < 2:
            line = (await process.stdout.readline()).decode()
            assert line, "it ended before it said where it listens"
            ports += re.findall(r"^  (?:proxy|admin)  https?://127\.0\.0\.1:(\d+)", line)
        yield Process(process, int(ports[0]), int(ports[1]))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
