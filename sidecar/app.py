"""How does it all come together? Builds every object once, wires observers, starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import resource
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import structlog
from aiohttp import web

from sidecar import __version__
from sidecar.admin.server import AdminSite, build_app, build_runner
from sidecar.admin.views import StatusFacts, rfc3339
from sidecar.admission.answers import BreakerState, Transition
from sidecar.admission.config import BreakerMode
from sidecar.admission.guard import Guard, GuardSnapshot
from sidecar.admission.routes import RouteTable
from sidecar.proxy.config import ProxyConfig
from sidecar.proxy.refusals import ProxyReason
from sidecar.proxy.server import ListenError, ProxyServer, RouteClass, listen_error
from sidecar.proxy.socket_file import SocketFile
from sidecar.proxy.tls.connecting import Acceptor
from sidecar.proxy.tls.contexts import Problem, TlsFilesError
from sidecar.proxy.tls.reloading import ReloadingContext, keep_fresh
from sidecar.settings.address import ListenAddress, reachable
from sidecar.settings.plain import PlainSettings, Readiness
from sidecar.telemetry.facts import HandshakeFailure, RequestFact, TlsReload
from sidecar.telemetry.logs import configure
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.recent import RecentRefusals
from sidecar.telemetry.request_log import RequestLog

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Bound:
    """Where the listeners ended up, once port 0 has become a number."""

    listen: ListenAddress
    admin: ListenAddress


class Sidecar:
    """One running sidecar. Also the view that the admin port is given."""

    def __init__(self, settings: PlainSettings) -> None:
        self.settings = settings
        self.metrics = Metrics(
            (reason.value for reason in ProxyReason),
            settings.guards,
            [name for name, owner in settings.breakers.items() if name == owner],
        )
        self._recent = RecentRefusals()
        log_output = configure(settings.log.format, settings.log.level)
        log_output.gather_with(asyncio.get_running_loop().call_soon)
        self._request_log = RequestLog(
            log_output,
            enabled=settings.log.requests,
            sample_ratio=settings.log.request_sample_ratio,
            random=random.random,
        )
        self._started_s = monotonic()
        self._guards = self._new_guards()
        self.proxy = ProxyServer(
            _within_file_limit(settings.proxy),
            RouteTable(settings.routes),
            {
                name: RouteClass(
                    guard, settings.guards[name].queue.timeout_s, settings.timers[name]
                )
                for name, guard in self._guards.items()
            },
            probe_s=settings.probe_s,
            on_request=self._on_request,
            on_bug=self._on_bug,
            on_handshake_failure=self._on_handshake_failure,
        )
        self._admin_tls = ReloadingContext.of_listener("admin", settings.admin_tls)
        self._acceptor: Acceptor | None = None
        if self._admin_tls is not None:
            self._acceptor = Acceptor(
                self._admin_tls, settings.proxy.timers.head_s, self._on_handshake_failure
            )
        self._watch: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None
        self._admin_file: SocketFile | None = None
        self.metrics.register_snapshots(self.snapshots)
        self.metrics.register_connections(self.proxy.connection_counts)
        self.metrics.register_client_connections(self.proxy.client_connections)
        self.metrics.register_drain(lambda: self.proxy.drain_remaining_s)
        self.metrics.register_certificates(self._certificate_ends)

    def _new_guards(self) -> dict[str, Guard]:
        """All guards by name; those that share a breaker are made after its owner."""
        made: dict[str, Guard] = {}
        owners = self.settings.breakers
        for name in sorted(owners, key=lambda name: owners[name] not in (name, None)):
            owner = owners[name]
            made[name] = Guard(
                name,
                self.settings.guards[name],
                random=random.random,
                on_transition=self._on_transition,
                breaker_of=None if owner in (name, None) else made[owner],
            )
        return {name: made[name] for name in owners}

    # -- observers ------------------------------------------------------------------------

    def _on_request(self, fact: RequestFact) -> None:
        try:
            self.metrics.request(fact)
            self._recent.request(fact)
            self._request_log.request(fact)
        except Exception:  # noqa: BLE001 - telling must never cost the request that is told of
            self._on_bug()

    def _on_transition(self, transition: Transition) -> None:
        self.metrics.transition(transition)
        self._request_log.transition(transition)

    def _on_handshake_failure(
        self, listener: str, kind: HandshakeFailure, client: str, why: str
    ) -> None:
        self.metrics.handshake_failure(listener, kind)
        _log.debug(
            "tls_handshake_failed", listener=listener, kind=kind.value, client=client, why=why
        )

    def _on_tls_reload(self, tls: ReloadingContext, problems: list[Problem]) -> None:
        self.metrics.tls_reload(tls.name, TlsReload.REFUSED if problems else TlsReload.LOADED)
        if problems:
            told = [f"{problem.setting} {problem.text}" for problem in problems]
            _log.error("tls_reload_refused", listener=tls.name, problems=told)
        else:
            ends_s = tls.not_after_s
            not_after = None if ends_s is None else rfc3339(datetime.fromtimestamp(ends_s, UTC))
            _log.info("tls_reloaded", listener=tls.name, not_after=not_after)

    @staticmethod
    def _on_bug() -> None:
        _log.exception("internal_error")

    # -- what the admin port shows --------------------------------------------------------

    def snapshots(self) -> tuple[GuardSnapshot, ...]:
        """All guards at this moment."""
        now_s = monotonic()
        return tuple(guard.snapshot(now_s) for guard in self._guards.values())

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """The body and the content type of `/metrics`."""
        return self.metrics.render(accept)

    def readiness(self) -> tuple[bool, str]:
        """Whether `/readyz` says yes, and why not."""
        follows = self.settings.readiness
        if follows is not Readiness.ALWAYS and self.proxy.drain_remaining_s is not None:
            return False, "draining"
        if follows is Readiness.BREAKER:
            breaker = self._guards["inference"].snapshot(monotonic()).breaker
            if breaker is not None and (
                breaker.mode is BreakerMode.FORCED_OPEN
                or (breaker.mode is BreakerMode.ENFORCE and breaker.state is BreakerState.OPEN)
            ):
                return False, "the circuit breaker is open"
        return True, "ready"

    def status(self) -> StatusFacts:
        """All that `/status` and the page show."""
        return StatusFacts(
            version=__version__,
            upstream=self.settings.upstream or "",
            uptime_s=monotonic() - self._started_s,
            drain_remaining_s=self.proxy.drain_remaining_s,
            now_s=monotonic(),
            at=datetime.now(UTC),
            guards=self.snapshots(),
            recent_refusals=self._recent.newest_first(),
        )

    @property
    def tls_contexts(self) -> list[ReloadingContext]:
        """Everything that has certificates or authorities of its own."""
        found = (self.proxy.tls, self._admin_tls, self.proxy.upstream.tls)
        return [tls for tls in found if tls is not None]

    def _certificate_ends(self) -> dict[str, float]:
        ends = {tls.name: tls.not_after_s for tls in self.tls_contexts}
        return {name: ends_s for name, ends_s in ends.items() if ends_s is not None}

    # -- life -----------------------------------------------------------------------------

    async def start(self) -> Bound:
        """Open both listeners, the admin port first; raises `ListenError`."""
        self._runner = build_runner(build_app(self))
        await self._runner.setup()
        admin = await self._listen_admin(self._runner, self.settings.admin)
        listen = self.settings.listen
        if listen.path is not None:
            await self.proxy.listen_unix(listen.path)
        else:
            port = await self.proxy.listen_tcp(listen.host, listen.port)
            listen = ListenAddress(listen.host, port)
        self._watch = asyncio.create_task(keep_fresh(self.tls_contexts, self._on_tls_reload))
        if self.settings.proxy.upstream_tls.verify is False:
            _log.warning("upstream_certificate_not_verified", setting="upstream_tls.verify")
        _log.info(
            "started", version=__version__, upstream=self.settings.upstream, listen=str(listen),
            admin=str(admin), max_concurrent=self.settings.guards["inference"].max_concurrent,
        )  # fmt: skip
        return Bound(listen, admin)

    async def _listen_admin(self, runner: web.AppRunner, address: ListenAddress) -> ListenAddress:
        wrap = self._acceptor.wrap if self._acceptor is not None else None
        try:
            if address.path is not None:
                self._admin_file = SocketFile(Path(address.path))
                self._admin_file.remove_stale()
                site = AdminSite(runner, wrap, path=address.path)
            else:
                site = AdminSite(runner, wrap, host=address.host or None, port=address.port)
            await site.start()
        except OSError as error:
            raise listen_error(str(address), error) from error
        if self._admin_file is not None:
            self._admin_file.note_own()
            return address
        return ListenAddress(address.host, runner.addresses[0][1])

    async def drain(self) -> bool:
        """Let running requests finish; returns whether all did within `drain_s`."""
        _log.info("drain_started", drain_s=self.settings.drain_s)
        settings = self.settings
        whole = await self.proxy.drain(
            settings.drain_s, settings.drain_upgrades_s, self._on_drain_progress
        )
        _log.info("drain_finished", aborted=0 if whole else len(self.proxy.handler.active))
        return whole

    @staticmethod
    def _on_drain_progress(running: int, left_s: float) -> None:
        _log.info("draining", running=running, remaining_s=round(left_s, 1))

    async def stop(self) -> None:
        """Close everything at once, the admin port last."""
        if self._watch is not None:
            self._watch.cancel()
        await self.proxy.stop()
        if self._acceptor is not None:
            self._acceptor.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._admin_file is not None:
            self._admin_file.remove_own()
        _log.info("stopped")


@contextlib.asynccontextmanager
async def running(settings: PlainSettings) -> AsyncIterator[tuple[Sidecar, Bound]]:
    """A sidecar for as long as the block lasts, then stopped without a drain."""
    sidecar = Sidecar(settings)
    try:
        yield sidecar, await sidecar.start()
    finally:
        await sidecar.stop()


# Open files that are not for clients and the backend: listeners, log, event loop, scrapes of the
# admin port, and 64 clients who are being turned away.
_OWN_FILES = 128


def _within_file_limit(config: ProxyConfig) -> ProxyConfig:
    """Lower `limits.max_connections` to what open files allow: two for each, client and backend."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = (files - min(_OWN_FILES, files // 2)) // 2
    if files == resource.RLIM_INFINITY or config.limits.max_connections <= most:
        return config
    _log.warning("max_connections_lowered", max_connections=most, open_files=files)
    return replace(config, limits=replace(config.limits, max_connections=most))


