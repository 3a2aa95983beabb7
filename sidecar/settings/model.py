"""What can be set, to what, and what is it when nobody sets it? The one settings model.

Flags, environment variables, YAML keys, the JSON schema, `--help` and `docs/settings.md` are all
made from this model. Defaults come from the rooms' own configuration types, where they stand once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sidecar.admission.config import BreakerConfig, BreakerMode, GuardConfig, QueueConfig
from sidecar.admission.routes import RouteRule
from sidecar.proxy.config import (
    Forwarded,
    Limits,
    ListenerTls,
    Pool,
    ProxyConfig,
    Timers,
    UpstreamTls,
)
from sidecar.settings.address import (
    DEFAULT_ADMIN,
    DEFAULT_LISTEN,
    parse_listen,
    upstream_address,
)
from sidecar.settings.class_rules import (
    class_rules,
    contradictions_in,
    default_rules,
    owner_of_breaker,
    rules_without_use,
)
from sidecar.settings.classes import (
    EMBEDDINGS,
    EXAMPLE,
    INFERENCE,
    UPGRADE,
    Classes,
    ClassSettings,
    own_classes,
)
from sidecar.settings.plain import (
    LogConfig,
    LogFormat,
    LogLevel,
    PlainSettings,
    Readiness,
)
from sidecar.settings.values import (
    MAX_QUEUE_BYTES,
    MAX_S,
    MAX_S_PER_KIB,
    MAX_SLOTS,
    MAX_WAITING,
    Listen,
    Networks,
    Number,
    NumberOrOff,
    Routes,
    Upstream,
    WholeNumber,
    Word,
)

ENV_PREFIX = "SIDECAR_"
ENV_DELIMITER = "__"

_BREAKER = BreakerConfig()
_QUEUE = QueueConfig()
_GUARD = GuardConfig()
_PROXY = ProxyConfig()
_TIMERS = Timers()
_POOL = Pool()
_TLS = UpstreamTls()
_LISTENER_TLS = ListenerTls()
_LIMITS = Limits()

_KIB, _MIB, _GIB = 1024, 1024**2, 1024**3

# What OpenClaw, OpenAI-compatible servers, Anthropic's API, Gemini's and Ollama generate text with.
INFERENCE_ROUTES = (
    "POST **/chat/completions",
    "POST **/completions",
    "POST **/responses",
    "POST **/messages",
    "POST /api/chat",
    "POST /api/generate",
    "POST **/models/*:generateContent",
    "POST **/models/*:streamGenerateContent",
)
EMBEDDINGS_ROUTES = ("POST **/embeddings", "POST /api/embed", "POST /api/embeddings")


class Group(BaseModel):
    """Keys that belong together."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BreakerSettings(Group):
    """The circuit breaker: when to stop asking a failing backend, and how to try again."""

    mode: Annotated[BreakerMode, Word] = Field(
        default=_BREAKER.mode,
        description="enforce: refuse requests while the circuit is open. observe: decide and "
        "report, refuse nothing. disabled: neither count nor refuse. forced_open: refuse "
        "everything.",
    )
    failure_threshold: WholeNumber = Field(
        default=_BREAKER.failure_threshold,
        ge=1,
        le=1_000,
        description="Failures in a row that open the circuit. A client that repeats a failing "
        "request (x-stainless-retry-count) adds one failure, not one for each attempt.",
    )
    failure_ratio: NumberOrOff = Field(
        default=_BREAKER.failure_ratio,
        gt=0,
        le=1,
        description="Share of the calls within window_s that opens the circuit when they fail or "
        "meet a busy backend; null or off: not looked at.",
    )
    slow_call_s: NumberOrOff = Field(
        default=_BREAKER.slow_call_s,
        gt=0,
        le=MAX_S,
        description="Seconds from the slot to the first data after which a call is slow; so is "
        "one whose client left with nothing after that time. null or off: none is.",
    )
    slow_ratio: NumberOrOff = Field(
        default=_BREAKER.slow_ratio,
        gt=0,
        le=1,
        description="Share of the calls within window_s that opens the circuit when they are slow "
        "(slow_call_s); null or off: not looked at.",
    )
    window_s: Number = Field(
        default=_BREAKER.window_s,
        gt=0,
        le=MAX_S,
        description="Seconds that failure_ratio and slow_ratio look back, by when calls ended.",
    )
    min_calls: WholeNumber = Field(
        default=_BREAKER.min_calls,
        ge=1,
        le=1_000_000,
        description="Calls within window_s below which no ratio opens the circuit.",
    )
    open_s: Number = Field(
        default=_BREAKER.open_s,
        gt=0,
        le=MAX_S,
        description="Seconds the circuit stays open before a request may probe the backend. "
        "Longer, up to 300, when the backend names a longer time (Retry-After of a 429 or 503).",
    )
    open_backoff: Number = Field(
        default=_BREAKER.open_backoff,
        ge=1,
        le=10,
        description="Factor by which the open time grows each time a probe fails, such as 2, up "
        "to open_max_s and up to a fifth shorter by chance. 1: it does not grow.",
    )
    open_max_s: Number = Field(
        default=_BREAKER.open_max_s,
        gt=0,
        le=MAX_S,
        description="Seconds to which open_backoff may let the open time grow.",
    )
    probes: WholeNumber = Field(
        default=_BREAKER.probes,
        ge=1,
        le=1_000,
        description="Requests that may probe the backend at the same time while half-open.",
    )
    probe_successes: WholeNumber = Field(
        default=_BREAKER.probe_successes,
        ge=1,
        le=1_000,
        description="Successful probes that close the circuit.",
    )
    probe_s: Number = Field(
        default=_BREAKER.probe_s,
        gt=0,
        le=MAX_S,
        description="Seconds a probe may take to its first data before it counts as failed.",
    )
    ramp_s: Number = Field(
        default=_BREAKER.ramp_s,
        ge=0,
        le=MAX_S,
        description="Seconds from a recovery, with one slot, until all slots are used again. "
        "0: all at once.",
    )

    def config(self) -> BreakerConfig:
        """What admission is given."""
        return BreakerConfig(**dict(self))

    def contradictions(self) -> list[tuple[str, str]]:
        """Values that are right alone and wrong together, as (key, what would be right)."""
        found = []
        if self.slow_ratio is not None and self.slow_call_s is None:
            found.append(("breaker.slow_ratio", "needs breaker.slow_call_s: what a slow call is"))
        if self.open_backoff > 1 and self.open_max_s < self.open_s:
            bound = f"must be at least breaker.open_s ({self.open_s:g})"
            found.append(("breaker.open_max_s", bound))
        return found


