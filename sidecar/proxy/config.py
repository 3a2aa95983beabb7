"""Which numbers does the data path obey? Plain values; `sidecar.settings` fills them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network


@dataclass(frozen=True, slots=True)
class Timers:
    """All time-outs of the data path, in seconds. None means no bound."""

    connect_s: float = 5.0
    first_event_s: float = 300.0
    stall_s: float = 120.0
    write_stall_s: float = 60.0
    total_s: float | None = None
    head_s: float = 10.0
    body_stall_s: float = 30.0
    keepalive_s: float = 75.0
    tunnel_idle_s: float | None = None
    first_event_per_kib_s: float = 0.0

    def first_event_within_s(self, body_bytes: int) -> float:
        """How long the first data event may take after a request of that size; more if long."""
        return self.first_event_s + self.first_event_per_kib_s * body_bytes / 1024


@dataclass(frozen=True, slots=True)
class Pool:
    """Connections to the backend. Node (and so OpenClaw) closes idle ones after 5 s."""

    idle_s: float = 4.0
    # So that a change of DNS is followed also by connections that are never idle. A new connection
    # every five minutes costs nothing (a guess).
    max_age_s: float = 300.0
    max_idle: int = 256  # a guess: what a burst leaves behind beyond it is not worth its files
    max_connections: int = 10_000


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How an `https://` backend is verified, and what it is shown. All files are PEM.

    `ca_file` None means the system's trust store, `server_name` None the host of the URL.
    """

    ca_file: str | None = None
    verify: bool = True
    server_name: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """What a listener shows its clients, and what it asks of them. Without a certificate: no TLS.

    With `client_ca_file` each client must show a certificate of one of these authorities.
    """

    cert_file: str | None = None
    key_file: str | None = None
    client_ca_file: str | None = None


class Forwarded(StrEnum):
    """What is told to the backend about the client's address."""

    OFF = "off"  # nothing, and what the client says of itself is removed
    REBUILD = "rebuild"  # fresh fields, the client's own are removed
    APPEND = "append"  # appended for trusted peers, rebuilt for all others


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes, numbers and a pace that clients, or the backend, must keep to.

    `body_min_bytes_per_s` is asked of guarded requests, over `Timers.body_stall_s`. The default is
    that of Apache's mod_reqtimeout: the slowest phone is faster.
    """

    head_bytes: int = 32 * 1024
    head_fields: int = 256
    max_connections: int = 10_000
    max_connections_per_address: int = 10_000
    ipv6_prefix_bits: int = 64
    body_buffer_bytes: int = 1024 * 1024
    body_min_bytes_per_s: int = 500
    response_head_bytes: int = 256 * 1024
    # The openai and anthropic SDKs for Python write the messages before the model. This is a prompt
    # of some 60000 tokens; to read through it costs up to 2 ms (measured).
    model_prefix_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """Everything the data path needs to know."""

    upstream: str = "http://127.0.0.1:18789"
    timers: Timers = Timers()
    pool: Pool = Pool()
    upstream_tls: UpstreamTls = UpstreamTls()
    tls: ListenerTls = ListenerTls()
    stream_error_events: bool = True
    forwarded: Forwarded = Forwarded.OFF
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    limits: Limits = Limits()
