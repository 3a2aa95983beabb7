"""Are the Dockerfile and the manifests good in the eyes of the tools made for them?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.conftest import ROOT

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

_BIN = Path(sys.executable).parent


def _run(*command: str, given: str = "") -> str:
    """Run a tool of the environment; what it printed. Its complaint is the test's."""
    done = subprocess.run(
        [_BIN / command[0], *command[1:]],
        cwd=ROOT,
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rendered() -> str:
    """The manifests as kustomize hands them to the cluster."""
    return _run("kubectl", "kustomize", "deploy/kubernetes")


def test_hadolint_has_nothing_to_say() -> None:
    """The Dockerfile follows the practices that hadolint knows, labels included."""
    assert _run("hadolint", "--config", ".hadolint.yaml", "Dockerfile") == ""


@pytest.mark.parametrize(
    "version", ["1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.37"]
)
def test_every_supported_kubernetes_knows_all_fields(rendered: str, version: str) -> None:
    """No unknown field and no wrong type, by the schema of each version."""
    _run("kubernetes-validate", "--strict", "--kubernetes-version", version, "-", given=rendered)


def test_the_config_map_is_renamed_with_its_content(rendered: str) -> None:
    """A changed configuration rolls out new pods, because its name changes too."""
    assert rendered.count("name: openclaw-sidecar-") == 2
