"""Does the pod of the manifests run? Its containers as written, in the order of a kubelet.

There is no Kubernetes here: the engine runs the two containers with one shared network of their
own, which is what a pod is, and this test asks the probes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.system.conftest import ROOT
from tests.system.engine import Engine
from tests.system.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

_FOLDER = ROOT / "deploy" / "kubernetes"
_READY_S = 30.0  # what the startupProbe allows as well

# What a client of the pod does; it runs in the backend's container, where there is a Python.
_CLIENT = """\
import urllib.request as u
body = b'{"model": "demo", "stream": true, "messages": [{"role": "user", "content": "hello"}]}'
answer = u.urlopen(u.Request("http://127.0.0.1:%d/v1/chat/completions", body,
                             {"content-type": "application/json"}), timeout=20)
print(answer.headers["via"], answer.read().decode().split()[-1])
"""
_PROBE = """\
import urllib.request as u
print(u.urlopen("http://127.0.0.1:%d%s", timeout=5).status)
"""

Yaml = dict[str, Any]


class Pod:
    """The containers of the Deployment, run one by one."""

    def __init__(self, engine: Engine, image: str) -> None:
        self._engine = engine
        self._image = image
        self._spec: Yaml = yaml.safe_load((_FOLDER / "deployment.yaml").read_text())
        self._prefix = uuid.uuid4().hex[:8]
        self._network = "none"
        self.started: list[str] = []

    def containers(self, kind: str) -> list[Yaml]:
        """`initContainers` or `containers`."""
        found: list[Yaml] = self._spec["spec"]["template"]["spec"][kind]
        return found

    def start(self, container: Yaml) -> str:
        """Run it as its part of the manifest says; returns its name in the engine."""
        name = f"{self._prefix}-{container['name']}"
        security = container["securityContext"]
        entry = container.get("command", [])
        flags = [f"--entrypoint={entry[0]}"] if entry else []
        flags += ["--read-only"] if security["readOnlyRootFilesystem"] else []
        flags += [f"--cap-drop={each}" for each in security["capabilities"]["drop"]]
        flags += [f"--user={security['runAsUser']}:{security['runAsGroup']}"]
        flags += [f"--memory={container['resources']['limits']['memory'].removesuffix('i')}"]
        flags += [
            f"--volume={_FOLDER}:{mount['mountPath']}:ro"
            for mount in container.get("volumeMounts", [])
        ]
        self._engine.docker(
            "run", "--detach", f"--name={name}", f"--network={self._network}", "--no-healthcheck",
            "--security-opt=no-new-privileges", *flags, self._image, *entry[1:],
            *container["args"],
        )  # fmt: skip
        self._network = f"container:{name}" if not self.started else self._network
        self.started.append(name)
        return name

    def run_inside(self, name: str, *command: str) -> str | None:
        """Run a command in the container; what it printed, or None when it failed."""
        try:
            return self._engine.docker("exec", name, *command)
        except AssertionError:
            return None

    def probe(self, name: str, probe: Yaml) -> bool:
        """Whether the probe succeeds now."""
        if "exec" in probe:
            return self.run_inside(name, *probe["exec"]["command"]) is not None
        get = probe["httpGet"]
        return self.run_inside(name, "python", "-c", _PROBE % (get["port"], get["path"])) == "200"

    def stop(self, name: str) -> int:
        """SIGTERM, and the exit code."""
        self._engine.docker("stop", "--time=30", name)
        state = json.loads(self._engine.docker("inspect", name))[0]["State"]
        return int(state["ExitCode"])

    def remove(self) -> None:
        """Take all containers away."""
        for name in reversed(self.started):
            print(f"logs of {name}:", self._engine.logs(name), sep="\n")
            self._engine.docker("rm", "--force", "--volumes", name)


@pytest.fixture
def pod(engine: Engine, image: str) -> Iterator[Pod]:
    """The pod of the Deployment, nothing started yet."""
    pod = Pod(engine, image)
    try:
        yield pod
    finally:
        pod.remove()  # what the containers have written is shown when the test fails


def test_the_pod_starts_serves_and_ends(pod: Pod) -> None:
    """The sidecar starts before the backend, both get ready, a stream passes, both end well."""
    (sidecar,) = pod.containers("initContainers")
    (backend,) = pod.containers("containers")

    guard = pod.start(sidecar)
    until(lambda: pod.probe(guard, sidecar["startupProbe"]), _READY_S, "the sidecar has started")
    model = pod.start(backend)
    until(lambda: pod.probe(model, backend["readinessProbe"]), _READY_S, "the backend is ready")
    assert pod.probe(guard, sidecar["livenessProbe"])
    assert pod.probe(guard, sidecar["readinessProbe"])

    port = sidecar["ports"][0]["containerPort"]
    answer = pod.run_inside(model, "python", "-c", _CLIENT % port)
    assert answer is not None
    assert answer.endswith("openclaw-sidecar [DONE]")

    assert pod.stop(model) == 0
    assert pod.stop(guard) == 0