class QueueSettings(Group):
    """The queue of requests that wait for a slot; each class of routes has one of its own."""

    max_waiting: WholeNumber = Field(
        default=_QUEUE.max_waiting,
        ge=0,
        le=MAX_WAITING,
        description="Requests that may wait at once; more are refused. 0: nobody waits.",
    )
    timeout_s: Number = Field(
        default=_QUEUE.timeout_s,
        gt=0,
        le=MAX_S,
        description="Seconds a request may wait for a slot before it is refused.",
    )
    max_bytes: WholeNumber = Field(
        default=_QUEUE.max_bytes,
        ge=1,
        le=MAX_QUEUE_BYTES,
        description="Bytes of request bodies held in memory for requests without a slot; more "
        "are refused.",
    )
    body_buffer_bytes: WholeNumber = Field(
        default=_LIMITS.body_buffer_bytes,
        ge=0,
        le=_GIB,
        description="Bytes of a request's body that are read before it asks for a slot, so that a "
        "slow upload holds none. The rest is passed on as it arrives.",
    )

    def config(self) -> QueueConfig:
        """What admission is given."""
        return QueueConfig(
            max_waiting=self.max_waiting, timeout_s=self.timeout_s, max_bytes=self.max_bytes
        )


class TimerSettings(Group):
    """Time-outs of one exchange. Time in the queue counts for none of them."""

    connect_s: Number = Field(
        default=_TIMERS.connect_s,
        gt=0,
        le=MAX_S,
        description="Seconds to connect to the backend, TLS included.",
    )
    first_event_s: Number = Field(
        default=_TIMERS.first_event_s,
        gt=0,
        le=MAX_S,
        description="Seconds from the slot to the backend's first data; covers model loading and "
        "prompt processing.",
    )
    first_event_per_kib_s: Number = Field(
        default=_TIMERS.first_event_per_kib_s,
        ge=0,
        le=MAX_S_PER_KIB,
        description="Seconds more for first_event_s for each KiB (1024 bytes) of the request's "
        "body: long prompts take longer. 0: the same for all.",
    )
    stall_s: Number = Field(
        default=_TIMERS.stall_s,
        gt=0,
        le=MAX_S,
        description="Seconds between two pieces of the backend's answer.",
    )
    write_stall_s: Number = Field(
        default=_TIMERS.write_stall_s,
        gt=0,
        le=MAX_S,
        description="Seconds a client may take no byte of its answer before the exchange ends.",
    )
    total_s: NumberOrOff = Field(
        default=_TIMERS.total_s,
        gt=0,
        le=MAX_S,
        description="Seconds one whole exchange may take; null or off: no bound.",
    )
    head_s: Number = Field(
        default=_TIMERS.head_s,
        gt=0,
        le=MAX_S,
        description="Seconds a client may take to send a whole request head.",
    )
    body_stall_s: Number = Field(
        default=_TIMERS.body_stall_s,
        gt=0,
        le=MAX_S,
        description="Seconds a client may pause while it sends a request body.",
    )
    keepalive_s: Number = Field(
        default=_TIMERS.keepalive_s,
        gt=0,
        le=MAX_S,
        description="Seconds an idle client connection is kept open.",
    )
    tunnel_idle_s: NumberOrOff = Field(
        default=_TIMERS.tunnel_idle_s,
        gt=0,
        le=MAX_S,
        description="Seconds without a byte in either direction after which a WebSocket or other "
        "upgraded connection is closed; null or off: never.",
    )

    def config(self) -> Timers:
        """What the data path is given."""
        return Timers(**dict(self))


