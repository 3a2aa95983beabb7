"""How does a test get TLS on both sides of a sidecar? One authority, one certificate for all.

async with Origin(script, tls=certificates.server) as origin:
    async with guarded(origin.url, certificates.settings) as side:
        RawClient("127.0.0.1", side.listen.port, tls=certificates.client)
"""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


class Certificates:
    """A certificate for 127.0.0.1, its authority, and who trusts it; files are kept in `folder`."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        own = authority.issue_cert("127.0.0.1")
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        own.configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)
        self._own_file = str(folder / "own.pem")
        self._authority_file = str(folder / "authority.pem")
        own.private_key_and_cert_chain_pem.write_to_path(self._own_file)
        authority.cert_pem.write_to_path(self._authority_file)

    @property
    def settings(self) -> dict[str, object]:
        """For a sidecar that speaks TLS with its clients and with the backend."""
        return {
            "tls.cert_file": self._own_file,
            "tls.key_file": self._own_file,
            "upstream_tls.ca_file": self._authority_file,
        }

    @property
    def words(self) -> list[str]:
        """The same as words of the command line."""
        flags = {key.replace("_", "-"): value for key, value in self.settings.items()}
        return [str(word) for key, value in flags.items() for word in (f"--{key}", value)]
