"""Which classes of routes are there, and what is each of them given? The setting `classes`.

A class has slots and a queue of its own, a breaker (its own, another class's or none), time-outs.
What it leaves out it takes from the groups of the same name at the top level.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)
from pydantic_settings import NoDecode

from sidecar.settings.values import (
    MAX_QUEUE_BYTES,
    MAX_S,
    MAX_S_PER_KIB,
    MAX_SLOTS,
    MAX_WAITING,
    ListOfText,
    NumberOrNone,
    NumberOrOff,
    Routes,
    WholeNumberOrNone,
)

INFERENCE, EMBEDDINGS, UPGRADE = "inference", "embeddings", "upgrade"

# Each class is some 160 series in Prometheus, and a row of the page. Who needs more than these
# beside the default ones has made a class of what is a caller or a model.
MAX_CLASSES = 16

OWN, NONE = "own", "none"

# Words that mean something else as a value of the label `route`, or as a breaker.
_RESERVED = (UPGRADE, "free", OWN, NONE, "off")
_CLASS_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")

# As for names that are read from requests (`proxy.body_model`).
_MODEL_MAX = 256

EXAMPLE = {"small": {"models": ["llama-3.2-1b*"], "max_concurrent": 8}}


class _Keys(BaseModel):
    """Keys that are shown and handed on only where they are set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_serializer(mode="wrap")
    def _set_ones(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if key in self.given}

    @property
    def given(self) -> dict[str, Any]:
        """What was set. Null is what leaving the key out is, but where it means `off`."""
        return {
            key: getattr(self, key)
            for key in type(self).model_fields
            if key in self.model_fields_set and (getattr(self, key) is not None or key == "total_s")
        }


class ClassQueueSettings(_Keys):
    """The queue of one class."""

    max_waiting: WholeNumberOrNone = Field(
        default=None, ge=0, le=MAX_WAITING, description="Its `queue.max_waiting`."
    )
    timeout_s: NumberOrNone = Field(
        default=None, gt=0, le=MAX_S, description="Its `queue.timeout_s`."
    )
    max_bytes: WholeNumberOrNone = Field(
        default=None, ge=1, le=MAX_QUEUE_BYTES, description="Its `queue.max_bytes`."
    )


class ClassTimerSettings(_Keys):
    """The time-outs of one class."""

    first_event_s: NumberOrNone = Field(
        default=None, gt=0, le=MAX_S, description="Its `timers.first_event_s`."
    )
    first_event_per_kib_s: NumberOrNone = Field(
        default=None, ge=0, le=MAX_S_PER_KIB, description="Its `timers.first_event_per_kib_s`."
    )
    stall_s: NumberOrNone = Field(default=None, gt=0, le=MAX_S, description="Its `timers.stall_s`.")
    total_s: NumberOrOff = Field(
        default=None, gt=0, le=MAX_S, description="Its `timers.total_s`; null or off: no bound."
    )


def _model(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError('must be text, such as "llama-3.2-1b*"')  # noqa: TRY004 - pydantic's way
    if not value.strip() or not value.isprintable() or len(value) > _MODEL_MAX:
        raise ValueError(
            f'must be a model\'s name of at most {_MODEL_MAX} characters, such as "llama-3.2-1b*"'
        )
    return value.strip()


def _breaker(value: object) -> object:
    # YAML reads a bare `off` as false.
    if value is False or (isinstance(value, str) and value.strip().lower() == "off"):
        return NONE
    return value.strip().lower() if isinstance(value, str) else value


_Model = Annotated[str, PlainValidator(_model), WithJsonSchema({"type": "string"})]
_Models = Annotated[tuple[_Model, ...], ListOfText]


class ClassSettings(_Keys):
    """One class of routes."""

    routes: Routes | None = Field(
        default=None,
        min_length=1,
        description="Its requests, as `METHOD /path` like those of the group `routes`. Left out: "
        "those of `routes.inference` (in `embeddings`: of `routes.embeddings`).",
    )
    models: _Models | None = Field(
        default=None,
        min_length=1,
        description="Only requests for these models; `*` stands for any characters. Left out: "
        "whatever the model.",
    )
    max_concurrent: WholeNumberOrNone = Field(
        default=None,
        ge=1,
        le=MAX_SLOTS,
        description="Its requests at the backend at once. Left out: `max_concurrent`.",
    )
    queue: ClassQueueSettings = ClassQueueSettings()
    breaker: Annotated[str, BeforeValidator(_breaker)] = Field(
        default=OWN,
        description="own: a breaker of its own, with the numbers of the group `breaker`. A class's "
        "name: that class's breaker, shared. none: no breaker.",
    )
    timers: ClassTimerSettings = ClassTimerSettings()


def _class_name(name: str) -> str:
    if name in _RESERVED:
        hint = "; its limit is max_upgrades" if name == UPGRADE else ""
        raise ValueError(f"must be another name: {name} means something else{hint}")
    if not _CLASS_NAME.fullmatch(name):
        raise ValueError(
            "must be a name of at most 32 lower-case letters, digits, _ and -, such as small"
        )
    return name


def _as_mapping(value: object) -> object:
    """A mapping comes from YAML as such, from flags and variables as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError:
        raise ValueError(
            f"must hold classes by name; in a flag or variable as JSON: {json.dumps(EXAMPLE)}"
        ) from None


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"must not hold {key!r} twice")
    return dict(pairs)


def _few(classes: dict[str, ClassSettings]) -> dict[str, ClassSettings]:
    if len(own_classes(classes)) > MAX_CLASSES:
        raise ValueError(
            f"must be at most {MAX_CLASSES} classes beside the default ones, as each is a set of "
            "metrics; give some of them to one class"
        )
    return classes


def own_classes(names: Iterable[str]) -> list[str]:
    """Those that are not there by default, in their order."""
    return [name for name in names if name not in (INFERENCE, EMBEDDINGS)]


_ClassName = Annotated[str, AfterValidator(_class_name)]
Classes = Annotated[
    dict[_ClassName, ClassSettings],
    BeforeValidator(_as_mapping),
    AfterValidator(_few),
    NoDecode,
]


# The groups of keys within a class.
GROUPS_OF_CLASS: Mapping[str, type[BaseModel]] = {
    "queue": ClassQueueSettings,
    "timers": ClassTimerSettings,
}


def keys_beside(place: tuple[object, ...]) -> list[str]:
    """Which keys may stand where this one does: `("small", "timers", "stal_s")`."""
    group = GROUPS_OF_CLASS.get(str(place[1]), ClassSettings) if len(place) > 2 else ClassSettings
    return list(group.model_fields)