class PoolSettings(Group):
    """Connections to the backend: how many, and which are kept for the next request."""

    idle_s: Number = Field(
        default=_POOL.idle_s,
        ge=0,
        le=3_600,
        description="Seconds an idle connection may be used again. Must be less than the "
        "backend's own keep-alive time (5 s for Node.js and OpenClaw). 0: never reuse.",
    )
    max_age_s: Number = Field(
        default=_POOL.max_age_s,
        ge=0,
        le=MAX_S,
        description="Seconds after which a connection serves no further request, however busy it "
        "is, so that the backend's name is looked up again.",
    )
    max_idle: WholeNumber = Field(
        default=_POOL.max_idle,
        ge=0,
        le=1_000_000,
        description="Idle connections kept at once; more are closed, the longest idle first.",
    )
    max_connections: WholeNumber = Field(
        default=_POOL.max_connections,
        ge=1,
        le=1_000_000,
        description="Connections to the backend at once beyond which requests that no rule guards "
        "are refused (upstream_busy). Guarded ones and upgrades have limits of their own.",
    )

    def config(self) -> Pool:
        """What the data path is given."""
        return Pool(**dict(self))


class UpstreamTlsSettings(Group):
    """How an `https://` backend proves who it is, and this sidecar to it. Files are PEM."""

    ca_file: str | None = Field(
        default=_TLS.ca_file,
        min_length=1,
        description="PEM file with the authorities to trust; null: those the system trusts.",
    )
    verify: bool = Field(
        default=_TLS.verify,
        description="Whether the backend's certificate is verified. false lets anybody pose as "
        "the backend, and is logged.",
    )
    server_name: str | None = Field(
        default=_TLS.server_name,
        min_length=1,
        description="The name that is asked for (SNI) and must be in the backend's certificate; "
        "null: the host in upstream.",
    )
    cert_file: str | None = Field(
        default=_TLS.cert_file,
        min_length=1,
        description="Certificate (with its chain) to show to a backend that asks for one.",
    )
    key_file: str | None = Field(
        default=_TLS.key_file, min_length=1, description="Private key of that certificate."
    )

    def config(self) -> UpstreamTls:
        """What the data path is given."""
        return UpstreamTls(**dict(self))


class _ListenerTlsSettings(Group):
    cert_file: str | None = Field(
        default=_LISTENER_TLS.cert_file,
        min_length=1,
        description="Certificate with its chain. null: no TLS.",
    )
    key_file: str | None = Field(
        default=_LISTENER_TLS.key_file,
        min_length=1,
        description="Private key of that certificate, without a password.",
    )
    client_ca_file: str | None = Field(
        default=_LISTENER_TLS.client_ca_file,
        min_length=1,
        description="Authorities; each client must show a certificate of one of them. null: "
        "clients need none.",
    )

    def config(self) -> ListenerTls:
        """What the listener is given."""
        return ListenerTls(**dict(self))


