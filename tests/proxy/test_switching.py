"""Is there no way into a tunnel but a handshake on which both sides agree?"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from sidecar.proxy.switching import is_agreed, wants_upgrade
from sidecar.proxy.wire.heads import parse_request_head, parse_response_head
from tests.proxy.running import GUARDED, data_path
from tests.support.origin import Origin, OriginConnection
from tests.support.raw import Field
from tests.support.wire import request

# RFC 6455, 1.3: the example.
KEY = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
ACCEPT = ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")


def asking(*protocols: str, fields: Iterable[Field] = ()) -> bytes:
    upgrades = [("Upgrade", protocol) for protocol in protocols]
    return request("GET", "/ws", fields=[("Connection", "Upgrade"), *upgrades, *fields])


def switching(*fields: Field) -> bytes:
    lines = ["HTTP/1.1 101 Switching Protocols", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode()


WEBSOCKET = asking("websocket", fields=[KEY])
AGREED = [
    (WEBSOCKET, switching(("Upgrade", "websocket"), ACCEPT)),
    (WEBSOCKET, switching(("upgrade", "WebSocket"), ("Connection", "Upgrade"), ACCEPT)),
    (asking("a, b"), switching(("Upgrade", "b"))),
    (asking("a", "b"), switching(("Upgrade", "a, b"))),
    (asking("foo/2"), switching(("Upgrade", "foo/2"))),
]
NOT_AGREED = {
    "no Upgrade": (WEBSOCKET, switching(ACCEPT)),
    "an empty Upgrade": (WEBSOCKET, switching(("Upgrade", ""), ACCEPT)),
    "another protocol": (WEBSOCKET, switching(("Upgrade", "h2c"), ACCEPT)),
    "one protocol more": (WEBSOCKET, switching(("Upgrade", "websocket, h2c"), ACCEPT)),
    "no Accept": (WEBSOCKET, switching(("Upgrade", "websocket"))),
    "another Accept": (WEBSOCKET, switching(("Upgrade", "websocket"), (ACCEPT[0], "x"))),
    "two Accepts": (WEBSOCKET, switching(("Upgrade", "websocket"), ACCEPT, ACCEPT)),
    "no key": (asking("websocket"), switching(("Upgrade", "websocket"), ACCEPT)),
    "two keys": (
        asking("websocket", fields=[KEY, KEY]),
        switching(("Upgrade", "websocket"), ACCEPT),
    ),
}


@pytest.mark.parametrize(("asked", "answered"), AGREED)
def test_a_handshake_on_which_both_agree(asked: bytes, answered: bytes) -> None:
    """The backend switches to what was asked for, and has read a WebSocket's handshake as one."""
    head = parse_request_head(asked)
    assert wants_upgrade(head)
    assert is_agreed(head, parse_response_head(answered))


@pytest.mark.parametrize("name", NOT_AGREED)
def test_what_is_no_agreement(name: str) -> None:
    """A mere 101 is not enough."""
    asked, answered = NOT_AGREED[name]
    assert not is_agreed(parse_request_head(asked), parse_response_head(answered))


@pytest.mark.parametrize("name", NOT_AGREED)
async def test_a_page_that_says_101_is_no_way_past_the_limits(name: str) -> None:
    """What a client sends behind such an answer never reaches the backend (WebSocket smuggling)."""
    asked, answered = NOT_AGREED[name]

    async def script(connection: OriginConnection) -> None:
        await connection.read_request()
        connection.send(answered)
        await connection.wait_closed_by_peer()

    hidden = request("POST", GUARDED.decode(), b"{}")
    async with Origin(script) as origin, data_path(origin.url) as path, path.client() as client:
        await client.send(asked)
        answer = await client.read_response()
        assert (answer.status, answer.value("x-sidecar-reason")) == (502, "upstream_bad_response")
        await client.send(hidden)
        await origin.wait_for(lambda o: o.accepted_count == 2)
        assert bytes(origin.connections[0].received).count(b" HTTP/1.1\r\n") == 1
        # It was read as what it is: a request, which asked for its slot.
        assert (await client.read_response("POST")).status == 502
        assert [fact.route for fact in path.facts] == ["upgrade", "inference"]
