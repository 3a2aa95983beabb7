"""Can a person add classes of routes, and is every mistake told with its place and remedy?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sidecar.admission.config import GuardConfig, QueueConfig
from sidecar.admission.routes import ByModel, RouteRule, RouteTable, models_named
from sidecar.proxy.body_model import NAME_MAX
from sidecar.proxy.config import Timers
from sidecar.settings.catalog import keys_of_class
from sidecar.settings.classes import MAX_CLASSES
from sidecar.settings.load import effective, load
from sidecar.settings.mistakes import ConfigError
from sidecar.settings.model import INFERENCE_ROUTES, Settings
from sidecar.settings.plain import PlainSettings

DOCS = Path(__file__).parent.parent / "docs"
CHAT = b"/v1/chat/completions"


def loaded(classes: object, **flags: str) -> Settings:
    """Settings with these classes, as a variable would set them."""
    return load(flags, {"SIDECAR_CLASSES": json.dumps(classes)}).settings


def settings_of(classes: object, **flags: str) -> PlainSettings:
    """What a run with these classes is given."""
    return loaded(classes, **flags).plain()


def mistakes_in(tmp_path: Path, text: str) -> list[str]:
    """What is said of a file, with its path as F."""
    path = tmp_path / "sidecar.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load({}, {}, str(path))
    return [str(mistake).replace(str(path), "F") for mistake in caught.value.mistakes]


def mistakes_of(classes: str) -> list[str]:
    """What is said of the variable."""
    with pytest.raises(ConfigError) as caught:
        load({}, {"SIDECAR_CLASSES": classes})
    return [str(mistake) for mistake in caught.value.mistakes]


def guard_of(settings: PlainSettings, target: bytes, model: str | None = None) -> str | None:
    """The class of a POST."""
    guard = RouteTable(settings.routes).guard_of(b"POST", target)
    return guard.guard_of(model) if isinstance(guard, ByModel) else guard


# -- what classes are given -------------------------------------------------------------------


def test_without_classes_there_are_the_three_default_ones() -> None:
    """The everyday configuration needs to know nothing of classes."""
    settings = load({}, {}).settings.plain()
    assert tuple(settings.guards) == ("inference", "embeddings", "upgrade")
    assert list(settings.breakers.values()) == ["inference", "embeddings", None]
    assert settings.timers["inference"] == settings.proxy.timers


def test_a_class_for_small_models_takes_three_lines() -> None:
    """Requests for the model get the class, all others stay where they were."""
    settings = settings_of({"small": {"models": ["llama-3.2-1b*"], "max_concurrent": 8}})
    assert tuple(settings.guards) == ("inference", "embeddings", "small", "upgrade")
    assert guard_of(settings, CHAT, "llama-3.2-1b-instruct") == "small"
    assert guard_of(settings, b"/api/generate", "llama-3.2-1b") == "small"
    assert guard_of(settings, CHAT, "llama-3.2-70b") == "inference"
    assert guard_of(settings, CHAT) == "inference"
    assert guard_of(settings, b"/v1/embeddings", "llama-3.2-1b") == "embeddings"
    assert settings.guards["small"] == GuardConfig(
        max_concurrent=8, limit_setting="classes.small.max_concurrent"
    )
    assert settings.guards["inference"] == GuardConfig()
    assert settings.breakers["small"] == "small"


def test_what_a_class_leaves_out_it_takes_from_the_top_level() -> None:
    """One number is written once, and changed for one class only where that says so."""
    classes = {
        "plain": {"routes": ["POST /plain"]},
        "special": {
            "routes": ["post /special/"],
            "queue": {"max_waiting": 1, "timeout_s": 2},
            "timers": {"first_event_s": 3, "stall_s": 4, "total_s": "off"},
        },
    }
    flags = {
        "max_concurrent": "7",
        "queue.max_waiting": "70",
        "queue.timeout_s": "71",
        "queue.max_bytes": "2000000",
        "timers.first_event_per_kib_s": "0.5",
        "timers.total_s": "72",
        "timers.connect_s": "73",
    }
    settings = settings_of(classes, **flags)
    assert settings.guards["plain"] == GuardConfig(7, QueueConfig(70, 71.0, 2_000_000))
    assert settings.guards["special"] == GuardConfig(7, QueueConfig(1, 2.0, 2_000_000))
    assert settings.timers["plain"] == settings.proxy.timers
    assert settings.timers["special"] == Timers(
        connect_s=73.0, first_event_s=3.0, stall_s=4.0, total_s=None, first_event_per_kib_s=0.5
    )
    assert guard_of(settings, b"/special") == "special"


def test_every_key_of_a_class_reaches_the_room_that_obeys_it() -> None:
    """A key that is read but handed on to nobody would be a lie."""
    given: dict[str, Any] = {
        "routes": ["POST /a"],
        "models": ["m"],
        "max_concurrent": 11,
        "queue": {"max_waiting": 12, "timeout_s": 13, "max_bytes": 14_000_000},
        "breaker": "none",
        "timers": {
            "first_event_s": 15,
            "first_event_per_kib_s": 16,
            "stall_s": 17,
            "total_s": 18,
        },
    }
    settings = settings_of({"one": given})
    assert settings.routes[0] == RouteRule("POST", "/a", "one", "m")
    assert settings.guards["one"] == GuardConfig(
        11, QueueConfig(12, 13.0, 14_000_000), None, "classes.one.max_concurrent"
    )
    timers = Timers(first_event_s=15, stall_s=17, total_s=18, first_event_per_kib_s=16)
    assert settings.timers["one"] == timers
    keys = {f"{key}.{name}" for key in ("queue", "timers") for name in given[key]}
    assert set(keys_of_class()) == keys | (set(given) - {"queue", "timers"})


def test_a_default_class_can_have_numbers_of_its_own() -> None:
    """What is different for embeddings stands in the same place; its routes and limit stay."""
    classes = {"embeddings": {"queue": {"timeout_s": 5}, "breaker": "inference"}}
    settings = settings_of(classes, **{"embeddings.max_concurrent": "4"})
    assert settings.guards["embeddings"] == GuardConfig(
        4, QueueConfig(timeout_s=5.0), None, "embeddings.max_concurrent"
    )
    assert settings.breakers["embeddings"] == "inference"
    assert guard_of(settings, b"/v1/embeddings") == "embeddings"
    assert tuple(settings.guards) == ("inference", "embeddings", "upgrade")


def test_classes_are_tried_in_their_order_and_before_the_default_rules() -> None:
    """An exception stands before what it is excepted from, also one into a default class."""
    classes = {
        "inference": {"models": ["llama-*-vision"]},
        "small": {"models": "llama-*, qwen-0.5b"},
        "chat": {"routes": ["POST **/chat/completions"]},
    }
    settings = settings_of(classes)
    models = ("llama-3-vision", "llama-3", "qwen-0.5b", "qwen-7b", None)
    assert [guard_of(settings, CHAT, model) for model in models] == [
        *("inference", "small", "small", "chat", "chat"),
    ]
    assert guard_of(settings, b"/v1/messages", "qwen-7b") == "inference"


def test_models_of_embeddings_mean_the_routes_of_embeddings() -> None:
    """A rule for a model in a default class is about that class's requests."""
    settings = settings_of({"embeddings": {"models": ["x"]}, "other": {"models": ["x"]}})
    rules = [rule for rule in settings.routes if rule.model_glob]
    paths = {(rule.guard, rule.path_glob) for rule in rules}
    assert ("embeddings", "**/embeddings") in paths
    assert ("embeddings", "**/completions") not in paths
    assert sum(guard == "other" for guard, _ in paths) == len(INFERENCE_ROUTES)


