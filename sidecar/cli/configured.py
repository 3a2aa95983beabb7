"""What do `check` and `config` say? They read the whole configuration, as `run` and `demo` do."""

from __future__ import annotations

import json
import os
import sys

from sidecar.cli.parser import PROGRAM, Parsed
from sidecar.settings.catalog import SETTINGS
from sidecar.settings.load import Loaded, effective, load
from sidecar.settings.model import Settings
from sidecar.settings.reference import yaml_line
from sidecar.settings.shown import masked


def run(parsed: Parsed) -> int:
    """Do what was asked; returns the exit code. Raises `ConfigError`."""
    if parsed.command == "config" and parsed.options.schema and not parsed.unknown_flags:
        _print_json(schema())
        return 0
    found = loaded(parsed)
    return _check(found) if parsed.command == "check" else _config(found, parsed.options.json)


def loaded(parsed: Parsed) -> Loaded:
    """What is configured. Raises `ConfigError` with every mistake there is."""
    return load(
        parsed.settings,
        os.environ,
        parsed.options.config,
        unknown_flags=parsed.unknown_flags,
        required=("upstream",) if parsed.command == "run" else (),
    )


def schema() -> dict[str, object]:
    """The JSON schema of the YAML file."""
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, **Settings.model_json_schema()}


def _check(found: Loaded) -> int:
    sys.stdout.write("the configuration is good\n")
    if found.settings.upstream is None:
        upstream = SETTINGS["upstream"]
        sys.stdout.write(f"note: {PROGRAM} run also needs {upstream.flag} or {upstream.variable}\n")
    return 0


def _config(found: Loaded, as_json: bool) -> int:
    values = {key: masked(value) for key, value in effective(found.settings).items()}
    if as_json:
        _print_json(
            {
                key: {"value": value, "source": str(found.sources[key])}
                for key, value in values.items()
            }
        )
        return 0
    group = ""
    for key, setting in SETTINGS.items():
        if setting.group != group:
            group = setting.group
            sys.stdout.write(f"{group}:\n")
        sys.stdout.write(yaml_line(setting, values[key], f"# {found.sources[key]}"))
    return 0


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
