"""Which requests are guarded, and can a strange spelling slip past?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admission.globs import path_pattern
from sidecar.admission.routes import (
    _CACHE_SIZE,
    _MODEL_CACHE_SIZE,
    ByModel,
    RouteRule,
    RouteTable,
    canonical_path,
    model_in_path,
)
from sidecar.settings.model import EMBEDDINGS_ROUTES, INFERENCE_ROUTES, Settings


@pytest.fixture(scope="module")
def table() -> RouteTable:
    return RouteTable(Settings().plain().routes)


# -- the defaults -----------------------------------------------------------------------------

INFERENCE = [
    b"/v1/chat/completions",
    b"/chat/completions",
    b"/openai/deployments/gpt-4o/chat/completions",
    b"/v1/completions",
    b"/completions",
    b"/v1/responses",
    b"/v1/messages",
    b"/api/chat",
    b"/api/generate",
    b"/v1beta/models/gemini-2.0-flash:generateContent",
    b"/v1beta/models/gemini-2.0-flash:streamGenerateContent?alt=sse",
    b"/v1/projects/p/locations/l/publishers/google/models/gemini:generateContent",
]
EMBEDDINGS = [b"/v1/embeddings", b"/embeddings", b"/api/embed", b"/api/embeddings"]
FREE = [
    b"/",
    b"/health",
    b"/v1/models",
    b"/v1/models/gpt-4o",
    b"/v1/messages/count_tokens",
    b"/v1/responses/resp_123/cancel",
    b"/api/tags",
    b"/x/api/chat",
    b"/v1/audio/transcriptions",
    b"/v1beta/models/gemini:countTokens",
    b"/v1beta/models/a/b:generateContent",
    b"/v1/xcompletions",
    b"/completionsx",
    b"*",
]


@pytest.mark.parametrize("target", INFERENCE)
def test_text_generation_is_guarded_by_default(table: RouteTable, target: bytes) -> None:
    """OpenAI-compatible servers, Anthropic's API, Gemini's, Ollama and OpenClaw need no setting."""
    assert table.guard_of(b"POST", target) == "inference"


@pytest.mark.parametrize("target", EMBEDDINGS)
def test_embeddings_are_a_class_of_their_own(table: RouteTable, target: bytes) -> None:
    """Embeddings neither wait behind chats nor open their circuit."""
    assert table.guard_of(b"POST", target) == "embeddings"


@pytest.mark.parametrize("target", FREE)
@pytest.mark.parametrize("method", [b"GET", b"POST", b"DELETE"])
def test_everything_else_passes_freely(table: RouteTable, method: bytes, target: bytes) -> None:
    """Health checks, model lists, pages and session calls take no slot."""
    assert table.guard_of(method, target) is None


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"])
@pytest.mark.parametrize("target", INFERENCE + EMBEDDINGS)
def test_only_posts_generate(table: RouteTable, method: bytes, target: bytes) -> None:
    """A CORS preflight or a stored answer that is fetched takes no slot."""
    assert table.guard_of(method, target) is None


def test_every_default_rule_guards_something() -> None:
    """No default rule is a slip of the pen: each matches a path of some known API."""
    guarded = {canonical_path(target) for target in INFERENCE + EMBEDDINGS}
    for route in (*INFERENCE_ROUTES, *EMBEDDINGS_ROUTES):
        _, _, path_glob = route.partition(" ")
        assert any(path_pattern(path_glob).fullmatch(path) for path in guarded), route


# -- spellings --------------------------------------------------------------------------------

SPELLINGS = [
    b"/v1/chat/completions?",
    b"/v1/chat/completions?stream=true",
    b"/v1/chat/completions?/../../health",
    b"/v1/chat/completions#part",
    b"/v1/chat/completions#part?query",
    b"/v1/chat/completions/",
    b"/v1/chat/completions//",
    b"//v1/chat/completions",
    b"///v1///chat//completions///",
    b"/v1/chat/./completions",
    b"/v1/chat/completions/.",
    b"/./v1/chat/completions",
    b"/v1/models/../chat/completions",
    b"/../../v1/chat/completions",
    b"/v1/chat/completions/x/..",
    b"/v1/chat/completion%73",
    b"/%76%31/%63hat/completions",
    b"/v1%2Fchat%2fcompletions",
    b"/v1/models/%2e%2E/chat/completions",
    b"/v1/models/.%2e/chat/completions",
    b"/v1/chat/%2e/completions",
    b"/v1/CHAT/Completions",
    b"/V1/chat/COMPLETIONS/",
    b"/v1\\chat\\completions",
    b"/v1%5cchat%5Ccompletions",
    b"http://backend/v1/chat/completions",
    b"HTTP://backend:8080/v1/chat/completions?x=1",
    b"https://backend//v1/./chat/completions/",
]


@pytest.mark.parametrize("target", SPELLINGS)
def test_no_spelling_of_a_guarded_path_slips_past(table: RouteTable, target: bytes) -> None:
    """However a client writes a path that a backend may take for an inference, it is guarded."""
    assert table.guard_of(b"POST", target) == "inference"


PREFIXES = [b"/", b"//", b"/./", b"//host/", b"/\\host/", b"/x/../", b"http://host/"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_no_spelling_of_a_rooted_path_slips_past(table: RouteTable, prefix: bytes) -> None:
    """The same for rules without `**`; a server may take `//host/api/chat` for `/api/chat`."""
    assert table.guard_of(b"POST", prefix + b"api/chat") == "inference"


def test_the_methods_letter_case_is_no_way_past(table: RouteTable) -> None:
    """Some servers take `post` for POST, so it is guarded like POST; rules need no capitals."""
    assert table.guard_of(b"post", b"/v1/messages") == "inference"
    assert RouteTable([RouteRule("post", "/a", "one")]).guard_of(b"POST", b"/a") == "one"


@pytest.mark.parametrize(
    "target",
    [
        b"/health?path=/v1/chat/completions",
        b"/health#/v1/chat/completions",
        b"/v1/chat/completions/../../models",
        b"http://v1/chat",
        b"http://host",
        b"http://host?/v1/chat/completions",
        b"//host/health",
        b"",
    ],
)
def test_a_guarded_path_elsewhere_in_the_target_guards_nothing(
    table: RouteTable, target: bytes
) -> None:
    """Query, fragment and host are no path."""
    assert table.guard_of(b"POST", target) is None


SEGMENTS = st.sampled_from([b"v1", b"chat", b"completions", b"models", b"api", b"x"])


@given(st.lists(SEGMENTS, max_size=5), st.data())
def test_encoding_and_padding_never_change_the_class(
    path: list[bytes], data: st.DataObject
) -> None:
    """Any mixture of percent-encoding, letter case, doubled slashes and dots is seen through."""
    table = RouteTable(Settings().plain().routes)
    plain = b"/" + b"/".join(path)
    disguised = b""
    for segment in path:
        disguised += data.draw(st.sampled_from([b"/", b"//", b"/./", b"/y/../", b"/%2e/", b"%2f"]))
        for byte in segment:
            char = bytes([byte])
            spelt = [char, char.upper(), b"%%%02x" % byte, b"%%%02X" % byte]
            disguised += data.draw(st.sampled_from(spelt))
    disguised += data.draw(st.sampled_from([b"", b"/", b"/.", b"//"]))
    target = disguised if disguised.startswith(b"/") else b"/" + disguised
    expected = table.guard_of(b"POST", plain)
    if expected is not None:
        assert table.guard_of(b"POST", target) == expected


@given(st.binary(max_size=60))
def test_any_bytes_have_a_class(target: bytes) -> None:
    """No target, however broken, raises; what it is read as is a rooted path without dots."""
    RouteTable(Settings().plain().routes).guard_of(b"POST", target)
    path = canonical_path(target)
    assert path.startswith(b"/")
    assert not {b".", b".."} & set(path.split(b"/"))


# -- the table --------------------------------------------------------------------------------


def test_the_first_rule_that_matches_decides() -> None:
    """Order matters: an exception stands before the rule that it excepts from."""
    table = RouteTable(
        [RouteRule("POST", "/v1/special", "one"), RouteRule("POST", "/v1/**", "two")]
    )
    assert table.guard_of(b"POST", b"/v1/special") == "one"
    assert table.guard_of(b"POST", b"/v1/other") == "two"


def test_without_rules_everything_passes_freely() -> None:
    """Empty lists switch guarding off."""
    assert RouteTable([]).guard_of(b"POST", b"/v1/chat/completions") is None


def test_what_was_found_is_found_again() -> None:
    """The answer for a target is the same on the thousandth request as on the first."""
    table = RouteTable([RouteRule("POST", "/a", "one"), RouteRule("PUT", "/a", "two")])
    for _ in range(3):
        assert table.guard_of(b"POST", b"/a") == "one"
        assert table.guard_of(b"PUT", b"/a") == "two"
        assert table.guard_of(b"POST", b"/b") is None


def test_a_scanner_cannot_fill_the_memory() -> None:
    """However many targets are tried, a bounded number is remembered, and all are judged."""
    table = RouteTable([RouteRule("POST", "/v1/*", "one")])
    for number in range(_CACHE_SIZE + 500):
        assert table.guard_of(b"POST", b"/v1/%d" % number) == "one"
        assert table.guard_of(b"POST", b"/v2/%d" % number) is None
    assert len(table._found) == _CACHE_SIZE


# -- models -----------------------------------------------------------------------------------

CHAT = b"/v1/chat/completions"
GEMINI = "**/models/*:generateContent"


def by_model(*rules: RouteRule, target: bytes = CHAT) -> ByModel:
    decision = RouteTable(rules).guard_of(b"POST", target)
    assert isinstance(decision, ByModel)
    return decision


def small(model_glob: str, path_glob: str = "**/completions", guard: str = "small") -> RouteRule:
    return RouteRule("POST", path_glob, guard, model_glob)


INFERENCE_RULE = RouteRule("POST", "**/completions", "inference")


@pytest.mark.parametrize(
    ("model", "guard"),
    [
        ("llama-3.2-1b", "small"),
        ("llama-3.2-1b-instruct", "small"),
        ("LLAMA-3.2-1B", "small"),
        ("llama-3.2-11b", "inference"),
        ("meta/llama-3.2-1b", "inference"),
        ("", "inference"),
        ("llama-3.2-1b\n", "small"),
        (None, "inference"),
    ],
)
def test_the_model_chooses_among_the_classes_of_a_path(model: str | None, guard: str) -> None:
    """A model that no rule names, or none at all, falls to the rule without a model."""
    decision = by_model(small("llama-3.2-1b*"), INFERENCE_RULE)
    assert decision.guard_of(model) == guard
    assert decision.classes == ("small", "inference")


def test_rules_with_models_are_tried_in_their_order() -> None:
    """An exception for one model stands before the rule that would take it too."""
    vision = small("llama-*-vision", guard="inference")
    decision = by_model(vision, small("llama*"), small("*", guard="named"), INFERENCE_RULE)
    models = ("llama-3-vision", "llama-3", "qwen", None)
    assert [decision.guard_of(model) for model in models] == [
        "inference",
        "small",
        "named",
        "inference",
    ]
    assert decision.classes == ("small", "named", "inference")


def test_rules_behind_one_without_model_do_not_count() -> None:
    """The first rule that matches whatever the model ends the search."""
    assert RouteTable([INFERENCE_RULE, small("llama*")]).guard_of(b"POST", CHAT) == "inference"


def test_other_models_of_a_path_without_a_class_pass_freely() -> None:
    """A class can guard one model on a path that nothing else guards."""
    decision = by_model(small("llama*"))
    assert decision.guard_of("llama-3") == "small"
    assert decision.guard_of("qwen") is None
    assert decision.guard_of(None) is None
    assert decision.classes == ("small", None)


def test_the_body_is_not_asked_where_all_models_have_one_class() -> None:
    """What cannot change the class is not waited for."""
    rules = [small("llama*", guard="inference"), INFERENCE_RULE]
    assert RouteTable(rules).guard_of(b"POST", CHAT) == "inference"


@pytest.mark.parametrize(
    ("target", "guard"),
    [
        (b"/v1beta/models/gemini-flash:generateContent", "small"),
        (b"/v1beta/models/gemini%2Dflash:generateContent?key=x", "small"),
        (b"/v1beta/models/gemini-pro:generateContent", "inference"),
    ],
)
def test_a_model_in_the_path_decides_at_once(target: bytes, guard: str) -> None:
    """Gemini's API names the model in the path; the body has none."""
    table = RouteTable([small("gemini-flash*", GEMINI), RouteRule("POST", GEMINI, "inference")])
    assert table.guard_of(b"POST", target) == guard


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (b"/v1beta/models/gemini-2.0-flash:streamGenerateContent", "gemini-2.0-flash"),
        (b"/v1/publishers/google/models/g:generateContent", "g"),
        (b"/v1beta/models/a:b:countTokens", "a:b"),
        (b"/v1beta/models/\xff:generateContent", "\ufffd"),
        (b"/v1/models/gpt-4o", None),
        (b"/v1beta/models/g:generateContent/more", None),
        (b"/v1/chat/completions", None),
    ],
)
def test_the_model_is_read_from_geminis_paths(path: bytes, model: str | None) -> None:
    """Only paths of the form /models/NAME:verb name a model."""
    assert model_in_path(path) == model


def test_made_up_models_and_targets_cannot_fill_the_memory() -> None:
    """However many models clients name, on however many targets, few are remembered."""
    table = RouteTable([small("llama*"), INFERENCE_RULE])
    decisions = set()
    for number in range(_MODEL_CACHE_SIZE + 50):
        decision = table.guard_of(b"POST", CHAT + b"?%d" % number)
        assert isinstance(decision, ByModel)
        decisions.add(decision)
        assert decision.guard_of(f"llama-{number}") == "small"
        assert decision.guard_of(f"qwen-{number}") == "inference"
    (decision,) = decisions
    assert len(decision._found) == _MODEL_CACHE_SIZE
