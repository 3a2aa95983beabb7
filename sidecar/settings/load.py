"""Which configuration is in force? Command line over environment over file over defaults.

All mistakes are found at once, each with where it stands: also in values that a stronger source
hides, since they would come to light at a bad moment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from sidecar.proxy.config import ListenerTls, UpstreamTls
from sidecar.proxy.tls.contexts import problems_of
from sidecar.settings.catalog import CONFIG_VARIABLE, SETTINGS, flat, nested, setting_around
from sidecar.settings.classes import keys_beside
from sidecar.settings.mistakes import ConfigError, Mistake, problem_of, unknown
from sidecar.settings.model import ENV_PREFIX, Settings
from sidecar.settings.shown import plain_number, shown

FlagValue = str | Sequence[str]


class SourceKind(StrEnum):
    """What kind of place a value comes from, strongest first."""

    FLAG = "flag"
    VARIABLE = "variable"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from: `--listen`, `SIDECAR_LISTEN`, `sidecar.yaml:7` or `default`."""

    kind: SourceKind
    name: str

    def __str__(self) -> str:
        """The name alone; it tells the kind."""
        return self.name


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings in force, and by key the source of each."""

    settings: Settings
    sources: Mapping[str, Source]
    config_file: str | None


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one source sets: values and their places, by key.

    A file also tells the places of keys within a value, such as `classes.small.max_concurrent`.
    """

    values: Mapping[str, object]
    sources: Mapping[str, Source]


_DEFAULT = Source(SourceKind.DEFAULT, "default")

# Kubernetes and Docker links describe a service called `sidecar` or `sidecar-...` in variables of
# such names (SIDECAR_SERVICE_HOST, SIDECAR_PORT_8080_TCP=tcp://...): nobody's spelling mistake.
_SERVICE_LINK = re.compile(
    r"SIDECAR(_.+)?_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_.+)?)"
)
_SERVICE_PORT_LINK = re.compile(r"SIDECAR(_.+)?_PORT")
_SERVICE_PORT_VALUE = re.compile(r"(tcp|udp|sctp)://")


def load(
    flags: Mapping[str, FlagValue],
    environ: Mapping[str, str],
    config_file: str | None = None,
    *,
    unknown_flags: Sequence[Mistake] = (),
    required: Sequence[str] = (),
) -> Loaded:
    """Gather the settings. Raises `ConfigError` with every mistake there is.

    `flags` holds the command line's values by key (`breaker.open_s`). `config_file` is the file
    named there; without it `SIDECAR_CONFIG` names one. `unknown_flags` are mistakes that the
    command line has found already, to be told with the others. The keys in `required` must be set.
    """
    path = config_file or environ.get(CONFIG_VARIABLE) or None
    mistakes = [*unknown_flags, *_unknown_variables(environ)]
    layers = [_flag_layer(flags), _variable_layer(environ)]
    if path is not None:
        from sidecar.settings.file import read_file  # noqa: PLC0415 - YAML, only where it is used

        try:
            content = read_file(path)
        except ConfigError as error:
            mistakes += error.mistakes
        else:
            mistakes += content.mistakes
            lines = content.lines | {key: value.line for key, value in content.values.items()}
            places = {key: Source(SourceKind.FILE, f"{path}:{line}") for key, line in lines.items()}
            layers.append(_Layer({k: v.value for k, v in content.values.items()}, places))
    for layer in layers:
        mistakes += _wrong_values(layer)
    mistakes += _missing(required, layers)
    if mistakes:
        raise ConfigError(mistakes)
    settings, sources = _merged(layers)
    mistakes += _contradictions(settings, sources)
    if mistakes:
        raise ConfigError(mistakes)
    return Loaded(settings, sources, path)


def _flag_layer(flags: Mapping[str, FlagValue]) -> _Layer:
    places = {key: Source(SourceKind.FLAG, SETTINGS[key].flag) for key in flags}
    # A flag given several times holds several values; one text of them is read like a variable's.
    texts = {k: v if isinstance(v, str) else ",".join(v) for k, v in flags.items()}
    return _Layer(texts, places)