def test_sharing_leads_to_the_class_whose_own_breaker_it_is() -> None:
    """Also by way of a class that shares in turn; without a breaker there is nobody's."""
    classes = {
        "a": {"routes": ["POST /a"], "breaker": "b"},
        "b": {"routes": ["POST /b"], "breaker": "Inference"},
        "c": {"routes": ["POST /c"], "breaker": "none"},
    }
    settings = settings_of(classes)
    assert [settings.breakers[name] for name in "abc"] == ["inference", "inference", None]
    assert [settings.guards[name].breaker for name in "abc"] == [None, None, None]


@pytest.mark.parametrize("text", ["none", "None", "off", "'off'", "'NONE '"])
def test_a_breaker_can_be_left_away_in_any_spelling(tmp_path: Path, text: str) -> None:
    """YAML reads a bare `off` as false; people mean none."""
    path = tmp_path / "sidecar.yaml"
    path.write_text(f"classes: {{a: {{routes: [POST /a], breaker: {text}}}}}")
    assert load({}, {}, str(path)).settings.plain().breakers["a"] is None


def test_models_named_in_full_are_known() -> None:
    """They have a label in the metrics whatever happens."""
    settings = settings_of({"a": {"models": ["x", "y*"]}, "b": {"models": ["z", "x-1"]}})
    assert models_named(settings.routes) == ("x", "z", "x-1")