class TlsSettings(_ListenerTlsSettings):
    """TLS for clients. Files are PEM; when they change, new connections use the new ones."""


class AdminTlsSettings(_ListenerTlsSettings):
    """TLS for the admin port, likewise."""


class LimitSettings(Group):
    """Sizes and numbers that may not be exceeded, and a pace to keep to."""

    head_bytes: WholeNumber = Field(
        default=_LIMITS.head_bytes,
        ge=_KIB,
        le=_MIB,
        description="Bytes of a request head: request line and all header fields.",
    )
    head_fields: WholeNumber = Field(
        default=_LIMITS.head_fields,
        ge=1,
        le=10_000,
        description="Header fields of one request.",
    )
    max_connections: WholeNumber = Field(
        default=_LIMITS.max_connections,
        ge=1,
        le=1_000_000,
        description="Client connections at once; a newcomer takes the place of an idle one, or is "
        "refused. Less if the process may not open files enough.",
    )
    max_connections_per_address: WholeNumber = Field(
        default=_LIMITS.max_connections_per_address,
        ge=1,
        le=1_000_000,
        description="Client connections at once from one IP address, likewise.",
    )
    ipv6_prefix_bits: WholeNumber = Field(
        default=_LIMITS.ipv6_prefix_bits,
        ge=1,
        le=128,
        description="How much of an IPv6 address tells clients apart: those with the same first "
        "bits count as one address. 128 where all clients live in one network, as pods do.",
    )
    body_min_bytes_per_s: WholeNumber = Field(
        default=_LIMITS.body_min_bytes_per_s,
        ge=0,
        le=_GIB,
        description="Bytes per second that a client must send of a guarded request's body, over "
        "each timers.body_stall_s; a slower one is refused. 0: any byte will do.",
    )
    response_head_bytes: WholeNumber = Field(
        default=_LIMITS.response_head_bytes,
        ge=_KIB,
        le=16 * _MIB,
        description="Bytes of a response head from the backend: status line and all header fields.",
    )


class EmbeddingsSettings(Group):
    """Embeddings fail and fill up apart from text generation, so they are a class of their own."""

    max_concurrent: WholeNumber = Field(
        default=_GUARD.max_concurrent,
        ge=1,
        le=MAX_SLOTS,
        description="Embeddings requests at the backend at once.",
    )


class RouteSettings(Group):
    """Which requests are guarded. `METHOD /path`; `*` is part of a segment, `**` any segments.

    A request that no rule names passes freely: health checks, model lists, pages. Rules of
    `classes` are tried before these.
    """

    inference: Routes = Field(
        default=INFERENCE_ROUTES,
        description="Requests that take a slot, a place in the queue and the breaker. "
        "These replace the defaults.",
    )
    embeddings: Routes = Field(
        default=EMBEDDINGS_ROUTES,
        description="Requests guarded as embeddings, with slots, queue and breaker of their own. "
        "These replace the defaults.",
    )
    model_prefix_bytes: WholeNumber = Field(
        default=_LIMITS.model_prefix_bytes,
        ge=_KIB,
        le=_GIB,
        description="Bytes of a request's body in which the model is looked for, where a class "
        "names models. A body whose model stands further back is taken for one without.",
    )


class LogSettings(Group):
    """Log lines on standard error."""

    level: Annotated[LogLevel, Word] = Field(
        default=LogLevel.INFO, description="Lines of less severity than this are not written."
    )
    format: Annotated[LogFormat, Word] = Field(
        default=LogFormat.AUTO,
        description="auto: readable on a terminal, one JSON object a line otherwise.",
    )
    requests: bool = Field(
        default=True, description="Whether every request is logged with one line."
    )
    request_sample_ratio: Number = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the request lines that are written, from 0 to 1. Failed and "
        "refused requests are always logged.",
    )


