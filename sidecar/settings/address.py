"""Where does a listener listen, and where is the backend? Addresses, parsed and checked.

Standard library only, so that `healthcheck` and `status` start fast. For the same reason nothing
that they import is a dataclass: to import `dataclasses` takes them 8 ms of 40.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from typing import NamedTuple, Self
from urllib.parse import SplitResult, urlsplit

DEFAULT_LISTEN = "127.0.0.1:8080"
DEFAULT_ADMIN = "127.0.0.1:9091"

_UNIX = "unix:"

# sockaddr_un.sun_path less its closing NUL: unix(7) on Linux, unix(4) on macOS and the BSDs.
_UNIX_PATH_MAX_BYTES = 107 if sys.platform == "linux" else 103

# Letters, digits, dots and dashes (RFC 1123, 2.1), and the underscore of container names.
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")

_ANY_HOSTS = ("", "0.0.0.0", "::")  # noqa: S104 - recognised here, nothing is bound
_LOOPBACK_NAME = "localhost"


class ListenAddress(NamedTuple):
    """One listener: `host` and `port`, or the `path` of a Unix socket.

    `host` "" means all interfaces, `port` 0 lets the system choose. An IPv6 host has no brackets.
    """

    host: str = ""
    port: int = 0
    path: str | None = None

    def __str__(self) -> str:
        """The address as `parse_listen` reads it."""
        if self.path is not None:
            return _UNIX + self.path
        return f"{_bracketed(self.host)}:{self.port}"

    def overlaps(self, other: Self) -> bool:
        """Whether the two cannot be listened on at once."""
        if self.path is not None or other.path is not None:
            return self.path == other.path
        if self.port != other.port or self.port == 0:
            return False
        return (
            self.host in _ANY_HOSTS or other.host in _ANY_HOSTS or _same_host(self.host, other.host)
        )

    def accepts(self, target: Self) -> bool:
        """Whether a connection to `target` surely arrives at this listener."""
        if self.path is not None or target.path is not None:
            return self.path == target.path
        if self.port != target.port:
            return False
        # Behind another host name may be another machine, even when we listen on all interfaces.
        return _same_host(reachable(self).host, target.host)


def parse_listen(text: str) -> ListenAddress:
    """Read `HOST:PORT`, `[::1]:PORT`, `:PORT` (all interfaces) or `unix:PATH`.

    Raises `ValueError` with what would be right.
    """
    if text.startswith(_UNIX):
        return ListenAddress(path=_unix_path(text))
    if "://" in text:
        raise ValueError("must be HOST:PORT, without a scheme such as http://")
    host, colon, port = text.rpartition(":")
    if not colon or not port:
        raise ValueError("must be HOST:PORT, :PORT for all interfaces, or unix:PATH")
    if ":" in host and not host.startswith("["):
        raise ValueError("must have an IPv6 address in brackets, such as [::1]:8080")
    return ListenAddress(host=_host(host) if host else "", port=_port(port, lowest=0))


def parse_upstream(text: str) -> str:
    """Read `http://HOST[:PORT]`, `https://HOST[:PORT]` or `unix:PATH`; returns it normalised.

    Raises `ValueError` with what would be right. A path, a query or a password is refused rather
    than dropped, because whoever wrote it expects it to have an effect.
    """
    if not text.isprintable() or " " in text:
        raise ValueError("must not contain spaces or control characters")
    if text.startswith(_UNIX):
        return _UNIX + _unix_path(text)
    scheme, separator, _ = text.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise ValueError("must begin with http://, https:// or unix:")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("must have an IPv6 address in brackets: http://[::1]:8000") from None
    _refuse_more_than_an_origin(parts)
    return f"{parts.scheme}://{_authority(parts)}"


def _refuse_more_than_an_origin(parts: SplitResult) -> None:
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password; clients send their own keys")
    if parts.path not in ("", "/"):
        raise ValueError(
            f"must not have a path: leave out {parts.path}, "
            "the paths that clients ask for are passed on unchanged"
        )
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or a fragment")


def _authority(parts: SplitResult) -> str:
    host, colon, port = parts.netloc, "", ""
    if not parts.netloc.endswith("]"):
        host, colon, port = parts.netloc.rpartition(":")
        if not colon:
            host, port = port, ""
    if not host:
        raise ValueError("must name a host")
    name = _bracketed(_host(host).lower())
    return f"{name}:{_port(port, lowest=1)}" if colon else name


def upstream_address(upstream: str) -> ListenAddress:
    """The address behind a URL that `parse_upstream` returned."""
    if upstream.startswith(_UNIX):
        return ListenAddress(path=upstream.removeprefix(_UNIX))
    parts = urlsplit(upstream)
    default_port = 443 if parts.scheme == "https" else 80
    return ListenAddress(host=parts.hostname or "", port=parts.port or default_port)


def reachable(address: ListenAddress) -> ListenAddress:
    """Where to connect to reach a listener on this machine: "all interfaces" becomes loopback."""
    if address.path is not None or address.host not in _ANY_HOSTS:
        return address
    return ListenAddress(host="::1" if address.host == "::" else "127.0.0.1", port=address.port)


def _unix_path(text: str) -> str:
    # Other programs write unix:///run/x.sock.
    path = text.removeprefix(_UNIX).removeprefix("//")
    if not path:
        raise ValueError("must name a socket, such as unix:/run/openclaw-sidecar.sock")
    if "\0" in path:
        raise ValueError("must not contain a NUL byte")
    if len(os.fsencode(path)) > _UNIX_PATH_MAX_BYTES:
        raise ValueError(
            f"must have a path of at most {_UNIX_PATH_MAX_BYTES} bytes, as the system demands"
        )
    return path


def _host(text: str) -> str:
    """A host without brackets; raises `ValueError`."""
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]")))
        except ValueError:
            raise ValueError(f"must have an IPv6 address in the brackets, not {text}") from None
    if not _HOST_NAME.fullmatch(text):
        raise ValueError(f"must name a host or an IP address, not {text!r}")
    return text


def _port(text: str, lowest: int) -> int:
    if not (text.isascii() and text.isdigit()) or not lowest <= int(text[:9]) <= 65535:
        raise ValueError(f"must have a port from {lowest} to 65535, not {text!r}")
    return int(text)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _same_host(one: str, other: str) -> bool:
    if one == other:
        return True
    return _LOOPBACK_NAME in (one, other) and _is_loopback(one) and _is_loopback(other)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == _LOOPBACK_NAME