# -- the process ------------------------------------------------------------------------------


def main(settings: PlainSettings, *, demo: bool) -> int:
    """Run until told to stop; returns the exit code.

    0: stopped cleanly. 1: could not start, or running requests had to be cut off.
    """
    return _run(_main(settings, demo=demo))


# Requests leave almost nothing to the cycle collector: reference counts free them. Collecting
# as often as by default costs a tenth of the CPU per request (measured), so it is done seldom.
_GC_THRESHOLDS = (50_000, 20, 50)


def _run(main_coroutine: Coroutine[Any, Any, int]) -> int:
    gc.freeze()  # what was imported stays
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()  # who imported this may have put it off
    try:
        import uvloop  # noqa: PLC0415 - not on every platform; asyncio does the same, slower
    except ImportError:
        return asyncio.run(main_coroutine)
    return uvloop.run(main_coroutine)


async def _main(settings: PlainSettings, *, demo: bool) -> int:
    try:
        if demo and settings.upstream is None:
            return await _serve_demo(settings)
        return await _serve(settings, demo_url=None)
    except (ListenError, TlsFilesError) as error:
        print(f"openclaw-sidecar: {error}", file=sys.stderr)
        return 1


async def _serve_demo(settings: PlainSettings) -> int:
    from sidecar.demo.backend import start_demo  # noqa: PLC0415 - who runs for real needs no demo

    backend = await start_demo("127.0.0.1", 0)
    try:
        return await _serve(settings.in_front_of(backend.url), demo_url=backend.url)
    finally:
        await backend.stop()


