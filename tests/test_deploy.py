"""Do the Kubernetes manifests, the image and the sidecar agree with each other?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from sidecar import __version__
from sidecar.cli import main

_ROOT = Path(__file__).parents[1]
_FOLDER = _ROOT / "deploy" / "kubernetes"
_CONFIG = _FOLDER / "sidecar.yaml"
_UID = 65532

Yaml = dict[str, Any]


def _read(name: str) -> Yaml:
    content: Yaml = yaml.safe_load((_FOLDER / name).read_text())
    return content


@pytest.fixture
def pod() -> Yaml:
    """The pod's spec in the Deployment."""
    spec: Yaml = _read("deployment.yaml")["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def sidecar(pod: Yaml) -> Yaml:
    """The sidecar's container."""
    (container,) = pod["initContainers"]
    assert isinstance(container, dict)
    return container


@pytest.fixture
def backend(pod: Yaml) -> Yaml:
    """The backend's container."""
    (container,) = pod["containers"]
    assert isinstance(container, dict)
    return container


@pytest.fixture
def image() -> dict[str, str]:
    """What the last stage of the Dockerfile sets as environment variables."""
    text = (_ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    return dict(re.findall(r"\b(SIDECAR_\w+)=(\S+)", text))


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _port_numbers(container: Yaml) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def test_the_sidecar_is_a_native_one(sidecar: Yaml) -> None:
    """It starts before the backend and outlives it: an init container that always restarts."""
    assert sidecar["restartPolicy"] == "Always"
    assert "startupProbe" in sidecar


def test_the_manifests_deploy_this_version() -> None:
    """Kustomize puts in the tag of the version that they lie beside."""
    (image,) = _read("kustomization.yaml")["images"]
    assert image["newTag"] == __version__


def test_the_image_named_in_kustomization_is_the_one_used(sidecar: Yaml) -> None:
    """Renaming the image in one place reaches the sidecar."""
    (image,) = _read("kustomization.yaml")["images"]
    assert sidecar["image"] == image["name"]


def test_the_configuration_is_good(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], image: dict[str, str]
) -> None:
    """`openclaw-sidecar check` accepts the ConfigMap's file in the image's environment."""
    for name, value in image.items():
        monkeypatch.setenv(name, value)
    code = main(["check", "--config", str(_CONFIG)])
    assert (code, capsys.readouterr().err) == (0, "")


def test_the_mounted_file_is_the_one_that_is_read(pod: Yaml, sidecar: Yaml) -> None:
    """The flag names the file of the generated ConfigMap at its mount."""
    (generator,) = _read("kustomization.yaml")["configMapGenerator"]
    (volume,) = pod["volumes"]
    (mount,) = sidecar["volumeMounts"]
    assert volume["configMap"]["name"] == generator["name"]
    assert mount["name"] == volume["name"]
    assert sidecar["args"] == ["run", "--config", f"{mount['mountPath']}/{_CONFIG.name}"]
    assert generator["files"] == [_CONFIG.name]


def test_there_is_time_to_end(pod: Yaml, backend: Yaml) -> None:
    """The grace period covers the backend's pause, its own end (30 s) and the sidecar's drain."""
    pause_s = backend["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain_s = yaml.safe_load(_CONFIG.read_text())["drain_s"]
    assert pod["terminationGracePeriodSeconds"] > pause_s + 30 + drain_s


def test_ports_are_those_of_the_image(sidecar: Yaml, image: dict[str, str]) -> None:
    """The container's ports are where the image listens, on all of the pod's interfaces."""
    assert image["SIDECAR_LISTEN"].startswith("0.0.0.0:")
    assert image["SIDECAR_ADMIN"].startswith("0.0.0.0:")
    assert _port_numbers(sidecar) == {
        "http-sidecar": _port(image["SIDECAR_LISTEN"]),
        "http-metrics": _port(image["SIDECAR_ADMIN"]),
    }
    exposed = re.findall(r"^EXPOSE (.+)$", (_ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert exposed == [" ".join(map(str, _port_numbers(sidecar).values()))]


def test_port_names_are_valid_and_unique(sidecar: Yaml, backend: Yaml) -> None:
    """At most 15 characters, and one name a pod."""
    names = [*_port_numbers(sidecar), *_port_numbers(backend)]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 15 for name in names)


def test_the_service_leads_to_the_sidecar(sidecar: Yaml) -> None:
    """To its port by number, since older Services do not find a native sidecar's named ports."""
    service = _read("service.yaml")["spec"]
    labels = _read("deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    (port,) = service["ports"]
    assert port["targetPort"] == _port_numbers(sidecar)["http-sidecar"]
    assert service["selector"].items() <= labels.items()


def test_probes_ask_the_admin_port(sidecar: Yaml) -> None:
    """Liveness depends on the process alone, readiness on its state."""
    admin = _port_numbers(sidecar)["http-metrics"]
    asked = {
        name: (sidecar[name]["httpGet"]["path"], sidecar[name]["httpGet"]["port"])
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert asked == {
        "startupProbe": ("/livez", admin),
        "livenessProbe": ("/livez", admin),
        "readinessProbe": ("/readyz", admin),
    }


def test_the_sidecar_guards_the_backend_beside_it(backend: Yaml) -> None:
    """The upstream is the backend's port on the loopback interface that the pod shares."""
    upstream = urlsplit(yaml.safe_load(_CONFIG.read_text())["upstream"])
    assert upstream.hostname == "127.0.0.1"
    assert upstream.port == _port_numbers(backend)["http-backend"]
    assert backend["args"] == ["--host", upstream.hostname, "--port", str(upstream.port)]


def test_prometheus_finds_the_metrics(sidecar: Yaml) -> None:
    """The annotations name the admin port."""
    annotations = _read("deployment.yaml")["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(_port_numbers(sidecar)["http-metrics"]),
        "prometheus.io/path": "/metrics",
    }


def test_the_pod_satisfies_the_restricted_standard(pod: Yaml, sidecar: Yaml, backend: Yaml) -> None:
    """Namespaces that enforce the restricted Pod Security Standard admit it."""
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (sidecar, backend):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": _UID,
            "runAsGroup": _UID,
            "capabilities": {"drop": ["ALL"]},
        }
    assert f"\nUSER {_UID}:{_UID}\n" in (_ROOT / "Dockerfile").read_text()


def test_the_pod_gets_nothing_that_it_does_not_need(pod: Yaml) -> None:
    """No token for the cluster's API; no variables of Services that look like settings."""
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False


def test_memory_is_bounded_and_the_processor_is_not(sidecar: Yaml) -> None:
    """A memory limit equal to the request; a CPU limit would stall every stream at once."""
    resources = sidecar["resources"]
    assert resources["limits"] == {"memory": resources["requests"]["memory"]}
