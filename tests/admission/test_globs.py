"""What does a glob match, and is a rule that can never match found out?"""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.admission.globs import model_covers, model_pattern, path_covers, path_pattern
from sidecar.admission.routes import canonical_path
from sidecar.settings.model import EMBEDDINGS_ROUTES, INFERENCE_ROUTES


def matches(path_glob: str, path: bytes) -> bool:
    return path_pattern(path_glob).fullmatch(path) is not None


# -- globs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path_glob", "path", "expected"),
    [
        ("/a/b", b"/a/b", True),
        ("/a/b", b"/a/b/c", False),
        ("/a/b", b"/x/a/b", False),
        ("/a/*", b"/a/b", True),
        ("/a/*", b"/a", False),
        ("/a/*", b"/a/b/c", False),
        ("/a/*/c", b"/a/b/c", True),
        ("/a/*/c", b"/a/c", False),
        ("/a/m-*:run", b"/a/m-1:run", True),
        ("/a/m-*:run", b"/a/m-1/2:run", False),
        ("**/c", b"/c", True),
        ("**/c", b"/a/b/c", True),
        ("**/c", b"/a/xc", False),
        ("/a/**/c", b"/a/c", True),
        ("/a/**/c", b"/a/b/b/c", True),
        ("/a/**/c", b"/ab/c", False),
        ("/a/**", b"/a", True),
        ("/a/**", b"/a/b", True),
        ("/a/**", b"/a/b/c", True),
        ("/a/**", b"/ab", False),
        ("/**", b"/", True),
        ("/**", b"/a/b", True),
        ("**", b"/", True),
        ("**", b"/a/b", True),
        ("/a**", b"/ab/c", True),
        ("/A/b", b"/a/B", True),
        ("/a.b", b"/a.b", True),
        ("/a.b", b"/axb", False),
        ("/a+(b)[c]", b"/a+(b)[c]", True),
        ("/a/*", b"/a/b\nc", True),
        ("/a/b", b"/a/b\n", False),
    ],
)
def test_a_glob_means_what_it_says(path_glob: str, path: bytes, expected: bool) -> None:
    """`*` stays within a segment, `**` is any number of segments, all else is literal."""
    assert matches(path_glob, path) is expected


@pytest.mark.parametrize(
    ("model_glob", "name", "expected"),
    [
        ("llama-3", "llama-3", True),
        ("llama-3", "llama-3:latest", False),
        ("llama-3*", "llama-3:latest", True),
        ("*llama*", "meta-llama/Llama-3.2-1B", True),
        ("llama", "xllama", False),
        ("l.ama", "llama", False),
        ("*", "", True),
        ("*", "two\nlines", True),
        ("gpt-4o", "GPT-4o", True),
    ],
)
def test_a_model_glob_means_what_it_says(model_glob: str, name: str, expected: bool) -> None:
    """`*` stands for any characters, slashes and colons included; letter case is ignored."""
    assert (model_pattern(model_glob).fullmatch(name) is not None) is expected


# -- one glob within another ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path_glob", "other", "expected"),
    [
        ("/a", "/a", True),
        ("/A", "/a", True),
        ("/a", "/b", False),
        ("/a/*", "/a/b", True),
        ("/a/b", "/a/*", False),
        ("/a/*", "/a/b/c", False),
        ("/a/**", "/a/*/c", True),
        ("/a/**", "/a", True),
        ("/a/*", "/a/**", False),
        ("/a/*/*", "/a/**", False),
        ("/a/**", "/a/**", True),
        ("/a/**", "/**", False),
        ("**", "/a", True),
        ("/**", "**", True),
        ("**", "/**", True),
        ("**/completions", "**/chat/completions", True),
        ("**/chat/completions", "**/completions", False),
        ("**/models/*:generateContent", "/v1beta/models/gemini-*:generateContent", True),
        ("/v1/**", "**/completions", False),
        ("/a/**/c", "/a/c", True),
        ("/a/*/c", "/a/**/c", False),
        ("/a**", "/ab/c", True),
        ("/a**", "/a*/**", True),
        ("/*", "/a**", False),
        ("/**/**/**", "**/x/**/y/**", True),
    ],
)
def test_a_path_glob_covers_another(path_glob: str, other: str, expected: bool) -> None:
    """A rule behind one that takes all of its requests can be told to its author."""
    assert path_covers(path_glob, other) is expected


