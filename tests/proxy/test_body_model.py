"""Is the model found in a body, wherever it stands and however the body is cut?"""

from __future__ import annotations

import gzip
import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.proxy.body_model import (
    _MEMBERS_MAX,
    _NESTED_MAX,
    NAME_MAX,
    NOTHING_ASKED,
    Asked,
    PrefixReader,
    asked_in,
)

ENOUGH = 1 << 20


def read_in(pieces: list[bytes]) -> Asked:
    """What the reader finds in pieces."""
    reader = PrefixReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.asked


def both_ways(body: bytes) -> Asked:
    """What is found in a body that is here whole, and in one of which more may follow: the same."""
    whole = asked_in(body, whole=True, prefix_bytes=ENOUGH)
    assert asked_in(body, whole=False, prefix_bytes=ENOUGH) == whole
    return whole


@pytest.mark.parametrize(
    ("body", "model", "stream"),
    [
        ('{"model":"m"}', "m", False),
        (' \r\n\t{ "model" : "m" , "stream" : true } \n', "m", True),
        ('{"messages":[{"model":"in","content":"\\"model\\":\\"x\\""}],"model":"m"}', "m", False),
        ('{"a":{"b":[{"c":"}]"}]},"stream":true,"n":-1.5e9,"x":null,"model":"m"}', "m", True),
        ('{"model":"m","options":{"model":"inner","stream":true}}', "m", False),
        ('{"model":"a","model":"b","stream":true,"stream":false}', "b", False),
        ('{"model":"a","model":null}', None, False),
        ('{"model":"a","model":{"x":"y"}}', None, False),
        ('{"model":["a"],"stream":"true"}', None, False),
        ('{"model":5,"stream":1}', None, False),
        ('{"mod\\u0065l":"m","\\u0073tream":true}', "m", True),
        ('{"model":"\\u00e9 \\ud83d\\ude00 \\"q\\" \\\\"}', '\u00e9 \U0001f600 "q" \\', False),
        ('{"model":""}', "", False),
        ('{"Model":"m","models":"m"," model":"m","mode":"m"}', None, False),
        ('{"a\\\\":"x","model":"m"}', "m", False),
        ('{"a":"\\\\","model":"m","b":"\\\\\\""}', "m", False),
        ("{}", None, False),
        ("[]", None, False),
        ('["model","m"]', None, False),
        ('"model"', None, False),
        ("", None, False),
    ],
)  # fmt: skip
def test_the_model_is_a_member_of_the_outer_object(
    body: str, model: str | None, stream: bool
) -> None:
    """Neither the order of members nor what stands in prompts and tools can hide or forge it."""
    assert both_ways(body.encode()) == Asked(model, stream)


@pytest.mark.parametrize(
    "body",
    [
        b"model=m",
        b"<xml/>",
        b'{model:"m"}',
        b'{"model" "m"}',
        b'{"model":"m" "stream":true}',
        b'{"model":"m";}',
        b'{"model":"\xff"}',
        b'{"model":"a\nb"}',
        b'{"\\x":1,"model":"m"}',
        b'{"model":"\\x"}',
        b'{"model":"\\ud800"}',
        b"\xff\xfe{\x00}\x00",
        gzip.compress(b'{"model":"m"}'),
    ],
)
def test_what_is_no_json_names_no_model(body: bytes) -> None:
    """Forms, compressed bodies and broken JSON are requests without a model."""
    assert both_ways(body) == NOTHING_ASKED


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"model":"m"}',
        b'{"model":"m","messages":"bad \xff utf-8"}',
        b'{"messages":"half an emoji \\ud83d","model":"m"}',
        b'{"temperature":NaN,"model":"m"}',
        b'{"model":"m"}{"model":"of another value"}',
        b'{"n":' + b"9" * 400 + b',"model":"m"}',
        b'{"a":' + b"[" * 3000 + b"]" * 3000 + b',"model":"m"}',
    ],
)
def test_what_some_backends_accept_still_names_its_model(body: bytes) -> None:
    """A prompt with half an emoji or NaN, as JavaScript and Python send it, keeps its class."""
    assert both_ways(body) == Asked("m", stream=False)


def test_a_name_that_is_too_long_is_none() -> None:
    """Names of hostile length are kept nowhere; the longest that counts may be escaped whole."""
    longest = "\U0001f600" * NAME_MAX
    for name, found in ((longest, longest), ("x" * (NAME_MAX + 1), None), ("x" * 70_000, None)):
        body = json.dumps({"model": name, "stream": True}).encode()
        assert both_ways(body) == Asked(found, stream=True)
        assert read_in([body[at : at + 1] for at in range(len(body))]) == Asked(found, stream=True)


