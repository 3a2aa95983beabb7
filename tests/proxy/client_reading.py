"""How does a client read what comes back? As h11 does, one answer after the other."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import h11

from tests.proxy.readings import Fields


class End(Enum):
    """What the reader knows of the connection's end."""

    OPEN = "open"
    CLOSED = "closed"
    RESET = "reset"


class Answered(NamedTuple):
    """One answer, as far as it can be read."""

    interim: list[tuple[int, Fields]]
    """The 1xx answers before it, save a 101, which is final here."""
    status: int | None = None
    http_version: bytes = b""
    fields: Fields = []  # noqa: RUF012 - nobody changes it
    body: bytes = b""
    complete: bool = False
    malformed: bool = False
    """Whether h11 refused it, here or anywhere before its end."""
    rest: bytes = b""
    """What follows the complete answer."""

    def value(self, name: bytes) -> bytes:
        """The first field of that name, b"" without one."""
        return next((value for key, value in self.fields if key == name), b"")

    @property
    def keeps_alive(self) -> bool:
        """Whether the sender will answer more on this connection (RFC 9112, 9.3)."""
        options = [
            option.strip().lower()
            for name, value in self.fields
            if name == b"connection"
            for option in value.split(b",")
        ]
        if b"close" in options:
            return False
        return self.http_version == b"1.1" or b"keep-alive" in options

    @property
    def has_length(self) -> bool:
        """Whether anything but the connection's end says where it ends."""
        if self.status in (204, 304):
            return True
        return bool(self.value(b"content-length") or self.value(b"transfer-encoding"))


_UPGRADE = [(b"Upgrade", b"websocket"), (b"Connection", b"upgrade")]


def read_answer(data: bytes, method: bytes, end: End, *, upgrade: bool = False) -> Answered:
    """Read the first final answer to a request of that method, made with `upgrade` or not."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    fields = [(b"Host", b"a"), *(_UPGRADE if upgrade else [])]
    connection.send(h11.Request(method=method, target=b"/", headers=fields))
    connection.send(h11.EndOfMessage())
    answer = Answered([])
    if data:  # nothing would mean the end
        connection.receive_data(data)
        answer = _read_on(connection, answer)
    if answer.complete or answer.malformed or end is not End.CLOSED:
        return answer
    # Only now, so that what is cut is told from what is malformed.
    connection.receive_data(b"")
    ended = _read_on(connection, answer)
    return answer if ended.malformed else ended


def _read_on(connection: h11.Connection, answer: Answered) -> Answered:
    """Read as far as the bytes reach."""
    body = [answer.body]
    try:
        while True:
            match connection.next_event():
                case h11.InformationalResponse() as head if head.status_code != 101:
                    answer.interim.append((head.status_code, list(head.headers)))
                case h11.InformationalResponse() | h11.Response() as head:
                    answer = answer._replace(
                        status=head.status_code,
                        http_version=head.http_version,
                        fields=list(head.headers),
                    )
                case h11.Data() as data:
                    body.append(bytes(data.data))
                case h11.EndOfMessage() | h11.PAUSED:
                    rest = connection.trailing_data[0]
                    return answer._replace(body=b"".join(body), complete=True, rest=rest)
                case _:
                    return answer._replace(body=b"".join(body))
    except h11.RemoteProtocolError:
        return answer._replace(body=b"".join(body), malformed=True)
