"""What is wrong with a configuration, where does it stand, and what would be right?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sidecar.settings.shown import plain_number

# difflib's own default: a letter or two wrong in a name of usual length.
_SIMILAR_RATIO = 0.6

# By the type of pydantic's error; names in braces come from its context.
_PROBLEMS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must hold names, each with keys of its own",
    "finite_number": "must be a number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of usual size",
    "int_type": "must be a whole number",
    "less_than_equal": "must be at most {le}",
    "model_type": "must hold keys of its own",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}


class Mistake(NamedTuple):
    """One mistake. `where` is a flag, a variable, or file, line and key; `value` is masked text.

    `value` is "" where it is unknown or must not be shown.
    """

    where: str
    problem: str
    value: str = ""

    def __str__(self) -> str:
        """One line: where, what stands there, what would be right."""
        shown = f" = {self.value}" if self.value else ""
        return f"{self.where}{shown}: {self.problem}"


class ConfigError(Exception):
    """The configuration cannot be used; `mistakes` has all that is wrong with it."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = tuple(mistakes)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, or ""."""
    import difflib  # noqa: PLC0415 - seldom needed: every start would pay for it

    candidates = {candidate.lower(): candidate for candidate in known}
    wanted = name.lower()
    # `open_s` for `breaker.open_s`: the right word without its group, or in a wrong one.
    same_word = [low for low in candidates if _last_word(low) == _last_word(wanted)]
    match = difflib.get_close_matches(wanted, same_word, n=1, cutoff=0.0) or (
        difflib.get_close_matches(wanted, candidates, n=1, cutoff=_SIMILAR_RATIO)
    )
    return candidates[match[0]] if match else ""


def _last_word(name: str) -> str:
    """`open_s` of `breaker.open_s`, `--breaker.open-s` and `SIDECAR_BREAKER__OPEN_S`."""
    bare = name.removeprefix("--").removeprefix("sidecar_").replace("-", "_")
    return bare.replace("__", ".").rpartition(".")[2]


def unknown(where: str, kind: str, name: str, known: Iterable[str]) -> Mistake:
    """A name that nobody knows, with the nearest right one."""
    names = list(known)
    # SIDECAR_CLASSES__SMALL, --classes.small: what lies within a value has no name of its own.
    whole = next((one for one in names if name.startswith((f"{one}__", f"{one}."))), "")
    meant = nearest(name, names)
    hint = f"; did you mean {meant}?" if meant else ""
    return Mistake(where, f"unknown {kind}" + (f"; {whole} holds all of it" if whole else hint))


def problem_of(error: Mapping[str, Any], choices: Sequence[str] = ()) -> str:
    """What would be right, in plain English, for one of pydantic's errors."""
    context = error.get("ctx", {})
    if error["type"] == "value_error":  # raised by our own checks, which speak plainly
        return str(context["error"])
    if error["type"] == "enum":
        return _one_of(choices, error["input"])
    template = _PROBLEMS.get(error["type"])
    if template is None:  # better pydantic's own text than none
        return str(error["msg"])
    return template.format_map({name: plain_number(bound) for name, bound in context.items()})


def _one_of(choices: Sequence[str], value: object) -> str:
    meant = nearest(str(value), choices)
    hint = f"; did you mean {meant}?" if meant else ""
    return f"must be one of {', '.join(choices)}{hint}"
