"""Is what arrived at the backend what the client sent, whatever went wrong on the way?

The judgement of both fuzzers: of hypothesis' on sockets, and of the one that coverage guides.
"""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.proxy.wire.heads import ABSOLUTE_FORM
from tests.proxy.readings import Read, read_strictly

REFUSALS = frozenset({400, 414, 417, 431, 501, 505})
"""How a connection is refused of which no request can be read without doubt."""


def in_origin_form(read: Read) -> Read:
    """As the sidecar sends it on."""
    match = ABSOLUTE_FORM.fullmatch(read.target)
    if match is None:
        return read
    path = match[2]
    if read.method == b"OPTIONS" and not path:
        path = b"*"
    elif not path.startswith(b"/"):
        path = b"/" + path
    return read._replace(target=path)


def judge_requests(
    data: bytes, arrived: Sequence[Read], statuses: Sequence[int], *, closed: bool
) -> None:
    """Of the bytes a client sent, the first requests that h11 reads in them have arrived.

    Each got its answer, then perhaps one refusal; after a refusal the connection is `closed`. What
    was not refused and is whole has arrived.
    """
    assert list(statuses[: len(arrived)]) == [200] * len(arrived)
    refusals = statuses[len(arrived) :]
    assert len(refusals) <= 1
    assert set(refusals) <= REFUSALS
    assert closed or not refusals
    reading = read_strictly(data)
    sent = [in_origin_form(read) for read, _ in reading.requests]
    assert list(arrived) == sent[: len(arrived)]
    assert reading.refusal or refusals or len(arrived) == len(sent)