# -- where they are written -------------------------------------------------------------------


def test_file_flag_and_variable_mean_the_same(tmp_path: Path) -> None:
    """JSON in a variable or flag is what YAML is in the file; the stronger replaces the weaker."""
    path = tmp_path / "sidecar.yaml"
    path.write_text("classes:\n  small:\n    models: [a, b]\n    max_concurrent: 8\n")
    text = '{"small": {"models": ["a", "b"], "max_concurrent": 8}}'
    from_file = load({}, {}, str(path))
    assert from_file.settings == load({"classes": text}, {}).settings
    assert from_file.settings == load({}, {"SIDECAR_CLASSES": text}).settings
    assert str(from_file.sources["classes"]) == f"{path}:2"
    stronger = load({"classes": '{"x": {"routes": "POST /x"}}'}, {}, str(path)).settings
    assert stronger.class_names == ("inference", "embeddings", "x", "upgrade")


def test_classes_are_shown_as_they_were_set() -> None:
    """`config` shows what was written, not what was left out."""
    classes = {"a": {"routes": ["POST /a"], "queue": {"timeout_s": 5}, "timers": {"total_s": None}}}
    assert effective(loaded(classes))["classes"] == classes


def test_null_is_what_leaving_out_is() -> None:
    """A key that a template leaves empty takes the top level's number."""
    given = {"routes": ["POST /a"], "max_concurrent": None, "queue": {"max_waiting": None}}
    assert settings_of({"a": given}).guards["a"] == GuardConfig()


def test_an_empty_mapping_sets_nothing(tmp_path: Path) -> None:
    """A key whose classes are all commented out is fine."""
    path = tmp_path / "sidecar.yaml"
    for text in ("classes:\n", "classes: {}\n"):
        path.write_text(text)
        assert load({}, {}, str(path)).settings == load({}, {}).settings


# -- mistakes ---------------------------------------------------------------------------------


