"""How do `run` and `demo` start fast and stay small? The settings are read apart.

A child reads them and ends, while this process imports what serves:
docs/decisions/0006-settings-are-read-apart.md.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator, Sequence

from sidecar.cli.apart import read_apart

# Where OpenSSL looks for the authorities that the system trusts (SSL_CTX_load_verify_locations(3)).
_TRUST_STORE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def serve(argv: Sequence[str]) -> int:
    """Run until told to stop; returns the exit code."""
    # Imports leave no garbage. To look for it all the same took a tenth of the time (measured).
    gc.disable()
    try:
        found = read_apart(argv, meanwhile=_import_app)
        if isinstance(found, int):
            return found
        from sidecar.app import main  # noqa: PLC0415 - imported by now

        return main(found, demo=argv[0] == "demo")
    finally:
        gc.enable()


def _import_app() -> None:
    with _no_trust_store():
        import sidecar.app  # noqa: F401, PLC0415 - half of the start, and only for who serves


@contextlib.contextmanager
def _no_trust_store() -> Iterator[None]:
    """Leave the system's authorities unread.

    aiohttp reads them when it is imported, for a client that nobody uses here: 2.3 MB, and 30 ms
    of CPU time (measured, Debian 12). TLS to the backend makes contexts of its own, later.
    """
    before = {name: os.environ.get(name) for name in _TRUST_STORE_VARIABLES}
    os.environ.update(dict.fromkeys(before, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
