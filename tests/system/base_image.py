"""What stands in for the base image of the Dockerfile? No image registry is asked in these tests.

Debian's own Python of the same version and release, from Debian packages, under the base's name.
How this machine reaches the package index (authorities, index, proxy) goes into this stand-in as
well, so that the Dockerfile knows nothing of it.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.system.engine import Engine

_SUITE = "trixie"
_PACKAGES = "python3,python3-venv,python-is-python3,ca-certificates,netbase"
_BOOTSTRAP = [
    "mmdebstrap",
    "--quiet",
    "--variant=minbase",
    "--mode=root",
    f"--include={_PACKAGES}",
    *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "info", "man", "locale")),
    _SUITE,
]
_CACHE = Path("/var/cache/openclaw-sidecar-ci")

_DOCKERFILE = """\
FROM scratch
ADD rootfs.tar /
COPY authorities.pem /etc/ssl/certs/ca-certificates.crt
COPY pip.conf /etc/pip.conf
ENV LANG=C.UTF-8 SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["python3"]
"""


def name_in(dockerfile: Path) -> str:
    """The base image that the Dockerfile asks for when nobody says otherwise."""
    found = re.search(r"^ARG BASE_IMAGE=(\S+)$", dockerfile.read_text(), re.MULTILINE)
    assert found, "the Dockerfile names no BASE_IMAGE"
    assert _SUITE in found[1], f"the stand-in is Debian {_SUITE}, not {found[1]}"
    return found[1]


def make(engine: Engine, image: str) -> None:
    """Put the stand-in under the name `image` into the engine."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(_root_file_system(), folder / "rootfs.tar")
        shutil.copy(_authorities(), folder / "authorities.pem")
        (folder / "pip.conf").write_text(_pip_conf())
        (folder / "Dockerfile").write_text(_DOCKERFILE)
        engine.docker("build", "--quiet", "--tag", image, str(folder), within_s=120)


def _root_file_system() -> Path:
    """Made once a machine; takes a minute."""
    recipe = hashlib.sha256(" ".join(_BOOTSTRAP).encode()).hexdigest()[:12]
    kept = _CACHE / f"{_SUITE}-{recipe}.tar"
    if not kept.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = _CACHE / f"{kept.stem}-{os.getpid()}.tar"
        subprocess.run([*_BOOTSTRAP, str(unfinished)], check=True, timeout=500)
        unfinished.rename(kept)
    return kept


def _authorities() -> Path:
    """Whom this machine trusts: Debian's bundle unless the environment names another."""
    return Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))


def _pip_conf() -> str:
    """What this machine's pip is told about its index, without paths of this machine."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = ["[global]"]
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        option = key.rpartition(".")[2]
        if option in ("index-url", "proxy", "trusted-host"):
            lines.append(f"{option} = {ast.literal_eval(value)}")
    return "\n".join(lines) + "\n"