def test_all_mistakes_in_classes_come_at_once_with_their_lines(tmp_path: Path) -> None:
    """One can jump to each of them."""
    text = """\
classes:
  small:
    models: [""]
    max_concurent: 8
    queue: {timeout: 10,
      max_waiting: -1}
    timers: 5
  Rerank:
    routes: [POST /a]
  free: {}
  upgrade: {max_concurrent: 5}
  empty:
  twice: {}
  twice: {}
  odd:
    routes:
      - POST /a
      - POST x
    breaker: 5
"""
    assert mistakes_in(tmp_path, text) == [
        "F:14: classes.twice: stands twice, first on line 13",
        (
            'F:3: classes.small.models.0 = "": must be a model\'s name of at most 256 characters, '
            'such as "llama-3.2-1b*"'
        ),
        "F:6: classes.small.queue.max_waiting = -1: must be at least 0",
        "F:5: classes.small.queue.timeout: unknown key; did you mean timeout_s?",
        "F:7: classes.small.timers = 5: must hold keys of its own",
        "F:4: classes.small.max_concurent: unknown key; did you mean max_concurrent?",
        (
            "F:8: classes.Rerank: must be a name of at most 32 lower-case letters, digits, _ and "
            "-, such as small"
        ),
        "F:10: classes.free: must be another name: free means something else",
        (
            "F:11: classes.upgrade: must be another name: upgrade means something else; its limit "
            "is max_upgrades"
        ),
        "F:12: classes.empty = null: must hold keys of its own",
        "F:18: classes.odd.routes.1 = POST x: must have a path that begins with / or **, not 'x'",
        "F:19: classes.odd.breaker = 5: must be text",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (
            "small",
            (
                "classes = small: must hold classes by name; in a flag or variable as JSON: "
                '{"small": {"models": ["llama-3.2-1b*"], "max_concurrent": 8}}'
            ),
        ),
        ("[5]", "classes = [5]: must hold names, each with keys of its own"),
        ("{5: {}}", "classes.5: must be text"),
        ("{a: [5]}", "classes.a = [5]: must hold keys of its own"),
        ("{a: {models: []}}", "classes.a.models = []: must not be empty"),
        ("{a: {routes: []}}", "classes.a.routes = []: must not be empty"),
        ("{a: {models: [5]}}", 'classes.a.models.0 = 5: must be text, such as "llama-3.2-1b*"'),
        ("{a: {queue: {max_waiting: yes}}}", "must be a number, not true or false"),
        ("&a {x: *a}", "classes: is no plain YAML value"),
    ],
)
def test_wrong_shapes_are_explained(tmp_path: Path, text: str, mistake: str) -> None:
    """Whatever stands there, what is said is one line in plain words."""
    (found,) = mistakes_in(tmp_path, f"classes: {text}")
    assert found.startswith("F:1: classes")
    assert found.endswith(mistake)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('{"a": {"max_concurrent": 0}}', ": classes.a.max_concurrent = 0: must be at least 1"),
        ('{"a": {"x": 1}}', ": classes.a.x: unknown key"),
        ('{"a": {"queue": {"x": 1}}}', ": classes.a.queue.x: unknown key"),
        ('{"a\\nb": {}}', ": classes.'a\\nb': must be a name of at most 32 lower-case letters"),
        ('{"a": {}, "a": {}}', ' = {"a": {}, "a": {}}: must not hold \'a\' twice'),
        ('{"a": {"models": ["x"], "models": []}}', "must not hold 'models' twice"),
        ('{"a"', ' = {"a": must hold classes by name; in a flag or variable as JSON: {"small"'),
    ],
)
def test_mistakes_in_a_variable_say_where_in_it(text: str, mistake: str) -> None:
    """The variable has no lines, so the key is told."""
    (found,) = mistakes_of(text)
    assert found.startswith("SIDECAR_CLASSES")
    assert mistake in found
    assert "\n" not in found


def test_a_variable_for_one_class_is_told_what_would_be_right() -> None:
    """Classes have no variables or flags of their own."""
    with pytest.raises(ConfigError) as caught:
        load({}, {"SIDECAR_CLASSES__SMALL__MAX_CONCURRENT": "8"})
    assert str(caught.value) == (
        "SIDECAR_CLASSES__SMALL__MAX_CONCURRENT: unknown variable; SIDECAR_CLASSES holds all of it"
    )


def test_a_flag_hides_the_lines_of_the_file(tmp_path: Path) -> None:
    """A mistake that comes to light when all is together is told where the value in force is."""
    path = tmp_path / "sidecar.yaml"
    path.write_text("classes:\n  a:\n    routes: [POST /a]\n    breaker: inference\n")
    with pytest.raises(ConfigError) as caught:
        load({"classes": '{"a": {"routes": ["POST /a"], "breaker": "b"}}'}, {}, str(path))
    assert str(caught.value) == (
        "--classes: classes.a.breaker = b: must be own, none or the name of a class"
    )


