"""What can be asked on the admin port? Metrics, health, status and a page; all read-only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.admin.page import CONTENT_SECURITY_POLICY, page
from sidecar.admin.views import StatusFacts, rfc3339, status_dict
from sidecar.telemetry.safe_text import json_line

# A client that has not taken its answer by then is cut off. Scrapers give up after 10 s.
WRITE_S = 10.0

# Longer than Prometheus' usual scrape interval of 15 to 60 s, so that its connection is kept.
# It also ends connections that never send a whole request head.
_KEEPALIVE_S = 75.0

# Nothing here is worth a wait when the process ends.
_SHUTDOWN_S = 2.0

# How long the rest of a request body that nobody wants is read and dropped.
_LINGERING_S = 2.0

# No page of another site may frame, read or keep what is shown here.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

MakeProtocol = Callable[[], asyncio.Protocol]

_log = structlog.get_logger()


class AdminView(Protocol):
    """What the admin port needs to know of the process. Called in the event loop's thread."""

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, as the `Accept` header wishes."""

    def readiness(self) -> tuple[bool, str]:
        """Whether new requests may be sent here, and why (not)."""

    def status(self) -> StatusFacts:
        """Everything to show, read at one moment."""


def build_app(view: AdminView) -> web.Application:
    """The admin application; `view` is asked at each request."""
    routes = _Routes(view)
    app = web.Application(middlewares=[_deliver])
    app.add_routes(
        [
            web.get("/", routes.page),
            web.get("/metrics", routes.metrics),
            web.get("/livez", routes.livez),
            web.get("/readyz", routes.readyz),
            web.get("/status", routes.status),
        ]
    )
    return app


def build_runner(app: web.Application) -> web.AppRunner:
    """A runner whose connections cannot be held for ever by slow or broken clients."""
    return web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=_KEEPALIVE_S,
        lingering_time=_LINGERING_S,
        shutdown_timeout=_SHUTDOWN_S,
    )


class AdminSite(web.BaseSite):
    """A listener on TCP or, with `path`, on a Unix socket; `wrap` puts TLS below connections.

    aiohttp's own TLS is the event loop's, which does not tell truly what a client has taken.
    """

    __slots__ = ("_host", "_path", "_port", "_wrap")

    def __init__(
        self,
        runner: web.AppRunner,
        wrap: Callable[[MakeProtocol], MakeProtocol] | None,
        *,
        host: str | None = None,
        port: int = 0,
        path: str | None = None,
    ) -> None:
        super().__init__(runner)
        self._host, self._port, self._path, self._wrap = host, port, path, wrap

    @property
    def name(self) -> str:
        """What aiohttp calls it."""
        return f"unix:{self._path}" if self._path else f"{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen; raises `OSError`."""
        await super().start()
        loop = asyncio.get_running_loop()
        server = self._runner.server
        assert server is not None
        make = server if self._wrap is None else self._wrap(server)
        if self._path is not None:
            self._server = await loop.create_unix_server(make, self._path)
        else:
            self._server = await loop.create_server(make, self._host, self._port)


class _Routes:
    """One method a route."""

    def __init__(self, view: AdminView) -> None:
        self._view = view

    async def page(self, _request: web.Request) -> web.Response:
        facts = self._view.status()
        html = page(status_dict(facts), rfc3339(facts.at))
        return web.Response(text=html, content_type="text/html")

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._view.render_metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def livez(self, _request: web.Request) -> web.Response:
        """That this answer comes is the answer: the event loop turns."""
        return _json(200, {"alive": True})

    async def readyz(self, _request: web.Request) -> web.Response:
        ready, why = self._view.readiness()
        return _json(200 if ready else 503, {"ready": ready, "reason": why})

    async def status(self, _request: web.Request) -> web.Response:
        return _json(200, status_dict(self._view.status()))


@web.middleware
async def _deliver(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into JSON, and bring the answer to the client or give up on it."""
    response = await _answer(request, handler)
    response.headers.update(_HEADERS)
    transport = request.transport
    if transport is None:  # the client has gone meanwhile
        return response
    # Written means: taken over by the kernel. Otherwise a client that reads nothing would leave
    # its answer, and its connection, with us.
    transport.set_write_buffer_limits(high=0)
    try:
        async with asyncio.timeout(WRITE_S):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        transport.abort()
    return response


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status, "bad_request")
        return _json(error.status, {"error": code, "path": request.path}, allow)
    except Exception:  # noqa: BLE001 - whatever is wrong with the view, the client gets an answer
        _log.exception("admin_request_failed", method=request.method, path=request.path)
        return _json(500, {"error": "internal_error", "path": request.path})


def _json(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        body=json_line(body) + b"\n",
        content_type="application/json",
        headers=headers,
    )
