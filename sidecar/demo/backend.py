"""How does a model server behave, well and badly? A small one that streams, with faults to order.

It limits nothing: every request starts at once, so that what the sidecar holds back is seen in
the counts. `start_demo` runs it in the caller's event loop.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Never

import orjson
from aiohttp import web

from sidecar.demo.dialects import (
    MODEL,
    BadRequestError,
    Chat,
    Completions,
    Dialect,
    Embeddings,
    Job,
    Json,
    Responses,
    StreamDialect,
    error_body,
)
from sidecar.demo.faults import BREAKS_WITHIN, BadFaultError, Fault, FaultSwitch, Setting
from sidecar.demo.stats import Stats

DIALECTS: Mapping[str, Dialect] = {
    "/v1/chat/completions": Chat(),
    "/v1/completions": Completions(),
    "/v1/responses": Responses(),
    "/v1/embeddings": Embeddings(),
}

DEFAULT_TOKENS = 20
DEFAULT_MS_PER_TOKEN = 50.0  # 20 tokens/s: an answer in 1 s, slow enough to watch

_SLOW_FACTOR = 10
_BODY_MAX_BYTES = 64 * 1024 * 1024  # images and long contexts come inline in JSON
_RETRY_AFTER_S = "1"

# What `short` promises in a stream: more than any answer has.
_TOO_LONG_BYTES = 1024 * 1024 * 1024

# Requests that still run when the demo ends (some hang on purpose) are cut after this time.
_STOP_S = 0.1

# SO_LINGER with time 0: close() sends RST instead of FIN (socket(7), tcp(7)).
_LINGER_RESET = struct.pack("ii", 1, 0)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how fast answers are."""

    tokens: int = DEFAULT_TOKENS
    ms_per_token: float = DEFAULT_MS_PER_TOKEN