@pytest.mark.parametrize(
    ("model_glob", "other", "expected"),
    [
        ("llama*", "llama-3*", True),
        ("llama-3*", "llama*", False),
        ("*", "llama", True),
        ("*b*", "a*b*c", True),
        ("a*c", "a*b*c", True),
        ("a*b", "a*", False),
        ("LLAMA", "llama", True),
        ("llama", "*", False),
    ],
)
def test_a_model_glob_covers_another(model_glob: str, other: str, expected: bool) -> None:
    """Likewise for models."""
    assert model_covers(model_glob, other) is expected


def test_a_comparison_that_would_take_for_ever_is_given_up() -> None:
    """A glob with many `**` is taken for one that can match; nothing worse comes of it."""
    assert not path_covers("/**", "/**/a/**/b/**/c/**/d/**/e/**")


def test_no_default_rule_hides_one_of_another_class() -> None:
    """The rules that are there without configuration do not get into each other's way."""
    for inference, embeddings in itertools.product(INFERENCE_ROUTES, EMBEDDINGS_ROUTES):
        one, other = inference.partition(" ")[2], embeddings.partition(" ")[2]
        assert not path_covers(one, other)
        assert not path_covers(other, one)


GLOB = st.lists(st.sampled_from(["a", "b", "*", "**", "a*", "*b", "a**", "**b"]), max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)
PATHS = [
    b"/" + b"/".join(segments)
    for count in range(5)
    for segments in itertools.product([b"a", b"b", b"ab", b"x"], repeat=count)
]


@given(GLOB, GLOB)
@example("/a**", "/a/**")
@example("/**/a", "/a/**")
def test_what_is_said_to_be_covered_is(path_glob: str, other: str) -> None:
    """No rule is refused as useless that could match: checked on all short paths."""
    if path_covers(path_glob, other):
        assert all(matches(path_glob, path) for path in PATHS if matches(other, path))
    elif other.count("**") <= 2:
        # Three segments more than the glob has tell any two globs apart.
        told_apart = [
            path
            for path in _instances(other)
            if matches(other, path) and not matches(path_glob, path)
        ]
        assert told_apart


def _instances(path_glob: str) -> list[bytes]:
    """Paths that the glob might match, its wildcards filled in."""
    fillings = [
        ["x"]
        if part == "*"
        else ["", "x", "/x", "x/", "/", "/x/", *_long()]
        if "**" in part
        else [part]
        for part in re.split(r"(/\*\*|\*\*/|\*\*|\*)", path_glob)
    ]
    paths = {"".join(parts).encode() for parts in itertools.product(*fillings)}
    return [path for path in paths if canonical_path(path) == path]


def _long() -> list[str]:
    return [
        f"{start}{'/'.join('x' * count)}{end}"
        for count in (2, 7)
        for start, end in (("", ""), ("/", ""), ("", "/"), ("/", "/"))
    ]


@given(st.text("ab*", max_size=6), st.text("ab*", max_size=6), st.text("abc", max_size=6))
def test_what_is_said_to_be_covered_is_for_models_too(
    model_glob: str, other: str, name: str
) -> None:
    """Likewise for models, and what is not covered has a name that tells."""
    if model_covers(model_glob, other):
        if model_pattern(other).fullmatch(name):
            assert model_pattern(model_glob).fullmatch(name)
    else:
        assert not model_pattern(model_glob).fullmatch(other.replace("*", "c"))