class _Variables(EnvSettingsSource):
    """pydantic-settings' reading of the environment, of the one that is given."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        # Only names that are right reach it: whole groups as JSON (SIDECAR_BREAKER={...}), which it
        # would also read, fail with errors that name no key.
        names = {setting.variable for setting in SETTINGS.values()}
        return {
            name.lower(): text for name, text in self._environ.items() if name in names and text
        }


def _variable_layer(environ: Mapping[str, str]) -> _Layer:
    values = flat(_Variables(environ)())
    places = {key: Source(SourceKind.VARIABLE, SETTINGS[key].variable) for key in values}
    return _Layer(values, places)


def _unknown_variables(environ: Mapping[str, str]) -> list[Mistake]:
    known = [CONFIG_VARIABLE, *(setting.variable for setting in SETTINGS.values())]
    return [
        unknown(name, "variable", name, known)
        for name, text in environ.items()
        if name.startswith(ENV_PREFIX) and name not in known and not _is_service_link(name, text)
    ]


def _is_service_link(name: str, text: str) -> bool:
    if _SERVICE_LINK.fullmatch(name):
        return True
    return bool(_SERVICE_PORT_LINK.fullmatch(name) and _SERVICE_PORT_VALUE.match(text))


def _wrong_values(layer: _Layer) -> list[Mistake]:
    try:
        Settings(**nested(layer.values))
    except ValidationError as error:
        return [_mistake_at(dict(found), layer) for found in error.errors(include_url=False)]
    return []


def _mistake_at(error: Mapping[str, object], layer: _Layer) -> Mistake:
    """Translate one of pydantic's errors. Its place may end within a value: an item, a key."""
    place = error["loc"]
    assert isinstance(place, tuple)
    is_wrong_key = place[-1] == "[key]"  # pydantic's way to say so
    parts = [str(part) for part in (place[:-1] if is_wrong_key else place)]
    full_key = ".".join(part if part.isprintable() else repr(part) for part in parts)
    key = setting_around(full_key)
    if not SETTINGS[key].is_mapping:
        full_key = key  # an item's number tells less than the item itself
    where = _where(full_key, layer.sources)
    if error["type"] == "extra_forbidden":
        return unknown(where, "key", str(place[-1]), keys_beside(place[1:]))
    problem = problem_of(error, SETTINGS[key].choices)
    return Mistake(where, problem, "" if is_wrong_key else shown(error["input"]))


def _where(key: str, sources: Mapping[str, Source]) -> str:
    """Where a value stands, as exactly as its source is known."""
    setting = setting_around(key)
    kind = sources[setting].kind
    known = key
    # Lines within a value that a stronger source hides tell nothing.
    while known not in sources or sources[known].kind is not kind:
        known = known.rpartition(".")[0]
    source = sources[known]
    if kind is SourceKind.DEFAULT:
        return f"{key} ({source})"
    # A flag's or a variable's name tells the setting; a file's line does not.
    return str(source) if key == setting and kind is not SourceKind.FILE else f"{source}: {key}"


def _missing(required: Sequence[str], layers: Sequence[_Layer]) -> list[Mistake]:
    return [
        Mistake(key, f"must be set: {setting.flag} or {setting.variable} or a key in the file")
        for key in required
        if all(layer.values.get(key) is None for layer in layers)
        for setting in (SETTINGS[key],)
    ]


def _merged(layers: Sequence[_Layer]) -> tuple[Settings, dict[str, Source]]:
    values: dict[str, object] = {}
    sources = dict.fromkeys(SETTINGS, _DEFAULT)
    for layer in reversed(layers):
        values.update(layer.values)
        sources.update(layer.sources)
    return Settings(**nested(values)), sources


def _contradictions(settings: Settings, sources: Mapping[str, Source]) -> list[Mistake]:
    values = effective(settings)
    found = [*settings.contradictions(), *_unusable_files(settings)]
    return [
        Mistake(_where(key, sources), problem, shown(_value_at(key, values)))
        for key, problem in found
    ]


def _value_at(key: str, values: Mapping[str, object]) -> object:
    setting = setting_around(key)
    value = values[setting]
    for name in key.removeprefix(setting).split(".")[1:]:
        assert isinstance(value, Mapping)
        value = value[name]
    return value


def _unusable_files(settings: Settings) -> list[tuple[str, str]]:
    """Files that settings name are tried now: at start is better than at the first request."""
    groups: dict[str, ListenerTls | UpstreamTls] = {
        "upstream_tls": settings.upstream_tls.config(),
        "tls": settings.tls.config(),
        "admin_tls": settings.admin_tls.config(),
    }
    return [
        (f"{group}.{problem.setting}", problem.text)
        for group, files in groups.items()
        for problem in problems_of(files)
    ]


def effective(settings: Settings) -> dict[str, object]:
    """Every value by key, as JSON has it."""
    values = flat(settings.model_dump(mode="json"))
    return {key: plain_number(value) for key, value in values.items()}