class Backend:
    """The demo backend: its faults, its counts, its routes."""

    def __init__(self, pace: Pace) -> None:
        self.faults = FaultSwitch()
        self.stats = Stats()
        self._pace = pace
        self._started_s = int(time.time())

    def application(self) -> web.Application:
        """All routes, as an aiohttp application."""
        app = web.Application(middlewares=[_explain], client_max_size=_BODY_MAX_BYTES)
        for path, dialect in DIALECTS.items():
            app.router.add_post(path, self._inference(path, dialect))
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/demo/fault", self._show_fault)
        app.router.add_post("/demo/fault", self._set_fault)
        app.router.add_get("/demo/stats", self._show_stats)
        return app

    # Inference.

    def _inference(self, path: str, dialect: Dialect) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            with self.stats.running(path):
                job = dialect.read(_as_object(await request.read()), self._pace.tokens)
                return await self._answer(request, dialect, job, self.faults.take())

        return handle

    async def _answer(
        self, request: web.Request, dialect: Dialect, job: Job, setting: Setting
    ) -> web.StreamResponse:
        """Fail before the head if the fault says so; otherwise answer, streamed or plain."""
        match setting.fault:
            case Fault.HANG:
                await _silence()
            case Fault.RESET:
                _reset(request)
                return web.Response()  # goes nowhere; aiohttp wants one
            case fault if (refusal := _refusal(fault)) is not None:
                return refusal
        if job.streams and isinstance(dialect, StreamDialect):
            return await self._stream(request, dialect, job, setting)
        return await self._plain(request, dialect, job, setting.fault)

    async def _plain(
        self, request: web.Request, dialect: Dialect, job: Job, fault: Fault
    ) -> web.StreamResponse:
        """Generate, then send all at once. A fault within the body comes after half of it."""
        await self._generate(len(job.tokens), fault)
        body = orjson.dumps(dialect.plain(job))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(body)
        await response.prepare(request)
        if fault is Fault.HANG_AFTER_HEAD:
            await _silence()
        if fault in {Fault.STALL, Fault.CUT, Fault.SHORT}:
            await response.write(body[: len(body) // 2])
            await _break_off(request, fault)
        else:
            await response.write(body)
        return response

    async def _stream(
        self, request: web.Request, dialect: StreamDialect, job: Job, setting: Setting
    ) -> web.StreamResponse:
        """Send events as tokens are generated."""
        fault = setting.fault
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        if fault is Fault.SHORT:
            response.content_length = _TOO_LONG_BYTES
        await response.prepare(request)
        await response.write(dialect.opening(job))
        if fault is Fault.HANG_AFTER_HEAD:
            await _silence()
        count = len(job.tokens)
        if fault in BREAKS_WITHIN:
            count = min(count, setting.after_tokens)
        for index in range(count):
            await self._generate(1, fault)
            await response.write(dialect.token(job, index))
        if fault is Fault.ERROR_IN_STREAM:
            await response.write(dialect.failing(job))
        elif fault in BREAKS_WITHIN:
            await _break_off(request, fault)
        else:
            await response.write(dialect.ending(job))
        return response

    async def _generate(self, tokens: int, fault: Fault) -> None:
        """Take the time that so many tokens take."""
        factor = _SLOW_FACTOR if fault is Fault.SLOW else 1
        await asyncio.sleep(tokens * self._pace.ms_per_token * factor / 1000)

    # Everything else.

    async def _models(self, _: web.Request) -> web.Response:
        model = {
            "id": MODEL,
            "object": "model",
            "created": self._started_s,
            "owned_by": "openclaw-sidecar",
        }
        return _json({"object": "list", "data": [model]})

    async def _health(self, _: web.Request) -> web.Response:
        if self.faults.current is Fault.LOADING:
            return _loading()
        return _json({"status": "ok"})

    async def _ready(self, _: web.Request) -> web.Response:
        if self.faults.current is Fault.LOADING:
            return _loading()
        return _json({"ready": True})

    async def _show_fault(self, _: web.Request) -> web.Response:
        return _json(self.faults.as_json())

    async def _set_fault(self, request: web.Request) -> web.Response:
        try:
            self.faults.set_from(_as_object(await request.read()))
        except BadFaultError as error:
            raise BadRequestError(str(error), "fault") from error
        return _json(self.faults.as_json())

    async def _show_stats(self, _: web.Request) -> web.Response:
        return _json(self.stats.as_json())


@dataclass(frozen=True, slots=True)
class RunningDemo:
    """A demo backend that listens."""

    url: str
    backend: Backend
    runner: web.AppRunner

    async def stop(self) -> None:
        """Stop listening, cut what still runs."""
        await self.runner.cleanup()


async def start_demo(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    tokens: int = DEFAULT_TOKENS,
    ms_per_token: float = DEFAULT_MS_PER_TOKEN,
) -> RunningDemo:
    """Start the demo backend in this event loop. Port 0 lets the system choose.

    OSError when it cannot listen there.
    """
    backend = Backend(Pace(tokens, ms_per_token))
    runner = web.AppRunner(
        backend.application(),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,  # a client that leaves is noticed at once, as by a good server
        shutdown_timeout=_STOP_S,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    chosen_port = runner.addresses[0][1]
    bracketed = f"[{host}]" if ":" in host else host
    return RunningDemo(f"http://{bracketed}:{chosen_port}", backend, runner)


@web.middleware
async def _explain(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Say what is wrong in OpenAI's error shape."""
    try:
        return await handler(request)
    except BadRequestError as error:
        return _error(400, str(error), kind="invalid_request_error", param=error.param)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        text = f"{request.method} is not for {request.path}; use {allowed}"
        return _error(405, text, kind="invalid_request_error", headers={"Allow": allowed})
    except web.HTTPException as error:
        text = f"{error.reason}: {request.method} {request.path}"
        return _error(error.status, text, kind="invalid_request_error")


def _as_object(body: bytes) -> Json:
    """The body as a JSON object. BadRequestError when it is none."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequestError("the body is not a JSON object")
    return value


def _json(value: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(value), status=status, headers=headers, content_type="application/json"
    )


def _error(
    status: int,
    message: str,
    *,
    kind: str = "server_error",
    code: str | int | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    error = error_body(message, kind=kind, code=code, param=param)
    return _json({"error": error}, status, headers)


def _refusal(fault: Fault) -> web.Response | None:
    """The whole answer of a fault that is a status; None for the others."""
    retry = {"Retry-After": _RETRY_AFTER_S}
    match fault:
        case Fault.ERROR_500:
            return _error(500, "The server had an error while processing your request.")
        case Fault.ERROR_503:
            text = "The engine is currently overloaded, please try again later."
            return _error(503, text, code="overloaded", headers=retry)
        case Fault.ERROR_429:
            text = "Rate limit reached, please try again later."
            return _error(
                429, text, kind="rate_limit_error", code="rate_limit_exceeded", headers=retry
            )
        case Fault.LOADING:
            return _loading()
        case _:
            return None


def _loading() -> web.Response:
    """What llama.cpp's server says while it reads its model."""
    return _error(503, "Loading model", kind="unavailable_error", code=503)


async def _silence() -> Never:
    """Say nothing more, until the client leaves or the demo ends."""
    while True:
        await asyncio.Event().wait()


async def _break_off(request: web.Request, fault: Fault) -> None:
    """Stop within the body, in the fault's way. `no_done` just ends."""
    match fault:
        case Fault.STALL:
            await _silence()
        case Fault.CUT:
            _reset(request)
        case Fault.SHORT if request.transport is not None:
            request.transport.close()


def _reset(request: web.Request) -> None:
    """Send RST."""
    transport = request.transport
    if transport is None:
        return
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET
    )
    transport.abort()
