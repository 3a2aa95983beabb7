"""How fast can an aiohttp server say no? The empty handler: `refuser PORT`, a 503 to everything."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web


async def _refuse(_: web.Request) -> web.Response:
    return web.Response(status=503)


async def _main(port: int) -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", _refuse)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