class Settings(BaseSettings):
    """Everything that can be set. Built by `sidecar.settings.load.load`, never changed."""

    # `forbid` and `frozen` as in the groups. An empty variable counts as not set, because
    # container tools write VAR="" for a value they were not given.
    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        env_ignore_empty=True,
        title="openclaw-sidecar settings",
    )

    upstream: Upstream | None = Field(
        default=None,
        description="The backend: http://HOST[:PORT], https://HOST[:PORT] or unix:PATH. "
        "`run` needs it.",
    )
    listen: Listen = Field(
        default=parse_listen(DEFAULT_LISTEN),
        json_schema_extra={"default": DEFAULT_LISTEN},
        description="Where clients connect: HOST:PORT, [IPV6]:PORT, :PORT for all interfaces, or "
        "unix:PATH. Port 0: the system chooses.",
    )
    admin: Listen = Field(
        default=parse_listen(DEFAULT_ADMIN),
        json_schema_extra={"default": DEFAULT_ADMIN},
        description="Where metrics, health and status are served; written like listen. It has no "
        "password: keep it private.",
    )
    max_concurrent: WholeNumber = Field(
        default=_GUARD.max_concurrent,
        ge=1,
        le=MAX_SLOTS,
        description="Inference requests at the backend at once, each until its last byte.",
    )
    max_upgrades: WholeNumber = Field(
        default=64,
        ge=1,
        le=MAX_SLOTS,
        description="WebSockets and other upgraded connections at once; more are refused.",
    )
    drain_s: Number = Field(
        default=300.0,
        ge=0,
        le=MAX_S,
        description="Seconds that running requests get to finish after SIGTERM.",
    )
    drain_upgrades_s: Number = Field(
        default=10.0,
        ge=0,
        le=MAX_S,
        description="Seconds that WebSockets and other upgraded connections get after SIGTERM; "
        "then they are closed.",
    )
    readiness: Annotated[Readiness, Word] = Field(
        default=Readiness.NOT_DRAINING,
        description="What /readyz follows. always: ready while running. not_draining: not ready "
        "while shutting down. breaker: nor while the circuit is open.",
    )
    forwarded: Annotated[Forwarded, Word] = Field(
        default=_PROXY.forwarded,
        description="What the backend is told of the client's address (Forwarded, X-Forwarded-*, "
        "X-Real-IP). off: nothing. rebuild: fresh fields. append: appended for trusted_proxies, "
        "rebuilt for all others.",
    )
    trusted_proxies: Networks = Field(
        default=(),
        description="Networks whose forwarded fields are believed with forwarded: append, such "
        "as 10.0.0.0/8.",
    )
    stream_error_events: bool = Field(
        default=_PROXY.stream_error_events,
        description="Tell clients in their API's own words when a guarded stream breaks off: an "
        "error event, so that SDKs raise instead of returning half an answer; then the connection "
        "is broken off.",
    )
    classes: Classes = Field(
        default={},
        examples=[EXAMPLE],
        description="More classes of routes, by name, and what is different in the default ones: "
        "each with limit, queue, breaker and time-outs. Tried in this order, before routes. A "
        "flag or variable holds all of them as JSON.",
    )
    breaker: BreakerSettings = BreakerSettings()
    queue: QueueSettings = QueueSettings()
    timers: TimerSettings = TimerSettings()
    pool: PoolSettings = PoolSettings()
    upstream_tls: UpstreamTlsSettings = UpstreamTlsSettings()
    tls: TlsSettings = TlsSettings()
    admin_tls: AdminTlsSettings = AdminTlsSettings()
    limits: LimitSettings = LimitSettings()
    embeddings: EmbeddingsSettings = EmbeddingsSettings()
    routes: RouteSettings = RouteSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`load` asks the sources itself, because it must tell where each value stands."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    # -- what a run is given --------------------------------------------------------------

    def plain(self) -> PlainSettings:
        """All of it, without pydantic."""
        names = self.class_names
        return PlainSettings(
            upstream=self.upstream,
            listen=self.listen,
            admin=self.admin,
            admin_tls=self.admin_tls.config(),
            proxy=self._proxy(),
            guards={name: self._guard(name) for name in names},
            breakers={name: owner_of_breaker(name, self.classes) for name in names},
            timers={name: self._timers(name) for name in names},
            routes=(*self._class_rules(), *self._default_rules()),
            probe_s=self.breaker.probe_s,
            drain_s=self.drain_s,
            drain_upgrades_s=self.drain_upgrades_s,
            readiness=self.readiness,
            log=LogConfig(**dict(self.log)),
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes of routes: the default ones and those of `classes`, upgrades last."""
        return (INFERENCE, EMBEDDINGS, *own_classes(self.classes), UPGRADE)

    def _guard(self, name: str) -> GuardConfig:
        """Limit, queue and, where it has one of its own, breaker of one class of routes."""
        if name == UPGRADE:
            # Nobody waits for a WebSocket to end, and its length says nothing of the backend.
            queue = replace(self.queue.config(), max_waiting=0)
            return GuardConfig(self.max_upgrades, queue, breaker=None, limit_setting="max_upgrades")
        given = self._class(name)
        slots, setting = self.max_concurrent, "max_concurrent"
        if given.max_concurrent:
            slots, setting = given.max_concurrent, f"classes.{name}.max_concurrent"
        elif name == EMBEDDINGS:
            slots, setting = self.embeddings.max_concurrent, "embeddings.max_concurrent"
        queue = replace(self.queue.config(), **given.queue.given)
        has_own = owner_of_breaker(name, self.classes) == name
        breaker = self.breaker.config() if has_own else None
        return GuardConfig(slots, queue, breaker, setting)

    def _timers(self, name: str) -> Timers:
        """The time-outs of one class of routes."""
        return replace(self.timers.config(), **self._class(name).timers.given)

    def _class(self, name: str) -> ClassSettings:
        return self.classes.get(name) or ClassSettings()

    def _proxy(self) -> ProxyConfig:
        """Everything the data path needs; without `upstream`, its own default stands."""
        return ProxyConfig(
            upstream=self.upstream or _PROXY.upstream,
            timers=self.timers.config(),
            pool=self.pool.config(),
            upstream_tls=self.upstream_tls.config(),
            tls=self.tls.config(),
            stream_error_events=self.stream_error_events,
            forwarded=self.forwarded,
            trusted_proxies=tuple(self.trusted_proxies),
            limits=Limits(
                **dict(self.limits),
                body_buffer_bytes=self.queue.body_buffer_bytes,
                model_prefix_bytes=self.routes.model_prefix_bytes,
            ),
        )

    def _class_rules(self) -> list[RouteRule]:
        return class_rules(self.classes, self.routes.inference, self.routes.embeddings)

    def _default_rules(self) -> list[RouteRule]:
        return default_rules(self.routes.inference, self.routes.embeddings)

    def contradictions(self) -> list[tuple[str, str]]:
        """Values that are right alone and wrong together, as (key, what would be right)."""
        found = []
        if self.listen.overlaps(self.admin):
            found.append(("admin", f"must not be listen's address ({self.listen})"))
        if self.upstream is not None:
            target = upstream_address(self.upstream)
            found += [
                ("upstream", f"must be the backend, not this sidecar's own {key} ({own})")
                for key, own in (("listen", self.listen), ("admin", self.admin))
                if own.accepts(target)
            ]
        return [*found, *self.breaker.contradictions(), *self._contradictions_of_classes()]

    def _contradictions_of_classes(self) -> list[tuple[str, str]]:
        found = contradictions_in(self.classes, self._class_rules())
        before = "before it; write classes.{name} before classes.{other}"
        found += rules_without_use(self._class_rules(), "classes.{name}", before)
        # Whoever left the default rules alone does not mind that some are never used.
        if "embeddings" in self.routes.model_fields_set:
            leave_out = "before it; leave it out"
            found += rules_without_use(self._default_rules(), "routes.{name}", leave_out)
        return found + self._too_narrow_queues()

    def _too_narrow_queues(self) -> list[tuple[str, str]]:
        """Where what one body may hold in memory is more than all of a queue may."""
        needed = {"queue.body_buffer_bytes": self.queue.body_buffer_bytes}
        if any(rule.model_glob is not None for rule in self._class_rules()):
            needed["routes.model_prefix_bytes"] = self.routes.model_prefix_bytes
        found = [
            (key, f"must be at most queue.max_bytes ({self.queue.max_bytes})")
            for key, size in needed.items()
            if size > self.queue.max_bytes
        ]
        for name, given in self.classes.items():
            most = given.queue.max_bytes
            found += [
                (f"classes.{name}.queue.max_bytes", f"must be at least {key} ({size})")
                for key, size in needed.items()
                if most is not None and size > most
            ]
        return found
