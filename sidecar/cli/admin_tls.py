"""How is the admin port asked over TLS? Contexts for `status` and `healthcheck`, and their errors.

A module of its own because OpenSSL takes 20 ms to load, and most admin ports speak no TLS.
"""

from __future__ import annotations

import ssl


def context_for(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """Trust these authorities, or without them anybody. Raises `OSError` and `ValueError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(ca_file)
    if cert_file is not None:
        context.load_cert_chain(cert_file, key_file, _no_password)
    return context


def _no_password() -> bytes:
    raise ValueError("the key must not have a password")


def is_tls_error(error: Exception) -> bool:
    """Whether the connection stood, and TLS did not."""
    return isinstance(error, ssl.SSLError)


def why(error: Exception) -> str:
    """In a few words, what went wrong."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)
