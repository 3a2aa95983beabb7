"""What do the classes of routes make together? Their rules, their breakers, and what cannot be.

Mistakes are (key, what would be right), as in `Settings.contradictions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sidecar.admission.globs import model_covers, path_covers
from sidecar.admission.routes import RouteRule
from sidecar.settings.classes import (
    EMBEDDINGS,
    INFERENCE,
    NONE,
    OWN,
    UPGRADE,
    ClassSettings,
    own_classes,
)
from sidecar.settings.mistakes import nearest

_Classes = Mapping[str, ClassSettings]
_Mistakes = list[tuple[str, str]]

# Where the limit of a default class stands; a second place would leave open which one counts.
_LIMIT_KEYS = {INFERENCE: "max_concurrent", EMBEDDINGS: "embeddings.max_concurrent"}


# -- rules ----------------------------------------------------------------------------------------


def class_rules(
    classes: _Classes, inference: Sequence[str], embeddings: Sequence[str]
) -> list[RouteRule]:
    """The rules of `classes`, which are tried first; `inference` and `embeddings` as in `routes`.

    A default class that names neither routes nor models only changes numbers: it has none here.
    """
    rules = []
    for name, given in classes.items():
        if given.routes is None and given.models is None:
            continue
        usual = embeddings if name == EMBEDDINGS else inference
        routes = usual if given.routes is None else given.routes
        rules += [_rule(name, route, model) for route in routes for model in given.models or [None]]
    return rules


def default_rules(inference: Sequence[str], embeddings: Sequence[str]) -> list[RouteRule]:
    """The rules of the group `routes`, which are tried last."""
    rules = [_rule(INFERENCE, route) for route in inference]
    return rules + [_rule(EMBEDDINGS, route) for route in embeddings]


def _rule(name: str, route: str, model: str | None = None) -> RouteRule:
    method, _, path_glob = route.partition(" ")
    return RouteRule(method, path_glob, name, model)


def rules_without_use(rules: Sequence[RouteRule], key: str, remedy: str) -> _Mistakes:
    """Rules that never match, because one of another class before them takes all they could.

    `key` and `remedy` may say `{name}` and `{other}`: the rule's class, and the one before it. A
    class is told of once for each such other, with the first of the rules.
    """
    found: dict[tuple[str, str], str] = {}
    for rule, other in _hidden(rules):
        told = (key.format(name=rule.guard), other)
        model = "" if rule.model_glob is None else f" for {rule.model_glob}"
        found.setdefault(
            told,
            f"{rule.method} {rule.path_glob}{model} never matches: {other} takes all of these "
            + remedy.format(name=rule.guard, other=other),
        )
    return [(place, problem) for (place, _), problem in found.items()]


def _hidden(rules: Sequence[RouteRule]) -> Iterator[tuple[RouteRule, str]]:
    for number, rule in enumerate(rules):
        for earlier in rules[:number]:
            if earlier.guard != rule.guard and _covers(earlier, rule):
                yield rule, earlier.guard
                break


def _covers(rule: RouteRule, other: RouteRule) -> bool:
    if rule.method != other.method or not path_covers(rule.path_glob, other.path_glob):
        return False
    if rule.model_glob is None:
        return True
    return other.model_glob is not None and model_covers(rule.model_glob, other.model_glob)


# -- breakers -------------------------------------------------------------------------------------


def owner_of_breaker(name: str, classes: _Classes) -> str | None:
    """The class whose breaker guards `name`, itself included; None without a breaker.

    A class may share with one that shares in turn.
    """
    last = _followed(name, classes)[-1]
    return last if _breaker_of(last, classes) == OWN else None


def _followed(name: str, classes: _Classes) -> list[str]:
    """The classes that one comes by from `name` on by following `breaker`.

    The last one follows nobody, or has been come by before.
    """
    passed = [name]
    while (breaker := _breaker_of(passed[-1], classes)) not in (OWN, NONE):
        circle = breaker in passed
        passed.append(breaker)
        if circle:
            break
    return passed


def _breaker_of(name: str, classes: _Classes) -> str:
    if name == UPGRADE:
        return NONE
    return classes[name].breaker if name in classes else OWN


# -- what cannot be -------------------------------------------------------------------------------


def contradictions_in(classes: _Classes, rules: Sequence[RouteRule]) -> _Mistakes:
    """What is wrong with each class, beside or because of the others; `rules` are theirs."""
    found: _Mistakes = []
    reached = {rule.guard for rule in rules}
    for name, given in classes.items():
        key = f"classes.{name}"
        if name in _LIMIT_KEYS and given.max_concurrent is not None:
            found.append((f"{key}.max_concurrent", f"must be set as {_LIMIT_KEYS[name]}"))
        if name not in _LIMIT_KEYS and name not in reached:
            wanted = (
                "routes or models" if given.models is None else "routes: routes.inference is []"
            )
            found.append((key, f"must have {wanted}, or no request is of this class"))
        problem = _wrong_breaker(name, classes)
        if problem:
            found.append((f"{key}.breaker", problem))
    return found


def _wrong_breaker(name: str, classes: _Classes) -> str:
    breaker = classes[name].breaker
    if breaker in (OWN, NONE):
        return ""
    names = [INFERENCE, EMBEDDINGS, *own_classes(classes)]
    if breaker not in names:
        meant = nearest(breaker, [OWN, NONE, *names])
        hint = f"; did you mean {meant}?" if meant else ""
        return f"must be {OWN}, {NONE} or the name of a class{hint}"
    *_, last = passed = _followed(name, classes)
    if last == name:
        return f"must not lead back to {name} ({' > '.join(passed)}): let one of them be {OWN}"
    if _breaker_of(last, classes) == NONE:
        return f"must be a class that has a breaker: {last} has none"
    return ""  # a circle further on is told there
