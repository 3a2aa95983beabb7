"""What do `run`, `demo`, `check` and `config` do? They read the whole configuration."""

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
    loaded = load(
        parsed.settings,
        os.environ,
        parsed.options.config,
        unknown_flags=parsed.unknown_flags,
        required=("upstream",) if parsed.command == "run" else (),
    )
    match parsed.command:
        case "check":
            return _check(loaded)
        case "config":
            return _config(loaded, as_json=parsed.options.json)
        case command:
            return _serve(loaded, demo=command == "demo")


def schema() -> dict[str, object]:
    """The JSON schema of the YAML file."""
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, **Settings.model_json_schema()}


def _serve(loaded: Loaded, *, demo: bool) -> int:
    from sidecar.app import main  # noqa: PLC0415 - aiohttp, uvloop: not needed to check a file

    return main(loaded.settings.plain(), demo=demo)


def _check(loaded: Loaded) -> int:
    sys.stdout.write("the configuration is good\n")
    if loaded.settings.upstream is None:
        upstream = SETTINGS["upstream"]
        sys.stdout.write(f"note: {PROGRAM} run also needs {upstream.flag} or {upstream.variable}\n")
    return 0


def _config(loaded: Loaded, *, as_json: bool) -> int:
    values = {key: masked(value) for key, value in effective(loaded.settings).items()}
    if as_json:
        _print_json(
            {
                key: {"value": value, "source": str(loaded.sources[key])}
                for key, value in values.items()
            }
        )
        return 0
    group = ""
    for key, setting in SETTINGS.items():
        if setting.group != group:
            group = setting.group
            sys.stdout.write(f"{group}:\n")
        sys.stdout.write(yaml_line(setting, values[key], f"# {loaded.sources[key]}"))
    return 0


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
