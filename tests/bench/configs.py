"""How is each peer told to do the sidecar's duty? Configuration texts, as plain strings.

Equal duty: a limit on requests at the backend, a queue and a circuit breaker where the peer has
them, metrics where it keeps them, streaming without buffering, upstream connections kept. No access
log: here the peers have it easier than the sidecar, which logs every request.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Duty:
    """What a contender shall do: listen where, for which backend, how many at once."""

    port: int
    upstream_port: int
    limit: int
    folder: Path
    """For its files; its own."""
    spare_port: int = 0
    """For metrics or administration, where that needs a listener."""


# Far above what the benchmark queues.
QUEUE = 20_000


def haproxy(duty: Duty) -> str:
    """FIFO queue by `maxconn` and `timeout queue`; five bad answers in a row mark it down."""
    return f"""\
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout queue 600s
  option http-no-delay
  http-reuse always
frontend clients
  bind 127.0.0.1:{duty.port} backlog 4096
  http-request use-service prometheus-exporter if {{ path /haproxy-metrics }}
  default_backend inference
backend inference
  option httpchk GET /health
  retries 0
  server backend 127.0.0.1:{duty.upstream_port} maxconn {duty.limit} check inter 2s \
observe layer7 error-limit 5 on-error mark-down
"""


def nginx(duty: Duty) -> str:
    """A limit that refuses at once; the free nginx has neither queue nor breaker for one server."""
    return f"""\
{_nginx_head(duty.folder)}
  limit_conn_zone $server_name zone=all:1m;
  upstream backend {{ server 127.0.0.1:{duty.upstream_port}; keepalive 1024; \
keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{duty.port} backlog=4096;
    server_name bench;
    location / {{
      limit_conn all {duty.limit};
      limit_conn_status 429;
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
      client_max_body_size 64m;
    }}
  }}
}}
"""


def nginx_origin(port: int, body: str, folder: Path) -> str:
    """No proxy but a backend: answers everything with the same body."""
    return f"""\
{_nginx_head(folder)}
  default_type application/json;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 '{body}'; }}
  }}
}}
"""


def _nginx_head(folder: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "\n".join(
        [
            "daemon off;",
            "worker_processes 1;",
            "error_log stderr error;",
            f"pid {folder}/nginx.pid;",
            "events { worker_connections 10000; }",
            "http {",
            "  access_log off;",
            "  keepalive_requests 1000000000;",
            *(f"  {kind}_temp_path {folder}/{kind};" for kind in kinds),
        ]
    )


def envoy(duty: Duty) -> str:
    """Connections are the limit, pending requests the queue, outlier detection the breaker."""
    types = "type.googleapis.com/envoy.extensions.filters"
    return f"""\
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {duty.spare_port}}}}}}}
static_resources:
  listeners:
    - address: {{socket_address: {{address: 127.0.0.1, port_value: {duty.port}}}}}
      tcp_backlog_size: 4096
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": {types}.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: bench
                stream_idle_timeout: 600s
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes: [{{match: {{prefix: "/"}}, route: {{cluster: backend, timeout: 0s}}}}]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {{"@type": {types}.http.router.v3.Router}}
  clusters:
    - name: backend
      type: STATIC
      connect_timeout: 5s
      load_assignment:
        cluster_name: backend
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: {{address: 127.0.0.1, port_value: {duty.upstream_port}}}
      circuit_breakers:
        thresholds:
          - max_connections: {duty.limit}
            max_pending_requests: {QUEUE}
            max_requests: {QUEUE}
            max_retries: 0
      outlier_detection:
        consecutive_5xx: 5
        interval: 1s
        base_ejection_time: 60s
        max_ejection_percent: 100
        enforcing_success_rate: 0
      common_lb_config: {{healthy_panic_threshold: {{value: 0}}}}
"""


def traefik_static(duty: Duty) -> str:
    """Listeners, metrics, and where the rest of the configuration is."""
    return f"""\
global: {{checkNewVersion: false, sendAnonymousUsage: false}}
log: {{level: ERROR}}
entryPoints:
  web: {{address: "127.0.0.1:{duty.port}"}}
  metrics: {{address: "127.0.0.1:{duty.spare_port}"}}
metrics: {{prometheus: {{entryPoint: metrics}}}}
providers: {{file: {{filename: "{duty.folder}/dynamic.yaml", watch: false}}}}
"""


def traefik_dynamic(duty: Duty) -> str:
    """A limit that refuses at once, and a breaker that goes by ratios."""
    return f"""\
http:
  routers:
    all: {{rule: "PathPrefix(`/`)", entryPoints: [web], service: backend, \
middlewares: [breaker, limit]}}
  middlewares:
    limit: {{inFlightReq: {{amount: {duty.limit}}}}}
    breaker:
      circuitBreaker: {{expression: "ResponseCodeRatio(500, 600, 0, 600) > 0.5 || \
NetworkErrorRatio() > 0.5"}}
  services:
    backend: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{duty.upstream_port}"}}]}}}}
"""


def caddy(duty: Duty) -> str:
    """A busy backend counts as unhealthy, and requests poll until it is not; passive health."""
    return f"""\
{{
	admin off
	auto_https off
	persist_config off
	metrics
}}
http://127.0.0.1:{duty.port} {{
	bind 127.0.0.1
	reverse_proxy 127.0.0.1:{duty.upstream_port} {{
		flush_interval -1
		unhealthy_request_count {duty.limit}
		lb_try_duration 600s
		fail_duration 60s
		max_fails 5
		unhealthy_status 5xx
		transport http {{
			keepalive_idle_conns_per_host 1024
		}}
	}}
}}
"""


def litellm(duty: Duty) -> str:
    """One deployment with a limit that refuses, after a short wait."""
    return f"""\
model_list:
  - model_name: m
    litellm_params:
      model: openai/m
      api_base: "http://127.0.0.1:{duty.upstream_port}/v1"
      api_key: none
      max_parallel_requests: {duty.limit}
      max_retries: 0
router_settings: {{num_retries: 0, allowed_fails: 5, cooldown_time: 60}}
litellm_settings: {{num_retries: 0, telemetry: false, request_timeout: 600}}
general_settings: {{master_key: {LITELLM_KEY}}}
"""


# Every contender is sent it: callers of LLM backends carry a key.
LITELLM_KEY = "sk-bench-no-secret"