@pytest.mark.parametrize(
    ("classes", "mistake"),
    [
        ("{h: {max_concurrent: 5}}",
         ('classes.h = {"max_concurrent": 5}: must have routes or models, or no request is of this '
         "class")),
        ("{embeddings: {max_concurrent: 5}}",
         "classes.embeddings.max_concurrent = 5: must be set as embeddings.max_concurrent"),
        ("{inference: {max_concurrent: 5}}",
         "classes.inference.max_concurrent = 5: must be set as max_concurrent"),
        ("{a: {routes: [POST /a], breaker: inferense}}",
         ("classes.a.breaker = inferense: must be own, none or the name of a class; did you mean "
         "inference?")),
        ("{a: {routes: [POST /a], breaker: upgrade}}",
         "classes.a.breaker = upgrade: must be own, none or the name of a class"),
        ("{a: {routes: [POST /a], breaker: a}}",
         "classes.a.breaker = a: must not lead back to a (a > a): let one of them be own"),
        ("{embeddings: {breaker: none}, a: {routes: [POST /a], breaker: embeddings}}",
         "classes.a.breaker = embeddings: must be a class that has a breaker: embeddings has none"),
        ("{a: {routes: [POST /a], queue: {max_bytes: 5}}}",
         "classes.a.queue.max_bytes = 5: must be at least queue.body_buffer_bytes (1048576)"),
        ("{a: {routes: [POST /v1/**]}, b: {routes: [POST /v1/x/*, POST /b]}}",
         ('classes.b = {"routes": ["POST /v1/x/*", "POST /b"]}: POST /v1/x/* never matches: a '
         "takes all of these before it; write classes.b before classes.a")),
        ("{a: {models: [llama*]}, b: {models: [LLAMA-3*, qwen]}}",
         ('classes.b = {"models": ["LLAMA-3*", "qwen"]}: POST **/chat/completions for LLAMA-3* '
         "never matches: a takes all of these before it; write classes.b before classes.a")),
    ],
)  # fmt: skip
def test_what_cannot_be_together_is_told(tmp_path: Path, classes: str, mistake: str) -> None:
    """Each is a slip whose effect nobody would see before it hurts."""
    assert mistakes_in(tmp_path, f"classes: {classes}") == [f"F:1: {mistake}"]


def test_models_of_no_request_are_a_mistake() -> None:
    """Where nothing is guarded as inference, a class for models must say for which requests."""
    with pytest.raises(ConfigError) as caught:
        settings_of({"a": {"models": ["m"]}}, **{"routes.inference": "[]"})
    assert str(caught.value) == (
        'SIDECAR_CLASSES: classes.a = {"models": ["m"]}: must have routes: routes.inference is [], '
        "or no request is of this class"
    )


def test_classes_that_share_in_a_circle_are_all_told(tmp_path: Path) -> None:
    """Nobody in a circle has a breaker; who leads into it needs no change."""
    text = """\
classes:
  into: {routes: [POST /i], breaker: b}
  b: {routes: [POST /b], breaker: c}
  c: {routes: [POST /c], breaker: b}
"""
    assert mistakes_in(tmp_path, text) == [
        "F:3: classes.b.breaker = c: must not lead back to b (b > c > b): let one of them be own",
        "F:4: classes.c.breaker = b: must not lead back to c (c > b > c): let one of them be own",
    ]


@pytest.mark.parametrize(
    "classes",
    [
        {"a": {"models": ["llama-3*"]}, "b": {"models": ["llama*"]}},
        {"a": {"routes": ["POST /x/*"]}, "b": {"routes": ["POST /x/**"]}},
        {"a": {"routes": ["POST /x"]}, "b": {"routes": ["PUT /x"]}},
        {"a": {"routes": ["POST /x"], "models": ["m"]}, "b": {"routes": ["POST /x"]}},
        {"a": {"routes": ["POST /x/**", "POST /x/y"]}},
        {"all": {"routes": ["POST /**"]}},
    ],
)
def test_rules_that_can_match_are_no_mistake(classes: object) -> None:
    """Exceptions before the rule, other methods, and what hides only default rules."""
    assert loaded(classes).classes


