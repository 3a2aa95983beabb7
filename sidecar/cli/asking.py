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
import ssl
import sys
from pathlib import Path
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
    tls = _tls(options)
    if command == "healthcheck":
        _ask(address, tls, "/readyz" if options.ready else "/livez")
        return 0
    answer = _status(address, tls)
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
    text = _in_file("admin")
    try:
        return parse_listen(DEFAULT_ADMIN if text is None else str(text))
    except ValueError as error:
        raise WrongAddressError(
            f"no admin address: SIDECAR_CONFIG: admin = {text}: {error}"
        ) from error


def _in_file(key: str) -> object:
    """What the file in `SIDECAR_CONFIG` says of one setting; None without it.

    Nothing else there is looked at: a sidecar that runs is alive, even if the file is no good now.
    """
    path = os.environ.get("SIDECAR_CONFIG")
    try:
        # Reading the file whole costs the time that importing the libraries for it takes.
        if not path or key.partition(".")[0] not in Path(path).read_text(errors="replace"):
            return None
    except (OSError, ValueError) as error:
        raise WrongAddressError(f"no admin address: {path} cannot be read: {error}") from error
    from sidecar.settings.file import read_file  # noqa: PLC0415 - YAML and pydantic
    from sidecar.settings.mistakes import ConfigError  # noqa: PLC0415

    try:
        found = read_file(path).values.get(key)
    except ConfigError as error:
        raise WrongAddressError(f"no admin address: {error}") from error
    return found.value if found is not None else None


# -- TLS --------------------------------------------------------------------------------------


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    """How to encrypt, as the flags say; without them as the sidecar beside us is configured."""
    # What the environment says is of the sidecar here. Whoever names another one names its TLS too.
    local = options.admin is None and _has_admin_tls()
    if not (options.admin_ca or options.insecure or local):
        if options.admin_cert or options.admin_key:
            raise WrongAddressError("--admin-cert and --admin-key need --admin-ca or --insecure")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not options.admin_ca:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if options.admin_ca:
            context.load_verify_locations(options.admin_ca)
        if options.admin_cert:
            context.load_cert_chain(options.admin_cert, options.admin_key, _no_password)
    except (OSError, ValueError) as error:
        raise WrongAddressError(f"a file of --admin-* cannot be used: {_why(error)}") from error
    return context


def _has_admin_tls() -> bool:
    return bool(os.environ.get("SIDECAR_ADMIN_TLS__CERT_FILE") or _in_file("admin_tls.cert_file"))


def _no_password() -> bytes:
    raise ValueError("the key must not have a password")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)


# -- HTTP -------------------------------------------------------------------------------------


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, encrypted or not."""

    def __init__(self, path: str, tls: ssl.SSLContext | None) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path
        self._tls = tls

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)


def _connection(address: ListenAddress, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if address.path is not None:
        return _UnixConnection(address.path, tls)
    if tls is None:
        return http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT_S)
    return http.client.HTTPSConnection(address.host, address.port, timeout=_TIMEOUT_S, context=tls)


def _ask(address: ListenAddress, tls: ssl.SSLContext | None, path: str) -> bytes:
    """GET `path`; raises `AskError` unless the answer is a 200."""
    connection = _connection(address, tls)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES)
    except TimeoutError as error:
        raise AskError(f"no answer from {address} within {_TIMEOUT_S:g} s") from error
    except ssl.SSLError as error:
        raise AskError(f"TLS with {address} failed: {_why(error)}") from error
    except OSError as error:
        raise AskError(f"cannot reach {address}: {error.strerror or error}") from error
    except http.client.HTTPException as error:
        raise AskError(f"{address} does not answer as an admin port: {error!r}") from error
    finally:
        connection.close()
    if response.status == 400 and tls is None and b"TLS" in body:
        raise AskError(f"{address} speaks TLS: give --admin-ca FILE or --insecure")
    if response.status != 200:
        raise AskError(f"{address} answers {path} with {response.status}")
    return body


def _status(address: ListenAddress, tls: ssl.SSLContext | None) -> dict[str, Any]:
    try:
        answer = json.loads(_ask(address, tls, "/status"))
    except ValueError as error:
        raise AskError(f"{address} answers /status without JSON: is it the admin port?") from error
    if not isinstance(answer, dict):
        raise AskError(f"{address} answers /status in a form this version does not know")
    return answer
