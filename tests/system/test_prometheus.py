"""Does a real Prometheus like our metrics? Debian's promtool and server, a real backend."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.llama import LlamaServer
from tests.system import chat
from tests.system.waiting import answers, free_port, text_of, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

_CONFIG = """\
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: openclaw-sidecar
    static_configs: [{{targets: ["{target}"]}}]
"""


@pytest.fixture(scope="module")
def admin(llama_server: LlamaServer) -> Iterator[str]:
    """The admin address of a sidecar that has carried a plain and a streamed completion."""
    proxy, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "sidecar", "run", "--upstream", llama_server.url]
    command += ["--listen", proxy, "--admin", admin]
    with subprocess.Popen(command) as process:
        try:
            until(lambda: _is_ready(process, admin), 20, "the sidecar is ready")
            chat.plain(f"http://{proxy}")
            chat.streamed(f"http://{proxy}")
            yield admin
        finally:
            process.terminate()
            process.wait(20)


def _is_ready(process: subprocess.Popen[bytes], admin: str) -> bool:
    assert process.poll() is None, "the sidecar ended; its reason is above"
    return answers(f"http://{admin}/readyz")


@pytest.fixture
def prometheus(admin: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a Prometheus server that scrapes the sidecar."""
    config = tmp_path / "prometheus.yaml"
    config.write_text(_CONFIG.format(target=admin))
    listen = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={config}", f"--web.listen-address={listen}"]
    command += [f"--storage.tsdb.path={tmp_path / 'data'}", "--log.level=warn"]
    with subprocess.Popen(command) as process:
        try:
            until(lambda: answers(f"http://{listen}/-/ready"), 30, "Prometheus is ready")
            yield f"http://{listen}"
        finally:
            process.terminate()
            process.wait(20)


def test_promtool_has_nothing_to_say(admin: str) -> None:
    """Names, types, units and help texts follow Prometheus' own practices."""
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text_of(f"http://{admin}/metrics"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_prometheus_scrapes_and_answers(prometheus: str) -> None:
    """A scrape succeeds, counters arrive, and quantiles come out of the histograms."""
    until(lambda: _value(prometheus, "up") == 1, 30, "the sidecar is scraped")
    requests = 'sum(openclaw_sidecar_requests_total{route="inference"})'
    assert _value(prometheus, requests) == 2
    quantile = (
        'histogram_quantile(0.5, openclaw_sidecar_first_event_seconds_bucket{route="inference"})'
    )
    first_event_s = _value(prometheus, quantile)
    assert first_event_s is not None
    assert 0 < first_event_s < 20


def _value(prometheus: str, query: str) -> float | None:
    """The value of the one series that answers, or None when there is none yet."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    answer: dict[str, Any] = json.loads(text_of(url))
    match answer["data"]["result"]:
        case []:
            return None
        case [series]:
            return float(series["value"][1])
        case several:
            raise AssertionError(f"{query} gives {len(several)} series")
