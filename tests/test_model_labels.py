"""Are labels of models few and harmless, whatever clients write into their requests?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.telemetry.model_labels import FIRST_SEEN_MAX, NONE, OTHER, ModelLabels


def test_configured_models_have_a_label_from_the_start() -> None:
    """Their series are there at zero, and no stranger takes their place."""
    labels = ModelLabels(["small", "big"])
    for number in range(100):
        labels.answered(f"stranger-{number}")
    assert labels.label_of("small") == "small"
    assert labels.all[:2] == ("small", "big")


def test_a_model_gets_a_label_when_the_backend_has_answered_for_it() -> None:
    """A name that a client made up is `other`, and stays so."""
    labels = ModelLabels()
    assert labels.label_of("llama") == OTHER
    assert labels.answered("llama") == "llama"
    assert labels.label_of("llama") == "llama"
    assert labels.label_of("made up") == OTHER


def test_only_the_first_models_have_a_label() -> None:
    """A backend with hundreds of models does not fill a Prometheus."""
    labels = ModelLabels(["configured"])
    names = [f"model-{number}" for number in range(FIRST_SEEN_MAX + 10)]
    found = [labels.answered(name) for name in names]
    assert found == names[:FIRST_SEEN_MAX] + [OTHER] * 10
    assert [labels.answered(name) for name in names] == found
    assert len(labels.all) == FIRST_SEEN_MAX + 3


def test_a_request_without_model_has_a_label_of_its_own() -> None:
    """It is told from one for a model that has no label."""
    labels = ModelLabels()
    assert labels.label_of(None) == labels.answered(None) == NONE
    assert {OTHER, NONE} <= set(labels.all)


@pytest.mark.parametrize(
    "name",
    ["", " ", "x" * 97, "a\nb", "a\x00", "caf\u00e9", 'a"b', "a\\b", "-a", "\u202eabc", "a\ud800"],
)
def test_hostile_names_get_no_label(name: str) -> None:
    """Control characters, other scripts' tricks and long names never get into the metrics."""
    assert ModelLabels().answered(name) == OTHER


@pytest.mark.parametrize(
    "name",
    ["gpt-4o", "meta-llama/Llama-3.2-1B-Instruct", "llama3:8b", "openclaw/main", "m@v1", "a b"],
)
def test_usual_names_are_labels_as_they_are(name: str) -> None:
    """Names of all the usual servers are kept."""
    assert ModelLabels().answered(name) == name


def test_a_model_called_like_a_reserved_label_adds_none() -> None:
    """Models named `other` and `none` share the label, they do not double it."""
    labels = ModelLabels([OTHER])
    assert labels.answered(NONE) == NONE
    assert len(set(labels.all)) == len(labels.all)


@given(st.lists(st.text(max_size=120), max_size=60))
def test_no_names_whatsoever_break_the_metrics(names: list[str]) -> None:
    """All labels can be rendered and read back, and they are few."""
    labels = ModelLabels()
    registry = CollectorRegistry()
    counter = Counter("seen", "Names.", ["model"], registry=registry)
    for name in names:
        counter.labels(labels.answered(name)).inc()
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    shown = {
        sample.labels["model"]
        for family in families
        for sample in family.samples
        if sample.name == "seen_total"
    }
    assert shown <= set(labels.all)
    assert len(shown) <= FIRST_SEEN_MAX + 2
