"""How does a running sidecar do? `status` and `healthcheck` ask its admin port.

Standard library only: a health check runs every few seconds, and importing a web framework for it
would cost more than the check itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import sys
from typing import Any

from sidecar.cli.status import text_of
from sidecar.settings.address import DEFAULT_ADMIN, ListenAddress, parse_listen, reachable

# Below the usual time-out of a container health check (30 s for Docker), so that ours explains.
_TIMEOUT_S = 5.0

_MAX_ANSWER_BYTES = 16 * 1024 * 1024


class AskError(Exception):
    """The sidecar did not answer as it should; the text says how."""


class WrongAddressError(Exception):
    """The address to ask cannot be right; the text says what would be."""


def run(command: str, options: argparse.Namespace) -> int:
    """Ask as told; returns the exit code. Raises `AskError` and `WrongAddressError`."""
    address = _admin_address(options.admin)
    if command == "healthcheck":
        _ask(address, "/readyz" if options.ready else "/livez")
        return 0
    answer = _status(address)
    if options.json:
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
        return 0
    try:
        text = text_of(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AskError(f"{address} answers /status in a form this version does not know") from error
    sys.stdout.write(text)
    return 0


def _admin_address(flag: str | None) -> ListenAddress:
    """Where to ask: the flag, the variable, the file that a variable names, or the default."""
    variable = os.environ.get("SIDECAR_ADMIN")
    text, where = (flag, "--admin") if flag is not None else (variable, "SIDECAR_ADMIN")
    if not text and not flag and os.environ.get("SIDECAR_CONFIG"):
        return _usable(_address_in_file(), "SIDECAR_CONFIG")
    try:
        address = parse_listen(text if text is not None else DEFAULT_ADMIN)
    except ValueError as error:
        raise WrongAddressError(f"{where} = {text}: {error}") from error
    return _usable(address, where)


def _usable(address: ListenAddress, where: str) -> ListenAddress:
    if address.path is None and address.port == 0:
        raise WrongAddressError(f"{where} = {address}: must name the port that was chosen")
    return reachable(address)


def _address_in_file() -> ListenAddress:
    from sidecar.settings.load import load  # noqa: PLC0415 - YAML and pydantic, only where needed
    from sidecar.settings.mistakes import ConfigError  # noqa: PLC0415

    try:
        return load({}, os.environ).settings.admin
    except ConfigError as error:
        raise WrongAddressError(f"no admin address: {error}") from error


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(address: ListenAddress, path: str) -> bytes:
    """GET `path`; raises `AskError` unless the answer is a 200."""
    if address.path is not None:
        connection: http.client.HTTPConnection = _UnixConnection(address.path)
    else:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES)
    except TimeoutError as error:
        raise AskError(f"no answer from {address} within {_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise AskError(f"cannot reach {address}: {error.strerror or error}") from error
    except http.client.HTTPException as error:
        raise AskError(f"{address} does not answer as an admin port: {error!r}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise AskError(f"{address} answers {path} with {response.status}")
    return body


def _status(address: ListenAddress) -> dict[str, Any]:
    try:
        answer = json.loads(_ask(address, "/status"))
    except ValueError as error:
        raise AskError(f"{address} answers /status without JSON: is it the admin port?") from error
    if not isinstance(answer, dict):
        raise AskError(f"{address} answers /status in a form this version does not know")
    return answer
