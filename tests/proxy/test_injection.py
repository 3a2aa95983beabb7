"""Does anything that one side says become a line of the head that the other side gets?"""

from __future__ import annotations

import re

import pytest

from sidecar.proxy.config import Forwarded, ProxyConfig
from tests.abuse.hostile import FIELDS, HOSTILE
from tests.proxy.readings import what_arrived
from tests.proxy.running import data_path
from tests.support.origin import Origin, respond

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: ?[\t\x20-\x7e\x80-\xff]*")
OURS = {b"via", b"x-request-id", b"connection", b"upgrade", b"te", b"host"}
FORWARDING = {b"x-forwarded-for", b"forwarded", b"x-forwarded-proto", b"x-forwarded-host"}
# What is valid in a Host, and would do harm behind a quote or a line end.
HOSTS = [b"a", b"a;b=c", b"a,b".replace(b",", b"%2c"), b"'a'", b"a&b=c", b"[::1]:80", b"a%0d%0ax"]


def names(head: bytes) -> list[bytes]:
    """The names of the field lines, each of which must be one."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]
    assert all(LINE.fullmatch(line) for line in lines), head
    return [line.partition(b":")[0].lower() for line in lines]


@pytest.mark.parametrize("forwarded", [Forwarded.OFF, Forwarded.REBUILD])
@pytest.mark.parametrize("name", HOSTILE)
async def test_a_client_s_value_adds_no_line_to_the_backend_s_head(
    name: str, forwarded: Forwarded
) -> None:
    """The backend gets the fields that came, and the sidecar's own, whatever they hold."""
    ours = OURS | (FORWARDING if forwarded is Forwarded.REBUILD else set())
    async with (
        Origin(respond(OK)) as origin,
        data_path(origin.url, ProxyConfig(forwarded=forwarded)) as path,
        path.client() as client,
    ):
        for field in FIELDS:
            line = field + b": " + HOSTILE[name]
            await client.send(b"GET /free HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n")
            assert (await client.read_response()).status == 200
            head = origin.requests[-1].head
            got = names(head)
            assert set(got) <= ours | {field.lower()}
            assert len(got) == len(set(got)) or field.lower() == b"via"
            assert len(what_arrived(head, unusual=True)) == 1
        assert len(origin.requests) == len(FIELDS)


@pytest.mark.parametrize("host", HOSTS)
async def test_a_host_stays_within_its_quotes(host: bytes) -> None:
    """What is told of it in Forwarded and X-Forwarded-Host is the host and nothing else."""
    config = ProxyConfig(forwarded=Forwarded.REBUILD)
    async with Origin(respond(OK)) as origin, data_path(origin.url, config) as path:
        for data in (
            b"GET /free HTTP/1.1\r\nHost: " + host + b"\r\n\r\n",
            b"GET http://" + host + b"/free HTTP/1.1\r\nHost: x\r\n\r\n",
        ):
            await path.ask(data)
            got = origin.requests[-1]
            text = host.decode()
            assert got.value("x-forwarded-host") == text
            assert got.value("forwarded") == f'for=127.0.0.1;proto=http;host="{text}"'
            assert got.value("host") == text


REASONS = [b"", b" ", b" OK", b" %0d%0aX: y", b" <script>", b" \xff\xfe", b" \t x"]


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_backend_s_value_adds_no_line_to_the_client_s_head(name: str) -> None:
    """The client gets the fields that came, and the sidecar's own: no response is split."""
    for reason in REASONS:
        line = b"X-From-Backend: " + HOSTILE[name]
        answer = b"HTTP/1.1 200%b\r\nContent-Length: 2\r\n%b\r\n\r\nok" % (reason, line)
        async with Origin(respond(answer)) as origin, data_path(origin.url) as path:
            response = await path.ask(b"GET /free HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (response.status, response.body) == (200, b"ok")
            assert response.head.split(b"\r\n")[0] == b"HTTP/1.1 200" + (reason or b" ")
            assert names(response.head) == [
                b"content-length", b"x-from-backend", b"via", b"x-request-id", b"date"
            ]  # fmt: skip
