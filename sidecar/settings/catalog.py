"""Which settings are there, one by one? The model as a flat list, and values between both forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.settings.classes import ClassSettings
from sidecar.settings.model import ENV_DELIMITER, ENV_PREFIX, Settings
from sidecar.settings.shown import plain_number

CONFIG_VARIABLE = ENV_PREFIX + "CONFIG"
CONFIG_FLAG = "--config"

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting under its three names, with what its JSON schema says of it."""

    key: str  # as in YAML, nested with a dot: breaker.open_s
    description: str
    default: object  # as JSON has it
    schema: Schema

    @property
    def flag(self) -> str:
        """`--breaker.open-s`."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """`SIDECAR_BREAKER__OPEN_S`."""
        return ENV_PREFIX + self.key.replace(".", ENV_DELIMITER).upper()

    @property
    def group(self) -> str:
        """`breaker`; "" at the top level."""
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        """`open_s`: the key without its group."""
        return self.key.rpartition(".")[2]

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return self.schema.get("type") == "array"

    @property
    def is_switch(self) -> bool:
        """Whether it is true or false."""
        return self.schema.get("type") == "boolean"

    @property
    def is_mapping(self) -> bool:
        """Whether it holds keys that are not settings themselves: names of classes."""
        return self.schema.get("type") == "object"

    @property
    def choices(self) -> list[str]:
        """The words it may be; empty where there is no such list."""
        return list(self.schema.get("enum", ()))


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    """The schema of one value without `$ref` and without its null."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        return {**target, **{name: schema[name] for name in schema if name != "$ref"}}
    for variant in schema.get("anyOf", ()):
        if variant.get("type") != "null":
            return {**schema, **variant, "nullable": True}
    return schema


def _settings_in(properties: Schema, definitions: Schema, prefix: str) -> Iterator[Setting]:
    for name, raw in properties.items():
        schema = _resolved(raw, definitions)
        if "properties" in schema:
            yield from _settings_in(schema["properties"], definitions, f"{prefix}{name}.")
        else:
            default = plain_number(schema["default"])
            yield Setting(prefix + name, schema["description"], default, schema)


def _all_settings(schema: Schema) -> dict[str, Setting]:
    found = _settings_in(schema["properties"], schema["$defs"], "")
    return {setting.key: setting for setting in found}


def keys_of_class() -> dict[str, Setting]:
    """What one class in `classes` may hold, in the same form."""
    return _all_settings(ClassSettings.model_json_schema())


def _group_texts(schema: Schema) -> dict[str, str]:
    groups = {
        name: _resolved(raw, schema["$defs"])
        for name, raw in schema["properties"].items()
        if "$ref" in raw
    }
    return {name: group["description"] for name, group in groups.items() if "properties" in group}


_SCHEMA = Settings.model_json_schema()
SETTINGS = _all_settings(_SCHEMA)  # by key, in the order of the model
GROUPS = _group_texts(_SCHEMA)  # what each group is about, by its name


def setting_around(key: str) -> str:
    """The setting that a key is or is within: `classes` of `classes.small.max_concurrent`."""
    while key not in SETTINGS:
        key = key.rpartition(".")[0]
    return key


def nested(values: Mapping[str, object]) -> dict[str, Any]:
    """`{"breaker.open_s": 5}` as `{"breaker": {"open_s": 5}}`."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[name] = value
    return tree


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """`{"breaker": {"open_s": 5}}` as `{"breaker.open_s": 5}`, in the order of the model."""
    found = {}
    for key, setting in SETTINGS.items():
        branch = tree.get(setting.group, {}) if setting.group else tree
        if setting.name in branch:
            found[key] = branch[setting.name]
    return found
