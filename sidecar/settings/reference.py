"""How do the settings read on paper? The reference page and the documented file, from the model.

`python -m sidecar.settings.reference docs/settings.md config/sidecar.yaml` writes both anew; a
test fails while they are not what the model says.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from sidecar.settings.catalog import GROUPS, SETTINGS, Setting, keys_of_class
from sidecar.settings.shown import plain_number

_COMMENT_COLUMN = 40
_WIDTH = 98


def yaml_line(setting: Setting, value: object, comment: str = "") -> str:
    """One setting as YAML; a list has a line for each item, a mapping one for each key."""
    indent = "  " if setting.group else ""
    text = f"{indent}{setting.name}:"
    items = ""
    if isinstance(value, list) and value:
        items = "".join(f"{indent}  - {json.dumps(item)}\n" for item in value)
    elif isinstance(value, dict) and value:
        items = "".join(f"{indent}  {key}: {json.dumps(one)}\n" for key, one in value.items())
    else:
        text += f" {json.dumps(value)}"
    return f"{text:<{_COMMENT_COLUMN}} {comment}".rstrip() + "\n" + items


def settings_yaml() -> str:
    """Every key with its default, and above it what it means."""
    return _YAML_HEAD + "".join(_yaml_blocks())


def _yaml_blocks() -> Iterator[str]:
    group = ""
    for setting in SETTINGS.values():
        if setting.group != group:
            group = setting.group
            yield f"\n{_comment(GROUPS[group], '')}{group}:\n"
        elif setting.key != next(iter(SETTINGS)):
            yield "\n"
        text = f"{setting.description} {_range_sentence(setting)}"
        yield _comment(text, "  " if group else "") + yaml_line(setting, setting.default)
        for example in setting.schema.get("examples", ()):
            yield "".join(f"#   {name}: {json.dumps(one)}\n" for name, one in example.items())


def _comment(text: str, indent: str) -> str:
    lines = textwrap.wrap(" ".join(text.split()), _WIDTH - len(indent) - 2, break_on_hyphens=False)
    return "".join(f"{indent}# {line}\n" for line in lines)


def _range_sentence(setting: Setting) -> str:
    if "maximum" in setting.schema or setting.choices:
        text = type_text(setting)
        return text[0].upper() + text[1:] + "."
    return ""


def settings_markdown() -> str:
    """The reference page: every setting under its three names."""
    parts = [_MARKDOWN_HEAD, _section("", "Top level", "")]
    parts += [_section(group, f"`{group}`", text) for group, text in GROUPS.items()]
    return "\n".join([*parts, _classes_section()])


def _classes_section() -> str:
    rows = "".join(
        f"| `{setting.key}` | {type_text(setting)} | {_cell(setting.description)} |\n"
        for setting in keys_of_class().values()
    )
    return _CLASSES_HEAD + rows


def _section(group: str, title: str, text: str) -> str:
    rows = "".join(_row(setting) for setting in SETTINGS.values() if setting.group == group)
    intro = f"{' '.join(text.split())}\n\n" if text else ""
    return f"## {title}\n\n{intro}{_TABLE_HEAD}{rows}"


def _row(setting: Setting) -> str:
    cells = (
        f"`{setting.key}`",
        f"`{setting.flag}`",
        f"`{setting.variable}`",
        type_text(setting),
        _default(setting.default),
        setting.description,
    )
    return "| " + " | ".join(map(_cell, cells)) + " |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(value: object) -> str:
    items = value if isinstance(value, list) and value else [value]
    return ", ".join(f"`{item if isinstance(item, str) else json.dumps(item)}`" for item in items)


def type_text(setting: Setting) -> str:
    """What may be written, such as "whole number from 1 to 1000"."""
    schema = setting.schema
    if setting.choices:
        text = "one of " + ", ".join(setting.choices)
    else:
        text = _TYPES[schema["type"]] + _bounds(setting)
    return f"{text}, or null" if schema.get("nullable") else text


_TYPES = {
    "array": "list of text",
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "object": "classes by name",
    "string": "text",
}


def _bounds(setting: Setting) -> str:
    schema = setting.schema
    if "maximum" not in schema:
        return ""
    most = plain_number(schema["maximum"])
    if "exclusiveMinimum" in schema:
        return f" above {plain_number(schema['exclusiveMinimum'])}, up to {most}"
    return f" from {plain_number(schema['minimum'])} to {most}"


_TABLE_HEAD = """\
| key | flag | variable | what it takes | default | meaning |
|---|---|---|---|---|---|
"""

_CLASSES_HEAD = """\
## A class in `classes`

How to use them: [classes.md](classes.md). In a flag or variable all classes are one JSON object:
`--classes '{"small": {"models": ["llama-3.2-1b*"], "max_concurrent": 8}}'`. It replaces the classes
of a weaker source, it does not add to them.

| key | what it takes | meaning |
|---|---|---|
"""

_YAML_HEAD = """\
# All settings of openclaw-sidecar with their defaults: a file to copy from.
#
#   openclaw-sidecar check --config FILE      says whether a file is good
#   openclaw-sidecar run --config FILE        uses it
#
# Only what differs from the defaults needs to be in a file. Flags (--breaker.open-s) and
# environment variables (SIDECAR_BREAKER__OPEN_S) are stronger than the file.
# Made from the settings model: see docs/settings.md.

"""

_MARKDOWN_HEAD = """\
# Settings

Every setting has three names: a key of the YAML file, a flag and an environment variable. The
command line is stronger than the environment, the environment stronger than the file, the file
stronger than the defaults. `--config FILE` or `SIDECAR_CONFIG` names the file; without either there
is none.

* `openclaw-sidecar check` lists every mistake at once and exits with 2: wrong values, misspelt
  keys, flags and `SIDECAR_*` variables, with the nearest right name.
* `openclaw-sidecar config` prints the settings in force with the source of each;
  `config --schema` prints the JSON schema of the file.
* In flags and variables a list is written with commas, or as a JSON list; a flag may also be
  repeated. An empty variable counts as not set.
* Variables that Kubernetes makes for a Service whose name begins with `sidecar`
  (`SIDECAR_SERVICE_HOST`, `SIDECAR_PORT_8080_TCP`, ...) are not taken for mistakes.
* Sizes are in bytes, times in seconds, ratios from 0 to 1.

This page and `config/sidecar.yaml` are made from the settings model by
`python -m sidecar.settings.reference docs/settings.md config/sidecar.yaml`.
"""

_PAGES = {".md": settings_markdown, ".yaml": settings_yaml}


def main(paths: Sequence[str]) -> None:
    """Write each file anew; its ending tells which page it is."""
    for path in map(Path, paths):
        path.write_text(_PAGES[path.suffix](), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
