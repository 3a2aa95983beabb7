"""How does a running sidecar do? `status` and `healthcheck` ask its admin port.

A health check runs every few seconds, and what it costs is what it imports. So it is the standard
library only, and of that only what it needs: TLS, files and tables are imported where they come up.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from sidecar.cli.http_get import NotHttpError, get
from sidecar.settings.address import DEFAULT_ADMIN, ListenAddress, parse_listen, reachable

if TYPE_CHECKING:
    import ssl

# Below the usual time-out of a container health check (30 s for Docker), so that ours explains.
_TIMEOUT_S = 5.0


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
    from sidecar.cli.status import text_of  # noqa: PLC0415 - tables

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
        return parse_listen(DEFAULT_ADMIN if text is None else text)
    except ValueError as error:
        raise WrongAddressError(
            f"no admin address: SIDECAR_CONFIG: admin = {text}: {error}"
        ) from error


def _in_file(key: str) -> str | None:
    """What the file in `SIDECAR_CONFIG` says of one setting; None without it.

    Nothing else there is looked at: a sidecar that runs is alive, even if the file is no good now.
    """
    path = os.environ.get("SIDECAR_CONFIG")
    if not path:
        return None
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:  # noqa: PTH123 - 5 ms
            text = file.read()
    except (OSError, ValueError) as error:
        raise WrongAddressError(f"no admin address: {path} cannot be read: {error}") from error
    if key.partition(".")[0] not in text:
        return None  # to find the same out with YAML takes as long as all the rest
    return _in_yaml(text, key, path)


def _in_yaml(text: str, key: str, path: str) -> str | None:
    import yaml  # noqa: PLC0415 - seldom needed

    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise WrongAddressError(f"no admin address: {path} is not valid YAML") from error
    for name in key.split("."):
        entries = node.value if isinstance(node, yaml.MappingNode) else ()
        node = next((value for entry, value in entries if entry.value == name), None)
    if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null":
        return None
    return str(node.value)


# -- TLS --------------------------------------------------------------------------------------


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    """How to encrypt, as the flags say; without them as the sidecar beside us is configured."""
    # What the environment says is of the sidecar here. Whoever names another one names its TLS too.
    local = options.admin is None and _has_admin_tls()
    if not (options.admin_ca or options.insecure or local):
        if options.admin_cert or options.admin_key:
            raise WrongAddressError("--admin-cert and --admin-key need --admin-ca or --insecure")
        return None
    from sidecar.cli import admin_tls  # noqa: PLC0415 - OpenSSL

    try:
        return admin_tls.context_for(options.admin_ca, options.admin_cert, options.admin_key)
    except (OSError, ValueError) as error:
        why = admin_tls.why(error)
        raise WrongAddressError(f"a file of --admin-* cannot be used: {why}") from error


def _has_admin_tls() -> bool:
    return bool(os.environ.get("SIDECAR_ADMIN_TLS__CERT_FILE") or _in_file("admin_tls.cert_file"))


# -- HTTP -------------------------------------------------------------------------------------


def _ask(address: ListenAddress, tls: ssl.SSLContext | None, path: str) -> bytes:
    """GET `path`; raises `AskError` unless the answer is a 200."""
    try:
        status, body = get(address, path, tls, _TIMEOUT_S)
    except TimeoutError as error:
        raise AskError(f"no answer from {address} within {_TIMEOUT_S:g} s") from error
    except NotHttpError as error:
        raise AskError(f"{address} does not answer as an admin port: {error}") from error
    except OSError as error:
        raise AskError(_failure(address, error, encrypted=tls is not None)) from error
    if status == 400 and tls is None and b"TLS" in body:
        raise AskError(f"{address} speaks TLS: give --admin-ca FILE or --insecure")
    if status != 200:
        raise AskError(f"{address} answers {path} with {status}")
    return body


def _failure(address: ListenAddress, error: OSError, *, encrypted: bool) -> str:
    if encrypted:
        from sidecar.cli import admin_tls  # noqa: PLC0415 - OpenSSL

        if admin_tls.is_tls_error(error):
            return f"TLS with {address} failed: {admin_tls.why(error)}"
    return f"cannot reach {address}: {error.strerror or error}"


def _status(address: ListenAddress, tls: ssl.SSLContext | None) -> dict[str, Any]:
    try:
        answer = json.loads(_ask(address, tls, "/status"))
    except ValueError as error:
        raise AskError(f"{address} answers /status without JSON: is it the admin port?") from error
    if not isinstance(answer, dict):
        raise AskError(f"{address} answers /status in a form this version does not know")
    return answer
