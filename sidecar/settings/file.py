"""What does the YAML file set, and on which line? Keys are checked while their lines are known.

pydantic-settings' own YAML source returns plain values: no lines, a duplicate key silently wins,
and the first error hides all others. So the nodes are read here, and only the nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from sidecar.settings.catalog import GROUPS, SETTINGS
from sidecar.settings.mistakes import ConfigError, Mistake, unknown

# How deep keys and items may lie in a mapping: classes.NAME.timers.KEY, classes.NAME.models.ITEM.
_DEPTH_MAX = 3

_NULL_TAG = "tag:yaml.org,2002:null"


@dataclass(frozen=True, slots=True)
class FileValue:
    """A value and the line (from 1) where it stands."""

    value: object
    line: int


@dataclass(frozen=True, slots=True)
class FileContent:
    """What a file sets, by flat key, and what is wrong with the rest of it.

    `lines` tells where keys and items within a value stand (`classes.small.max_concurrent`).
    """

    values: dict[str, FileValue]
    lines: dict[str, int]
    mistakes: list[Mistake]


def read_file(path: str) -> FileContent:
    """Read a YAML file. Raises `ConfigError` when it cannot be read at all."""
    reader = _Reader(path)
    reader.read_document(_text_of(path))
    return FileContent(reader.values, reader.lines, reader.mistakes)


def _text_of(path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise ConfigError([Mistake(path, problem)]) from error
    except ValueError as error:  # not UTF-8, or a NUL in the path
        raise ConfigError([Mistake(path, "cannot be read: must be UTF-8 text")]) from error


class _Reader:
    """Walks the nodes of one document and keeps what it finds."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.values: dict[str, FileValue] = {}
        self.lines: dict[str, int] = {}
        self.mistakes: list[Mistake] = []

    def read_document(self, text: str) -> None:
        try:
            loader = yaml.SafeLoader(text)
            root = loader.get_single_node()
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError([self._syntax_mistake(error)]) from error
        if root is None:
            return  # an empty file sets nothing
        if not isinstance(root, yaml.MappingNode):
            problem = "must hold keys and values, such as max_concurrent: 3"
            raise ConfigError([Mistake(self._where(root), problem)])
        for key, key_node, node in self._entries(root, ""):
            if key in GROUPS:
                self._read_group(loader, key, key_node, node)
            elif "." in key:  # known or not: one name of each setting is enough
                self._complain(key_node, key, "must be written as a key below its group's key")
            else:
                self._read_setting(loader, key, key_node, node)

    def _read_group(
        self, loader: yaml.SafeLoader, group: str, key_node: yaml.Node, node: yaml.Node
    ) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, inner_node, value in self._entries(node, group + "."):
                self._read_setting(loader, key, inner_node, value)
        elif node.tag != _NULL_TAG:
            names = ", ".join(_names_in(group))
            self._complain(key_node, group, f"must hold keys of its own: {names}")

    def _read_setting(
        self, loader: yaml.SafeLoader, key: str, key_node: yaml.Node, node: yaml.Node
    ) -> None:
        if key in SETTINGS:
            self._read_value(loader, key, node)
        else:
            where = f"{self._where(key_node)}: {key if key.isprintable() else repr(key)}"
            known = [*SETTINGS] if "." in key else [*GROUPS, *SETTINGS]
            self.mistakes.append(unknown(where, "key", key, known))

    def _entries(
        self, mapping: yaml.MappingNode, prefix: str
    ) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        first_lines: dict[str, int] = {}
        for key_node, node in mapping.value:
            key = prefix + (key_node.value if isinstance(key_node, yaml.ScalarNode) else "?")
            line = _line(key_node)
            if key in first_lines:
                self._complain(key_node, key, f"stands twice, first on line {first_lines[key]}")
                continue
            first_lines[key] = line
            yield key, key_node, node

    def _read_value(self, loader: yaml.SafeLoader, key: str, node: yaml.Node) -> None:
        try:
            value = loader.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, RecursionError):
            self._complain(node, key, "is no plain YAML value")
            return
        if SETTINGS[key].is_mapping:
            if value is not None:  # like a group whose keys are all commented out
                self._note_lines(key, node, _DEPTH_MAX)
                self.values[key] = FileValue(value, _line(node))
        elif value is None and not SETTINGS[key].schema.get("nullable"):
            self._complain(node, key, "has no value: give it one or remove the key")
        elif isinstance(value, dict):
            self._complain(node, key, "must be a value, not keys of its own")
        else:
            self.values[key] = FileValue(value, _line(node))

    def _note_lines(self, key: str, node: yaml.Node, depth: int) -> None:
        """Note where all stands within a value, `depth` levels down."""
        self.lines[key] = _line(node)
        if not depth:
            return
        if isinstance(node, yaml.MappingNode):
            for inner, key_node, value in self._entries(node, key + "."):
                self._note_lines(inner, value, depth - 1)
                self.lines[inner] = _line(key_node)
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self._note_lines(f"{key}.{number}", item, depth - 1)

    # -- complaints -----------------------------------------------------------------------

    def _complain(self, node: yaml.Node, key: str, problem: str) -> None:
        self.mistakes.append(Mistake(f"{self._where(node)}: {key}", problem))

    def _where(self, node: yaml.Node) -> str:
        return f"{self._path}:{_line(node)}"

    def _syntax_mistake(self, error: Exception) -> Mistake:
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            where = f"{self._path}:{error.problem_mark.line + 1}"
            problem = " ".join(part for part in (error.context, error.problem) if part)
            return Mistake(where, f"is not valid YAML: {problem}")
        if isinstance(error, RecursionError):
            return Mistake(self._path, "is not valid YAML: nested too deeply")
        return Mistake(self._path, f"is not valid YAML: {str(error).splitlines()[0]}")


def _names_in(group: str) -> list[str]:
    return [key.removeprefix(group + ".") for key in SETTINGS if key.startswith(group + ".")]


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
