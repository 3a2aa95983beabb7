"""Does the llama.cpp server of today still send what was recorded?"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sidecar.dialects.choosing import judge_for
from tests.dialects.recordings import REQUESTS, Answer, ask, recorded
from tests.support.llama import LlamaServer


def _outline(value: Any) -> Any:
    """A JSON value without its values: which members, of which kinds."""
    if isinstance(value, dict):
        return {key: _outline(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_outline(value[0])] if value else []
    return "number" if type(value) in (int, float) else type(value).__name__


def _shape(body: bytes) -> list[Any]:
    """Every line of a body in outline; lines alike in a row count once, as tokens may vary."""
    shape: list[Any] = []
    for line in body.splitlines():
        field, brace, rest = line.partition(b"{")
        outline = (field, _outline(orjson.loads(brace + rest)) if brace else None)
        if outline not in shape[-4:]:
            shape.append(outline)
    return shape


def _heard(answer: Answer, path: str) -> Any:
    judge = judge_for(answer.status, answer.content_type, b"", path.encode())
    judge.feed(answer.body)
    judge.end()
    return judge.said, judge.got_event, judge.usage, judge.model, judge.error_message


@pytest.mark.parametrize("name", REQUESTS)
def test_the_server_still_answers_so(name: str, llama_server: LlamaServer) -> None:
    """Members, their kinds and order are as recorded, and so is what the judge makes of them."""
    request = REQUESTS[name]
    then, now = recorded(name), ask(llama_server.url, request)
    assert (now.status, now.content_type) == (then.status, then.content_type)
    assert _shape(now.body) == _shape(then.body)
    assert _heard(now, request.path) == _heard(then, request.path)
