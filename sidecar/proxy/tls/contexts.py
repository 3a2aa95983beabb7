"""Which keys and authorities does TLS use? Contexts made from files, or what is wrong there."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from sidecar.proxy.config import ListenerTls, UpstreamTls
from sidecar.proxy.tls.certificates import BadCertificateError, not_after_s

# HTTP/2 would need a framing of its own; whoever offers it as well is answered with this.
_ALPN = ["http/1.1"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the name of the setting in its group, and what would be right."""

    setting: str
    text: str


class TlsFilesError(Exception):
    """The files cannot be used; `problems` has all that is wrong with them."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{problem.setting} {problem.text}" for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Loaded:
    """A context, and when its own certificate ends (Unix time; None without a certificate)."""

    context: ssl.SSLContext
    not_after_s: float | None


def files_of(tls: ListenerTls | UpstreamTls) -> tuple[str, ...]:
    """The files it is made from."""
    values = (getattr(tls, field.name) for field in fields(tls) if field.name.endswith("_file"))
    return tuple(path for path in values if path is not None)


def problems_of(tls: ListenerTls | UpstreamTls) -> list[Problem]:
    """All that is wrong with the files, tried without anything else being done with them."""
    if not files_of(tls):
        return []
    try:
        if isinstance(tls, ListenerTls):
            listener_context(tls)
        else:
            upstream_context(tls)
    except TlsFilesError as error:
        return error.problems
    return []


def listener_context(tls: ListenerTls) -> Loaded:
    """What clients meet. Raises `TlsFilesError`."""
    context = _new_context(ssl.PROTOCOL_TLS_SERVER)
    checks = _Checks()
    not_after = checks.key_pair(context, tls.cert_file, tls.key_file)
    if tls.client_ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        checks.authorities(context, "client_ca_file", tls.client_ca_file)
        if tls.cert_file is None:
            checks.add(
                "client_ca_file", "needs cert_file and key_file: without them there is no TLS"
            )
    checks.conclude()
    return Loaded(context, not_after)


def upstream_context(tls: UpstreamTls) -> Loaded:
    """What meets the backend. Raises `TlsFilesError`."""
    context = _new_context(ssl.PROTOCOL_TLS_CLIENT)
    checks = _Checks()
    if tls.ca_file is not None:
        checks.authorities(context, "ca_file", tls.ca_file)
    else:
        context.load_default_certs()
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    not_after = checks.key_pair(context, tls.cert_file, tls.key_file)
    checks.conclude()
    return Loaded(context, not_after)


def _new_context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    # RFC 8996: older versions must not be used. Ciphers are left to OpenSSL and the system.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client that renegotiates makes work for the server (CVE-2011-1473); nobody needs it.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_ALPN)
    return context


class _EncryptedKeyError(Exception):
    """The key asks for a password. OpenSSL would ask at the terminal, and wait."""


def _no_password() -> bytes:
    raise _EncryptedKeyError


class _Checks:
    """Loads files into a context and gathers what is wrong with them."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    def add(self, setting: str, text: str) -> None:
        self._problems.append(Problem(setting, text))

    def conclude(self) -> None:
        if self._problems:
            raise TlsFilesError(self._problems)

    def key_pair(
        self, context: ssl.SSLContext, cert_file: str | None, key_file: str | None
    ) -> float | None:
        """Load certificate and key; returns the Unix time at which the certificate ends."""
        if cert_file is None or key_file is None:
            if cert_file is not None:
                self.add("key_file", "must be set too: cert_file has no use without its key")
            if key_file is not None:
                self.add(
                    "cert_file", "must be set too: key_file has no use without its certificate"
                )
            return None
        certificate = self._read("cert_file", cert_file)
        if self._read("key_file", key_file) is None or certificate is None:
            return None
        try:
            ends_s = not_after_s(certificate)
        except BadCertificateError:
            self.add("cert_file", "must be a PEM file with a certificate")
            return None
        if self._loads(context, cert_file, key_file):
            return ends_s
        return None

    def _loads(self, context: ssl.SSLContext, cert_file: str, key_file: str) -> bool:
        try:
            context.load_cert_chain(cert_file, key_file, _no_password)
        except _EncryptedKeyError:
            self.add("key_file", "must be a key without a password")
        except ssl.SSLError as error:
            if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
                self.add("key_file", "must be the key of the certificate in cert_file")
            elif str(error.reason).startswith(("CA_", "EE_")):
                # OpenSSL's security level: CA_MD_TOO_WEAK, EE_KEY_TOO_SMALL and their like.
                self.add("cert_file", f"must have a stronger certificate: {error.reason}")
            else:
                self.add("key_file", "must be a PEM file with a private key")
        else:
            return True
        return False

    def authorities(self, context: ssl.SSLContext, setting: str, path: str) -> None:
        """Trust what is in a file."""

        def load() -> None:
            context.load_verify_locations(path)

        self._try(setting, load, "must be a PEM file with certificates")

    def _read(self, setting: str, path: str) -> bytes | None:
        found: list[bytes] = []
        self._try(setting, lambda: found.append(Path(path).read_bytes()), "")
        return found[0] if found else None

    def _try(self, setting: str, act: Callable[[], object], if_malformed: str) -> None:
        try:
            act()
        except ssl.SSLError:
            self.add(setting, if_malformed)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            number = error.errno if isinstance(error, OSError) else None
            why = os.strerror(number) if number else str(error)
            self.add(setting, f"must be a file that can be read: {why}")
