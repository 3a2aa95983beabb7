"""Which class of routes does a request belong to? Method, path and model, first match wins."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from sidecar.admission.globs import model_pattern, path_pattern

# Distinct targets remembered; a scanner that tries more pays for matching, not with our memory.
_CACHE_SIZE = 1024

# Likewise names of models, of which few backends have as many (a guess).
_MODEL_CACHE_SIZE = 256

# Gemini's paths name the model: /v1beta/models/gemini-2.0-flash:generateContent.
_MODEL_IN_PATH = re.compile(rb"/models/([^/]+):[A-Za-z]+\Z")


@dataclass(frozen=True, slots=True)
class RouteRule:
    """Requests of `method` whose path matches `path_glob` belong to class `guard`.

    With `model_glob` only those that ask for a model whose name it matches. `globs` tells what
    may stand in both.
    """

    method: str
    path_glob: str
    guard: str
    model_glob: str | None = None


def canonical_path(target: bytes) -> bytes:
    """The path that a backend might make of a request target, for matching only.

    Backends decode percent-encoding, drop the query, dot segments, double and trailing slashes;
    a path that reaches an inference handler by such a spelling must not slip past its limit
    (RFC 3986, 6.2.2).
    """
    path = target.partition(b"?")[0].partition(b"#")[0]
    if not path.startswith(b"/"):  # absolute-form: scheme://authority/path
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    path = unquote_to_bytes(path).replace(b"\\", b"/")
    segments: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del segments[-1:]
        elif segment not in (b"", b"."):
            segments.append(segment)
    return b"/" + b"/".join(segments)


def model_in_path(path: bytes) -> str | None:
    """The model that a canonical path names, as Gemini's do; None where it names none."""
    found = _MODEL_IN_PATH.search(path)
    return found[1].decode("utf-8", "replace") if found is not None else None


def models_named(rules: Iterable[RouteRule]) -> tuple[str, ...]:
    """The models that rules name in full, without `*`."""
    globs = dict.fromkeys(rule.model_glob for rule in rules)
    return tuple(glob for glob in globs if glob is not None and "*" not in glob)


class ByModel:
    """The class of a request depends on the model that its body asks for.

    `otherwise` is the class of requests whose model no rule names, or that name none; None: they
    pass freely. `classes` are all that are possible, `otherwise` last.
    """

    __slots__ = ("_found", "_rules", "classes", "otherwise")

    def __init__(self, rules: Iterable[tuple[re.Pattern[str], str]], otherwise: str | None) -> None:
        self._rules = tuple(rules)
        self._found: dict[str, str | None] = {}
        self.otherwise = otherwise
        named = dict.fromkeys(guard for _, guard in self._rules if guard != otherwise)
        self.classes: tuple[str | None, ...] = (*named, otherwise)

    def guard_of(self, model: str | None) -> str | None:
        """The class that guards a request for `model`; None where it passes freely."""
        if model is None:
            return self.otherwise
        try:
            return self._found[model]
        except KeyError:
            pass
        guard = self._match(model)
        if len(self._found) < _MODEL_CACHE_SIZE:
            self._found[model] = guard
        return guard

    def _match(self, model: str) -> str | None:
        for pattern, guard in self._rules:
            if pattern.fullmatch(model):
                return guard
        return self.otherwise


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule, compiled."""

    method: bytes
    path: re.Pattern[bytes]
    model: re.Pattern[str] | None
    guard: str


class RouteTable:
    """An ordered list of rules; remembers what it found for recent targets."""

    def __init__(self, rules: Sequence[RouteRule]) -> None:
        self._rules = [
            _Rule(
                rule.method.upper().encode(),
                path_pattern(rule.path_glob),
                None if rule.model_glob is None else model_pattern(rule.model_glob),
                rule.guard,
            )
            for rule in rules
        ]
        self._methods = frozenset(rule.method for rule in self._rules)
        self._found: dict[tuple[bytes, bytes], str | ByModel | None] = {}
        self._decisions: dict[tuple[int, ...], ByModel] = {}  # by the numbers of their rules

    def guard_of(self, method: bytes, target: bytes) -> str | ByModel | None:
        """The class that guards this request, what decides on it, or None: it passes freely.

        For example, with a class `small` for the models `llama-3.2-1b*` before `inference`:

            guard = table.guard_of(b"POST", b"/v1/chat/completions")
            if isinstance(guard, ByModel):
                guard = guard.guard_of("llama-3.2-1b-instruct")  # "small"; of None: "inference"
        """
        # Some servers take `post` for POST.
        method = method.upper()
        if method not in self._methods:
            return None
        key = (method, target)
        try:
            return self._found[key]
        except KeyError:
            pass
        guard = self._match(method, canonical_path(target))
        if guard is None and target.startswith((b"//", b"/\\")):
            # Some servers read it as a relative URL, and "//x" as its host (RFC 3986, 4.2).
            guard = self._match(method, canonical_path(b"http://" + target[2:]))
        if len(self._found) < _CACHE_SIZE:
            self._found[key] = guard
        return guard

    def _match(self, method: bytes, path: bytes) -> str | ByModel | None:
        numbers = []
        for number, rule in enumerate(self._rules):
            if rule.method == method and rule.path.fullmatch(path):
                numbers.append(number)
                if rule.model is None:
                    break
        decision = self._decision(tuple(numbers))
        if len(decision.classes) == 1:
            return decision.classes[0]
        model = model_in_path(path)
        return decision if model is None else decision.guard_of(model)

    def _decision(self, numbers: tuple[int, ...]) -> ByModel:
        """What these rules decide. One object for all targets that they match: it remembers."""
        if numbers not in self._decisions:
            rules = [self._rules[number] for number in numbers]
            by_model = [(rule.model, rule.guard) for rule in rules if rule.model is not None]
            rest = [rule.guard for rule in rules if rule.model is None]
            self._decisions[numbers] = ByModel(by_model, rest[0] if rest else None)
        return self._decisions[numbers]
