"""Until when is a certificate valid? The little of DER (X.690) that this needs.

The standard library tells it of a peer's certificate only, and only of one that it verified.
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

# Tags of RFC 5280, 4.1.
_SEQUENCE = 0x30
_INTEGER = 0x02
_VERSION = 0xA0
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18


class BadCertificateError(ValueError):
    """This is no certificate."""


def not_after_s(pem: bytes) -> float:
    """When the first certificate in a PEM file ends, in Unix time. Raises `BadCertificateError`."""
    found = _PEM.search(pem)
    if found is None:
        raise BadCertificateError("no certificate")
    try:
        return _not_after(ssl.PEM_cert_to_DER_cert(found[0].decode("ascii")))
    except (ValueError, IndexError) as error:
        raise BadCertificateError("not a certificate") from error


def _not_after(der: bytes) -> float:
    certificate = _Elements(der).take(_SEQUENCE)
    fields = _Elements(_Elements(certificate).take(_SEQUENCE))
    fields.skip(_VERSION)
    fields.take(_INTEGER)  # serial number
    fields.take(_SEQUENCE)  # signature algorithm
    fields.take(_SEQUENCE)  # issuer
    validity = _Elements(fields.take(_SEQUENCE))
    validity.take(validity.tag)  # not before
    return _time(validity.tag, validity.take(validity.tag).decode("ascii"))


def _time(tag: int, text: str) -> float:
    """RFC 5280, 4.1.2.5: always with seconds and in UTC; two digits mean 1950 to 2049."""
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


class _Elements:
    """DER elements that follow each other."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def tag(self) -> int:
        """The next element's."""
        return self._data[0]

    def take(self, tag: int) -> bytes:
        """The content of the next element, which must have that tag."""
        if self._data[0] != tag:
            raise ValueError(f"tag {self._data[0]:#x} where {tag:#x} belongs")
        length, start = self._data[1], 2
        if length & 0x80:  # long form: so many bytes hold the length
            start += length & 0x7F
            length = int.from_bytes(self._data[2:start])
        if start + length > len(self._data):
            raise ValueError("cut off")
        content, self._data = self._data[start : start + length], self._data[start + length :]
        return content

    def skip(self, tag: int) -> None:
        """Skip an element if it is there."""
        if self._data[0] == tag:
            self.take(tag)