async def _serve(settings: PlainSettings, demo_url: str | None) -> int:
    """Serve until the first signal, drain until done or the second."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[str] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number.name)
    async with running(settings) as (sidecar, bound):
        print(announcement(settings, bound, demo_url), flush=True)
        _log.info("signal_received", signal=await signals.get())
        draining = asyncio.create_task(sidecar.drain())
        again = asyncio.create_task(signals.get())
        await asyncio.wait([draining, again], return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        whole = draining.done() and draining.result()
        draining.cancel()
    return 0 if whole else 1


def announcement(settings: PlainSettings, bound: Bound, demo_url: str | None) -> str:
    """A few plain lines: what runs where, and what to try."""
    listen = _url(bound.listen, tls=settings.proxy.tls.cert_file is not None)
    admin = _url(bound.admin, tls=settings.admin_tls.cert_file is not None)
    curl, proxy = "curl", listen
    if bound.listen.path is not None:
        scheme = "https" if settings.proxy.tls.cert_file is not None else "http"
        curl, proxy = f"curl --unix-socket {bound.listen.path}", f"{scheme}://localhost"
    what = f"{demo_url} (the built-in demo backend)" if demo_url else settings.upstream
    ask = """-H 'content-type: application/json' \\
         -d '{"model":"demo","stream":true,"messages":[{"role":"user","content":"hello"}]}'"""
    lines = [
        f"openclaw-sidecar {__version__} guards {what}",
        f"  proxy  {listen}   point your clients here",
        f"  admin  {admin}   /metrics /status /readyz",
        f"  try    {curl} -N {proxy}/v1/chat/completions {ask}",
    ]
    if demo_url:
        lines.append(
            f"  fault  curl {demo_url}/demo/fault -d "
            """'{"fault":"error_500"}'   then watch the breaker open"""
        )
    return "\n".join([*lines, "Ctrl-C stops it."])


def _url(address: ListenAddress, *, tls: bool) -> str:
    scheme = "https" if tls else "http"
    return str(address) if address.path is not None else f"{scheme}://{reachable(address)}"