def test_a_written_rule_of_embeddings_that_inference_hides_is_a_mistake() -> None:
    """Whoever writes both lists is told; whoever writes only the first meant it."""
    flags = {"routes.inference": "POST /**"}
    assert load(flags, {}).settings.routes.inference == ("POST /**",)
    with pytest.raises(ConfigError) as caught:
        load({**flags, "routes.embeddings": "POST /e"}, {})
    assert str(caught.value) == (
        '--routes.embeddings = ["POST /e"]: POST /e never matches: inference takes all of these '
        "before it; leave it out"
    )


@pytest.mark.parametrize("path", ["/a//b", "/a/./b", "/a/../b", "/a/..", "/a%20b", "/a\\b", "//"])
def test_a_path_that_no_request_has_is_a_mistake(path: str) -> None:
    """Paths are compared decoded, without dots and doubled slashes; such a rule never matches."""
    with pytest.raises(ConfigError, match="as it is compared"):
        load({"routes.inference": f"POST {path}"}, {})


def test_the_prefix_must_fit_into_the_queue_where_models_decide() -> None:
    """Otherwise a request whose model stands far back could never come in."""
    flags = {"queue.max_bytes": "2000", "queue.body_buffer_bytes": "1000"}
    assert load(flags, {}).settings.queue.max_bytes == 2000
    with pytest.raises(ConfigError) as caught:
        load(flags, {"SIDECAR_CLASSES": '{"a": {"models": ["m"]}}'})
    assert str(caught.value) == (
        "routes.model_prefix_bytes (default) = 262144: must be at most queue.max_bytes (2000)"
    )


def test_there_are_not_too_many_classes() -> None:
    """Each is a set of series; the default ones do not count."""
    classes = {f"c{number}": {"routes": [f"POST /{number}"]} for number in range(MAX_CLASSES)}
    classes["inference"] = {"routes": ["POST /i"]}
    assert len(settings_of(classes).guards) == MAX_CLASSES + 3
    (mistake,) = mistakes_of(json.dumps({**classes, "more": {"routes": ["POST /m"]}}))
    assert f"must be at most {MAX_CLASSES} classes beside the default ones" in mistake


def test_a_rule_can_name_every_model_that_can_be_read() -> None:
    """The longest name that is read from a request fits into the configuration."""
    settings = settings_of({"a": {"models": ["x" * NAME_MAX]}})
    assert models_named(settings.routes) == ("x" * NAME_MAX,)
    assert mistakes_of(json.dumps({"a": {"models": ["x" * (NAME_MAX + 1)]}}))


# -- documents --------------------------------------------------------------------------------


def test_the_examples_in_the_documents_are_good(tmp_path: Path) -> None:
    """Each YAML example can be copied into a file as it stands."""
    examples = re.findall(r"```yaml\n(.*?)```", (DOCS / "classes.md").read_text(), re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        path = tmp_path / "sidecar.yaml"
        path.write_text(example)
        load({}, {}, str(path))
    variable = re.search(r"SIDECAR_CLASSES='(.*)'", (DOCS / "classes.md").read_text())
    assert variable is not None
    assert (
        load({}, {"SIDECAR_CLASSES": variable[1]}).settings.plain().guards["small"].max_concurrent
        == 8
    )


def test_the_vision_example_does_what_it_says() -> None:
    """The documented exception keeps the model in the default class."""
    text = (DOCS / "classes.md").read_text()
    assert "models: [llama-3.2-1b-vision]" in text
    classes = {
        "inference": {"models": ["llama-3.2-1b-vision"]},
        "small": {"models": ["llama-3.2-1b*"], "max_concurrent": 8},
    }
    settings = settings_of(classes)
    assert guard_of(settings, CHAT, "llama-3.2-1b-vision") == "inference"
    assert guard_of(settings, CHAT, "llama-3.2-1b") == "small"