def test_only_the_prefix_counts() -> None:
    """A model further back than the prefix is not found, whole body or not."""
    body = json.dumps({"messages": "x" * 1000, "model": "m"}).encode()
    for whole in (True, False):
        assert asked_in(body, whole=whole, prefix_bytes=len(body)).model == "m"
        assert asked_in(body, whole=whole, prefix_bytes=1000) == NOTHING_ASKED
    early = json.dumps({"model": "m", "messages": "x" * 1000}).encode()
    assert asked_in(early, whole=True, prefix_bytes=100).model == "m"


# -- the reader against a parser ----------------------------------------------------------------

KEYS = st.sampled_from(["model", "stream", "a", "model ", 'q"\\', "x" * 100]) | st.text(max_size=3)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["m", "llama-3.2-1b", '"', "\\", '{"model":"x"}', "\u00e9\U0001f600"])
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)
PAIRS = st.lists(st.tuples(KEYS, VALUES), max_size=6)


class _Pairs(dict[str, Any]):
    """Members in their order, some of them twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self._pairs = pairs

    def items(self) -> Any:
        return self._pairs


def expected(body: bytes) -> Asked:
    """What `json.loads` says."""
    value = json.loads(body)
    if not isinstance(value, dict):
        return NOTHING_ASKED
    model = value.get("model")
    return Asked(model if isinstance(model, str) else None, value.get("stream") is True)


@given(
    value=PAIRS.map(_Pairs) | VALUES,
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 3]),
    cuts=st.lists(st.floats(0, 1), max_size=6),
)
@example(value=_Pairs([("model", "\\")]), ascii_only=True, indent=None, cuts=[0.9])
def test_the_reader_agrees_with_a_parser_however_it_is_cut(
    value: Any, *, ascii_only: bool, indent: int | None, cuts: list[float]
) -> None:
    """For every JSON document, in any pieces, the model is what `json.loads` makes of it."""
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    wanted = expected(body)
    assert both_ways(body) == wanted
    places = sorted(math.floor(cut * len(body)) for cut in cuts)
    pieces = [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]
    assert read_in(pieces) == wanted
    assert read_in([body[at : at + 1] for at in range(len(body))]) == wanted


@given(PAIRS.map(_Pairs), st.floats(0, 1))
def test_a_prefix_tells_what_stands_in_it(value: Any, where: float) -> None:
    """Cut anywhere, a body tells the last model whose value is here whole, or none."""
    body = json.dumps(value).encode()
    prefix = body[: math.floor(where * len(body))]
    models = [one for key, one in value.items() if key == "model" and isinstance(one, str)]
    assert asked_in(prefix, whole=False, prefix_bytes=ENOUGH).model in [None, *models]


TOKENS = [b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b" ", b"true", b"null", b"1", b"\xff"]
WORDS = [b'"model"', b'"stream"', b'"m"', b"\\u0065", b"\xef\xbb\xbf", b'{"model":']
JSON_LIKE = st.lists(st.sampled_from([*TOKENS, *WORDS]), max_size=30).map(b"".join)


@given(st.binary(max_size=200) | JSON_LIKE, st.data())
def test_any_bytes_are_read_alike_in_any_pieces(body: bytes, data: st.DataObject) -> None:
    """However broken a body is, nothing raises, and packets do not decide on its class."""
    cut = data.draw(st.integers(0, len(body)))
    wanted = read_in([body])
    assert read_in([body[:cut], body[cut:]]) == wanted
    assert read_in([body[at : at + 1] for at in range(len(body))]) == wanted
    asked_in(body, whole=True, prefix_bytes=ENOUGH)


# -- what it may cost ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beginning", "member"),
    [
        (b'{"a":[' + b"[]," * _NESTED_MAX, b'0],"model":"m"}'),
        (b'{"a":[' + b'"",' * (_NESTED_MAX + 1), b'0],"model":"m"}'),
        (b"{" + b'"a":1,' * _MEMBERS_MAX, b'"model":"m"}'),
    ],
)
def test_a_body_of_nothing_but_brackets_is_not_read_to_its_end(
    beginning: bytes, member: bytes
) -> None:
    """The reader gives up after a bounded number of steps, so that no body stops the process."""
    reader = PrefixReader()
    reader.feed(b'{"model":"early",' + beginning[1:])
    assert reader.done
    reader.feed(member)
    assert reader.asked == Asked("early", stream=False)


def test_a_body_with_many_tools_is_read_to_its_end() -> None:
    """What honest clients send stays far within these bounds."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    body = json.dumps({"tools": [tool] * 700, "messages": [{"role": "user"}] * 500, "model": "m"})
    assert both_ways(body.encode()) == Asked("m", stream=False)


def test_backslashes_at_every_cut_are_counted_right() -> None:
    """Runs of backslashes before a quote decide whether it ends the string, also across pieces."""
    for count in range(1, 9):
        body = b'{"a":"' + b"\\" * (2 * count) + b'","model":"m"}'
        odd = b'{"a":"' + b"\\" * (2 * count + 1) + b'" }","model":"m"}'
        for text in (body, odd):
            for cut in range(len(text)):
                assert read_in([text[:cut], text[cut:]]).model == "m", (text, cut)
