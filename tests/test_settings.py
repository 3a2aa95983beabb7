"""Settings: three names for each, one model, and every mistake told at once."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sidecar.admission.config import BreakerConfig, BreakerMode, GuardConfig, QueueConfig
from sidecar.admission.routes import RouteTable
from sidecar.proxy.config import Forwarded, Limits, Pool, ProxyConfig, Timers, UpstreamTls
from sidecar.settings.address import (
    ListenAddress,
    parse_listen,
    parse_upstream,
    reachable,
    upstream_address,
)
from sidecar.settings.catalog import SETTINGS, flat
from sidecar.settings.load import FlagValue, Loaded, SourceKind, effective, load
from sidecar.settings.mistakes import ConfigError
from sidecar.settings.model import Settings
from sidecar.settings.plain import LogLevel, Readiness
from sidecar.settings.reference import main as write_documents
from sidecar.settings.reference import settings_markdown, settings_yaml
from sidecar.settings.shown import masked

ROOT = Path(__file__).parent.parent
REMAKE = "python -m sidecar.settings.reference docs/settings.md config/sidecar.yaml"


def loaded_file(tmp_path: Path, text: str, **flags: FlagValue) -> Loaded:
    path = tmp_path / "sidecar.yaml"
    path.write_text(text, encoding="utf-8")
    return load(flags, {}, str(path))


def mistakes_of(
    flags: dict[str, FlagValue] | None = None,
    environ: dict[str, str] | None = None,
    file: Path | None = None,
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, environ or {}, str(file) if file else None)
    return [str(mistake) for mistake in caught.value.mistakes]


def mistakes_in(tmp_path: Path, text: str | bytes) -> list[str]:
    """What is said of a file, with its path as F."""
    path = tmp_path / "sidecar.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [mistake.replace(str(path), "F") for mistake in mistakes_of(file=path)]


EMBEDDINGS = GuardConfig(limit_setting="embeddings.max_concurrent")


# -- defaults and what the rooms are given ----------------------------------------------------


def test_without_settings_the_rooms_get_their_own_defaults() -> None:
    """Nothing set means the documented defaults, which stand in one place only."""
    settings = load({}, {}).settings.plain()
    assert settings.guards["inference"] == GuardConfig()
    assert settings.guards["embeddings"] == EMBEDDINGS
    assert settings.proxy == ProxyConfig()
    assert settings.upstream is None


def test_upgrades_never_wait_and_have_no_breaker() -> None:
    """WebSockets have their own limit, and say nothing of the backend's health."""
    guard = load({"max_upgrades": "7"}, {}).settings.plain().guards["upgrade"]
    assert guard.max_concurrent == 7
    assert guard.queue.max_waiting == 0
    assert guard.breaker is None


def test_every_number_reaches_the_room_that_obeys_it() -> None:
    """A setting that is read but handed on to nobody would be a lie."""
    flags: dict[str, FlagValue] = {
        "upstream": "https://backend:8443",
        "max_concurrent": "11",
        "embeddings.max_concurrent": "12",
        "forwarded": "append",
        "breaker.mode": "observe",
        "breaker.failure_threshold": "2",
        "breaker.open_s": "13",
        "breaker.probes": "3",
        "breaker.probe_successes": "4",
        "breaker.probe_s": "14",
        "breaker.failure_ratio": "0.5",
        "breaker.slow_ratio": "0.75",
        "breaker.slow_call_s": "18",
        "breaker.window_s": "19",
        "breaker.min_calls": "20",
        "breaker.open_backoff": "2",
        "breaker.open_max_s": "21",
        "breaker.ramp_s": "22",
        "queue.max_waiting": "15",
        "queue.timeout_s": "16",
        "queue.max_bytes": "1000",
        "queue.body_buffer_bytes": "17",
        "timers.connect_s": "1",
        "timers.first_event_s": "2",
        "timers.stall_s": "3",
        "timers.write_stall_s": "4",
        "timers.total_s": "5",
        "timers.head_s": "6",
        "timers.body_stall_s": "7",
        "timers.keepalive_s": "8",
        "pool.idle_s": "9",
        "pool.max_age_s": "99",
        "pool.max_idle": "12",
        "pool.max_connections": "13",
        "upstream_tls.verify": "false",
        "limits.head_bytes": "2048",
        "limits.head_fields": "18",
        "limits.max_connections": "19",
        "limits.max_connections_per_address": "20",
        "limits.ipv6_prefix_bits": "56",
        "limits.body_min_bytes_per_s": "21",
        "limits.response_head_bytes": "4096",
    }
    settings = load(flags, {}).settings.plain()
    breaker = BreakerConfig(
        BreakerMode.OBSERVE, 2, 13.0, 3, 4, 14.0, 0.5, 0.75, 18.0, 19.0, 20, 2.0, 21.0, 22.0
    )
    queue = QueueConfig(max_waiting=15, timeout_s=16.0, max_bytes=1000)
    assert settings.guards["inference"] == GuardConfig(11, queue, breaker)
    assert settings.guards["embeddings"] == replace(
        EMBEDDINGS, max_concurrent=12, queue=queue, breaker=breaker
    )
    proxy = settings.proxy
    assert proxy.upstream == "https://backend:8443"
    assert proxy.timers == Timers(1, 2, 3, 4, 5, 6, 7, 8)
    assert proxy.pool == Pool(idle_s=9, max_age_s=99, max_idle=12, max_connections=13)
    assert proxy.upstream_tls == UpstreamTls(ca_file=None, verify=False)
    assert proxy.forwarded is Forwarded.APPEND
    assert proxy.limits == Limits(2048, 18, 19, 20, 56, 17, 21, 4096)


@pytest.mark.parametrize(
    ("path", "guard"),
    [
        (b"/v1/chat/completions", "inference"),
        (b"/openai/v1/completions", "inference"),
        (b"/v1/responses", "inference"),
        (b"/v1/messages", "inference"),
        (b"/api/chat", "inference"),
        (b"/api/generate", "inference"),
        (b"/v1beta/models/gemini-pro:streamGenerateContent", "inference"),
        (b"/v1/embeddings", "embeddings"),
        (b"/api/embed", "embeddings"),
        (b"/health", None),
        (b"/v1/models", None),
    ],
)
def test_default_routes_guard_what_generates_and_nothing_else(
    path: bytes, guard: str | None
) -> None:
    """Without configuration, inference is guarded for all usual APIs and health is not."""
    table = RouteTable(load({}, {}).settings.plain().routes)
    assert table.guard_of(b"POST", path) == guard
    assert table.guard_of(b"GET", path) is None


# -- where values come from -------------------------------------------------------------------


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    """The nearer to the person, the stronger; each value's source is told."""
    path = tmp_path / "sidecar.yaml"
    path.write_text("max_concurrent: 4\nmax_upgrades: 4\n\ndrain_s: 4\n")
    environ = {"SIDECAR_MAX_CONCURRENT": "5", "SIDECAR_MAX_UPGRADES": "5"}
    loaded = load({"max_concurrent": "6"}, environ, str(path))
    settings, sources = loaded.settings, loaded.sources
    assert (settings.max_concurrent, settings.max_upgrades, settings.drain_s) == (6, 5, 4)
    assert str(sources["max_concurrent"]) == "--max-concurrent"
    assert str(sources["max_upgrades"]) == "SIDECAR_MAX_UPGRADES"
    assert str(sources["drain_s"]) == f"{path}:4"
    assert sources["listen"].kind is SourceKind.DEFAULT
    assert loaded.config_file == str(path)


def test_sidecar_config_names_the_file_unless_a_flag_does(tmp_path: Path) -> None:
    """An image can bring a file by SIDECAR_CONFIG, and --config still wins."""
    for name, number in (("one", 4), ("two", 5)):
        (tmp_path / name).write_text(f"max_concurrent: {number}")
    environ = {"SIDECAR_CONFIG": str(tmp_path / "one")}
    assert load({}, environ).settings.max_concurrent == 4
    assert load({}, environ, str(tmp_path / "two")).settings.max_concurrent == 5


def test_every_setting_can_be_set_by_each_of_its_names(tmp_path: Path) -> None:
    """Flag, variable and key of every setting are understood the same."""
    defaults = effective(load({}, {}).settings)
    texts = {
        key: ",".join(value) if isinstance(value, list) else str(value)
        for key, value in defaults.items()
        if value not in (None, [])
    }
    by_flag = load(dict(texts), {})
    by_variable = load({}, {SETTINGS[key].variable: text for key, text in texts.items()})
    assert effective(by_flag.settings) == effective(by_variable.settings) == defaults
    assert {source.kind for source in map(by_variable.sources.get, texts) if source} == {
        SourceKind.VARIABLE
    }
    from_file = loaded_file(tmp_path, settings_yaml())
    assert effective(from_file.settings) == defaults
    assert {source.kind for source in from_file.sources.values()} == {SourceKind.FILE}


def test_an_empty_variable_counts_as_not_set() -> None:
    """Container tools write VAR="" for a value they were not given."""
    loaded = load({}, {"SIDECAR_UPSTREAM": "", "SIDECAR_MAX_CONCURRENT": ""})
    assert loaded.settings == load({}, {}).settings


def test_the_given_environment_counts_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `load` is given is all that it reads."""
    monkeypatch.setenv("SIDECAR_MAX_CONCURRENT", "9")
    assert load({}, {}).settings.max_concurrent == 3


# -- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["off", "null", "none", "Off"])
def test_the_whole_time_can_be_switched_off_again(text: str) -> None:
    """`total_s` in a file can be undone by a flag."""
    assert load({"timers.total_s": text}, {}).settings.timers.total_s is None


def test_yaml_off_is_the_word_off(tmp_path: Path) -> None:
    """YAML reads a bare `off` as false; people mean the word."""
    settings = loaded_file(tmp_path, "forwarded: off\ntimers: {total_s: off}").settings
    assert settings.forwarded is Forwarded.OFF
    assert settings.timers.total_s is None


def test_letter_case_of_words_does_not_matter() -> None:
    """INFO and info are the same level."""
    flags = {"log.level": "WARNING", "readiness": "Breaker"}
    settings = load(flags, {}).settings
    assert settings.log.level is LogLevel.WARNING
    assert settings.readiness is Readiness.BREAKER


@pytest.mark.parametrize(
    "value",
    [
        "10.0.0.0/8, fd00::/8",
        "10.0.0.0/8\nfd00::/8",
        '["10.0.0.0/8", "fd00::/8"]',
        ["10.0.0.0/8", "fd00::/8"],
    ],
)
def test_lists_are_written_with_commas_or_as_json(value: FlagValue) -> None:
    """Flags and variables have no lists of their own, so several spellings work."""
    networks = load({"trusted_proxies": value}, {}).settings.trusted_proxies
    assert [str(network) for network in networks] == ["10.0.0.0/8", "fd00::/8"]


def test_routes_are_normalised() -> None:
    """A lower-case method or a slash at the end does not make a rule that never matches."""
    settings = load({"routes.inference": "post /api/chat/"}, {}).settings
    assert settings.routes.inference == ("POST /api/chat",)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ListenAddress("127.0.0.1", 8080)),
        ("localhost:0", ListenAddress("localhost", 0)),
        (":9091", ListenAddress("", 9091)),
        ("[::1]:80", ListenAddress("::1", 80)),
        ("[::]:80", ListenAddress("::", 80)),
        ("unix:/run/a.sock", ListenAddress(path="/run/a.sock")),
        ("unix:a.sock", ListenAddress(path="a.sock")),
    ],
)
def test_listen_addresses_are_read_and_written_alike(text: str, address: ListenAddress) -> None:
    """All documented forms work, and are shown as they were written."""
    assert parse_listen(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("8080", "HOST:PORT"),
        ("", "HOST:PORT"),
        ("127.0.0.1:", "HOST:PORT"),
        ("http://127.0.0.1:80", "without a scheme"),
        ("::1:8080", "brackets"),
        ("[nonsense]:80", "IPv6 address"),
        ("a b:80", "name a host"),
        ("localhost:65536", "port from 0 to 65535"),
        ("localhost:-1", "port from 0 to 65535"),
        ("localhost:http", "port from 0 to 65535"),
        ("unix:", "name a socket"),
        ("unix:/" + "x" * 120, "bytes"),
        ("unix:/a\0b", "NUL"),
    ],
)
def test_wrong_listen_addresses_are_told_what_would_be_right(text: str, right: str) -> None:
    """No address is guessed at."""
    with pytest.raises(ValueError, match=right):
        parse_listen(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:18789", "http://127.0.0.1:18789"),
        ("HTTP://LocalHost/", "http://localhost"),
        ("https://model.example:8443", "https://model.example:8443"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://[2001:db8::1]", "http://[2001:db8::1]"),
        ("http://my_backend:80", "http://my_backend:80"),
        ("unix:/run/model.sock", "unix:/run/model.sock"),
        ("unix:///run/model.sock", "unix:/run/model.sock"),
    ],
)
def test_upstreams_are_read(text: str, url: str) -> None:
    """http, https and Unix sockets, IPv6 in brackets."""
    assert parse_upstream(text) == url


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("127.0.0.1:8000", "begin with http"),
        ("ftp://host", "begin with http"),
        ("http://user:secret@host", "user name or password"),
        ("http://host/v1", "leave out /v1"),
        ("http://host?key=secret", "query"),
        ("http://host/#x", "fragment"),
        ("http://", "name a host"),
        ("http://:80", "name a host"),
        ("http://host:0", "port from 1"),
        ("http://host:99999", "port from 1"),
        ("http://ho st", "spaces"),
        ("http://ho\nst", "control characters"),
        ("http://::1:80", "host"),
        ("http://[::1", "brackets"),
        ("unix:", "name a socket"),
    ],
)
def test_wrong_upstreams_are_told_what_would_be_right(text: str, right: str) -> None:
    """What would silently not work is refused; secrets are not repeated in the message."""
    with pytest.raises(ValueError, match=right) as caught:
        parse_upstream(text)
    assert "secret" not in str(caught.value)


def test_the_address_behind_an_upstream() -> None:
    """The port follows from the scheme where none is named."""
    assert upstream_address("http://host") == ListenAddress("host", 80)
    assert upstream_address("https://[::1]") == ListenAddress("::1", 443)
    assert upstream_address("unix:/a") == ListenAddress(path="/a")


def test_all_interfaces_are_reached_over_loopback() -> None:
    """Who asks the admin port of `:9091` connects to this machine."""
    assert reachable(parse_listen(":1")).host == "127.0.0.1"
    assert reachable(parse_listen("0.0.0.0:1")).host == "127.0.0.1"
    assert reachable(parse_listen("[::]:1")).host == "::1"
    assert reachable(parse_listen("10.1.2.3:1")).host == "10.1.2.3"
    assert reachable(parse_listen("unix:/a")).path == "/a"


# -- mistakes ---------------------------------------------------------------------------------


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    """Nobody repairs a configuration one start at a time."""
    path = tmp_path / "sidecar.yaml"
    path.write_text("max_concurrent: zero\nbraker: {open_s: 5}\nbreaker:\n  open_s: -1\n")
    environ = {"SIDECAR_MAX_CONCURENT": "5", "SIDECAR_TIMERS__STALL_S": "soon"}
    assert mistakes_of({"drain_s": "-3"}, environ, path) == [
        "SIDECAR_MAX_CONCURENT: unknown variable; did you mean SIDECAR_MAX_CONCURRENT?",
        f"{path}:2: braker: unknown key; did you mean breaker?",
        "--drain-s = -3: must be at least 0",
        "SIDECAR_TIMERS__STALL_S = soon: must be a number",
        f"{path}:1: max_concurrent = zero: must be a whole number",
        f"{path}:4: breaker.open_s = -1: must be more than 0",
    ]


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("max_concurrent", "0", "must be at least 1"),
        ("max_concurrent", "1.5", "must be a whole number"),
        ("max_concurrent", "1000000", "must be at most 10000"),
        ("breaker.failure_threshold", "0", "must be at least 1"),
        ("breaker.probe_successes", "0", "must be at least 1"),
        ("breaker.open_s", "nan", "must be a number"),
        ("breaker.open_s", "86401", "must be at most 86400"),
        ("timers.total_s", "0", "must be more than 0"),
        ("log.request_sample_ratio", "1.1", "must be at most 1"),
        ("log.requests", "maybe", "must be true or false"),
        (
            "readiness",
            "allways",
            "must be one of always, not_draining, breaker; did you mean always?",
        ),
        ("forwarded", "x", "must be one of off, rebuild, append"),
        ("routes.inference", "[1", "must be a JSON list, or values separated by commas"),
        (
            "routes.inference",
            "POST",
            'must be "METHOD /path" such as "POST **/completions", not \'POST\'',
        ),
        (
            "routes.inference",
            "POST x",
            "must have a path that begins with / or **, not 'x'",
        ),
        (
            "routes.inference",
            "POST /x?y",
            "must have a path without ? or #, as the query is not matched: '/x?y'",
        ),
        ("trusted_proxies", "x", "must be networks such as 10.0.0.0/8 or fd00::/8, not 'x'"),
        (
            "trusted_proxies",
            "10.0.0.1/8",
            "must be the network's own address: 10.0.0.0/8 instead of 10.0.0.1/8",
        ),
        ("upstream_tls.ca_file", "", "must not be empty"),
    ],
)
def test_wrong_values_are_explained_in_plain_words(key: str, value: str, problem: str) -> None:
    """Each message says what would be right, not what a library thought."""
    (mistake,) = mistakes_of({key: value})
    assert mistake.startswith(f"{SETTINGS[key].flag} = ")
    assert mistake.endswith(f": {problem}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max_concurrent: yes", "must be a number, not true or false"),
        ("max_concurrent: [1]", "must be a whole number"),
        ("listen: 8080", "must be text, such as 127.0.0.1:8080"),
        ("upstream: [x]", "must be text, such as http://127.0.0.1:18789"),
        ("routes: {inference: 5}", "must be a list"),
        ("routes: {inference: [5]}", 'must be text, such as "POST **/chat/completions"'),
        ("upstream_tls: {ca_file: 5}", "must be text"),
    ],
)
def test_wrong_types_in_a_file_are_explained(tmp_path: Path, text: str, problem: str) -> None:
    """YAML guesses types; what it guessed wrong is told, not converted."""
    (mistake,) = mistakes_in(tmp_path, text)
    assert mistake.startswith("F:1: ")
    assert mistake.endswith(problem)


def test_a_hidden_wrong_value_is_a_mistake_too() -> None:
    """A wrong variable behind a flag would come to light when the flag is removed."""
    assert mistakes_of({"max_concurrent": "5"}, {"SIDECAR_MAX_CONCURRENT": "five"}) == [
        "SIDECAR_MAX_CONCURRENT = five: must be a whole number"
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SIDECAR_MAX_CONCURENT", "SIDECAR_MAX_CONCURRENT"),
        ("SIDECAR_BREAKER_OPEN_S", "SIDECAR_BREAKER__OPEN_S"),
        ("SIDECAR_OPEN_S", "SIDECAR_BREAKER__OPEN_S"),
        ("SIDECAR_CONFIGS", "SIDECAR_CONFIG"),
    ],
)
def test_misspelt_variables_get_the_nearest_right_name(name: str, meant: str) -> None:
    """A variable that has no effect is worse than one that stops the start."""
    assert mistakes_of(environ={name: "1"}) == [f"{name}: unknown variable; did you mean {meant}?"]


def test_a_name_like_nothing_known_gets_no_advice() -> None:
    """Far-fetched advice is worse than none; the value may be secret and is not shown."""
    assert mistakes_of(environ={"SIDECAR_QQXZZW": "secret"}) == ["SIDECAR_QQXZZW: unknown variable"]


def test_variables_of_kubernetes_services_are_no_mistakes() -> None:
    """A Service called `sidecar` makes such variables in every pod; that must not stop a start."""
    environ = {
        "SIDECAR_SERVICE_HOST": "10.0.0.1",
        "SIDECAR_SERVICE_PORT": "80",
        "SIDECAR_SERVICE_PORT_HTTP": "80",
        "SIDECAR_PORT": "tcp://10.0.0.1:80",
        "SIDECAR_PORT_80_TCP": "tcp://10.0.0.1:80",
        "SIDECAR_PORT_80_TCP_ADDR": "10.0.0.1",
        "SIDECAR_METRICS_SERVICE_HOST": "10.0.0.1",
        "SIDECAR_METRICS_PORT": "tcp://10.0.0.1:80",
    }
    assert load({}, environ).settings == load({}, {}).settings
    assert mistakes_of(environ={"SIDECAR_PORT": "8080"})


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("max-concurrent: 5", "F:1: max-concurrent: unknown key; did you mean max_concurrent?"),
        ("open_s: 5", "F:1: open_s: unknown key; did you mean breaker.open_s?"),
        ("timers:\n  stal_s: 5", "F:2: timers.stal_s: unknown key; did you mean timers.stall_s?"),
        (
            "breaker.open_s: 5",
            "F:1: breaker.open_s: must be written as a key below its group's key",
        ),
        (
            "pool: 5",
            "F:1: pool: must hold keys of its own: idle_s, max_age_s, max_idle, max_connections",
        ),
        ("max_concurrent:", "F:1: max_concurrent: has no value: give it one or remove the key"),
        ("listen: {host: x}", "F:1: listen: must be a value, not keys of its own"),
        ("drain_s: 1\n\ndrain_s: 2", "F:3: drain_s: stands twice, first on line 1"),
        ("[a]: 5", "F:1: ?: unknown key"),
        ("drain_s: 2020-13-45", "F:1: drain_s: is no plain YAML value"),
        ("drain_s: !!python/object:os.system 5", "F:1: drain_s: is no plain YAML value"),
        ("- a", "F:1: must hold keys and values, such as max_concurrent: 3"),
        ("just text", "F:1: must hold keys and values, such as max_concurrent: 3"),
    ],
)
def test_mistakes_in_a_file_have_their_line(tmp_path: Path, text: str, mistake: str) -> None:
    """One can jump to where the mistake stands."""
    assert mistakes_in(tmp_path, text) == [mistake]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("a: [1", "F:1: is not valid YAML: while parsing a flow sequence"),
        ("max_concurrent: 3\n\tdrain_s: 5", "F:2: is not valid YAML: "),
        ("a: 1\n---\nb: 2", "F:2: is not valid YAML: expected a single document"),
        ("a: *b", "F:1: is not valid YAML: found undefined alias"),
        ("a: \x01", "F: is not valid YAML: "),
        ("[" * 5000, "F: is not valid YAML: nested too deeply"),
        (b"a: \xff\xfe", "F: cannot be read: must be UTF-8 text"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str | bytes, start: str) -> None:
    """YAML's own errors have many lines and no advice."""
    (mistake,) = mistakes_in(tmp_path, text)
    assert mistake.startswith(start)
    assert "\n" not in mistake


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """A missing file or a directory is named, and other mistakes are still told."""
    missing = tmp_path / "missing.yaml"
    assert mistakes_of({"drain_s": "x"}, file=missing) == [
        f"{missing}: cannot be read: No such file or directory",
        "--drain-s = x: must be a number",
    ]
    assert mistakes_of(file=tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "breaker:\n", "timers: {}\nlog: ~\n", "\ufeff"]
)
def test_an_empty_file_or_group_sets_nothing(tmp_path: Path, text: str) -> None:
    """A group whose keys are all commented out is fine."""
    assert loaded_file(tmp_path, text).settings == load({}, {}).settings


def test_required_settings_must_be_set(tmp_path: Path) -> None:
    """`run` without a backend says how to name one, beside all other mistakes."""
    path = tmp_path / "sidecar.yaml"
    path.write_text("upstream: null")
    with pytest.raises(ConfigError) as caught:
        load({"drain_s": "x"}, {}, str(path), required=("upstream",))
    assert [str(mistake) for mistake in caught.value.mistakes] == [
        "--drain-s = x: must be a number",
        "upstream: must be set: --upstream or SIDECAR_UPSTREAM or a key in the file",
    ]
    assert load({"upstream": "http://x"}, {}, required=("upstream",)).settings.upstream


# -- values that contradict each other --------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        {"listen": "127.0.0.1:9091"},
        {"listen": ":9091"},
        {"listen": "localhost:9091"},
        {"listen": "unix:/a", "admin": "unix:/a"},
    ],
)
def test_listen_and_admin_must_differ(flags: dict[str, FlagValue]) -> None:
    """Two listeners cannot have one address; it is told before the start."""
    (mistake,) = mistakes_of(flags)
    assert "must not be listen's address" in mistake


def test_contradictions_say_where_the_value_comes_from() -> None:
    """Also a default is named as the place of a mistake."""
    assert mistakes_of({"listen": ":9091"}) == [
        "admin (default) = 127.0.0.1:9091: must not be listen's address (:9091)"
    ]


@pytest.mark.parametrize(
    ("flags", "mistake"),
    [
        (
            {"breaker.slow_ratio": "0.5"},
            "--breaker.slow-ratio = 0.5: needs breaker.slow_call_s: what a slow call is",
        ),
        (
            {"breaker.open_backoff": "2", "breaker.open_s": "700"},
            "breaker.open_max_s (default) = 600: must be at least breaker.open_s (700)",
        ),
    ],
)
def test_breaker_numbers_that_make_no_sense_together_are_told(
    flags: dict[str, FlagValue], mistake: str
) -> None:
    """A ratio of nothing, and a bound below what it bounds, are slips."""
    assert mistakes_of(flags) == [mistake]


@pytest.mark.parametrize(
    "flags",
    [
        {"breaker.open_s": "3600"},
        {"breaker.open_backoff": "2", "breaker.open_s": "600"},
        {"breaker.slow_call_s": "30"},
        {"breaker.slow_call_s": "30", "breaker.slow_ratio": "0.5"},
    ],
)
def test_breaker_numbers_that_go_together_are_fine(flags: dict[str, FlagValue]) -> None:
    """Nobody must set a bound for what does not grow, or a ratio to name what is slow."""
    assert load(flags, {}).settings.breaker.contradictions() == []


@pytest.mark.parametrize(
    "flags",
    [
        {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        {"listen": "127.0.0.2:9091"},
        {"listen": "unix:/a", "admin": "unix:/b"},
        {"listen": ":8000", "upstream": "http://model:8000"},
        {"listen": "unix:/a", "upstream": "http://127.0.0.1:8080"},
        {"upstream": "http://localhost:8081"},
    ],
)
def test_addresses_that_only_look_alike_are_fine(flags: dict[str, FlagValue]) -> None:
    """The same port on another machine, or chosen by the system, is no contradiction."""
    assert load(flags, {}).config_file is None


@pytest.mark.parametrize(
    "flags",
    [
        {"upstream": "http://127.0.0.1:8080"},
        {"upstream": "http://localhost:8080"},
        {"upstream": "http://localhost:8080", "listen": ":8080"},
        {"upstream": "http://127.0.0.1:9091"},
        {"upstream": "unix:/a", "listen": "unix:/a"},
    ],
)
def test_the_sidecar_does_not_ask_itself(flags: dict[str, FlagValue]) -> None:
    """A backend on our own default port is an easy slip (llama.cpp's is 8080 too)."""
    (mistake,) = mistakes_of(flags)
    assert "must be the backend, not this sidecar's own" in mistake


def test_one_body_must_fit_into_the_queue() -> None:
    """With less room than one body's buffer, big requests could never wait."""
    assert mistakes_of({"queue.max_bytes": "100", "queue.body_buffer_bytes": "101"}) == [
        "--queue.body-buffer-bytes = 101: must be at most queue.max_bytes (100)"
    ]


def test_a_ca_file_is_tried_before_the_start(tmp_path: Path) -> None:
    """A missing or foreign file is told by `check`, not by the first request."""
    missing, wrong = tmp_path / "missing.pem", tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    assert mistakes_of({"upstream_tls.ca_file": str(missing)})[0].endswith(
        "must be a file that can be read: No such file or directory"
    )
    assert mistakes_of({"upstream_tls.ca_file": str(wrong)})[0].endswith(
        "must be a PEM file with certificates"
    )


# -- secrets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@host:80", "http://***@host:80"),
        ("http://user:se/cr@et@host", "http://***@host"),
        ("user:secret@host", "***@host"),
        ("http://host/?token=secret", "http://host/?***"),
        ("unix:/run/a@b.sock", "unix:/run/a@b.sock"),
        (5, 5),
    ],
)
def test_secrets_in_urls_are_masked(text: object, shown: object) -> None:
    """Neither `config` nor a mistake shows a password."""
    assert masked(text) == shown


def test_a_refused_password_is_not_repeated() -> None:
    """The message about a password in the URL does not print the password."""
    (mistake,) = mistakes_of(environ={"SIDECAR_UPSTREAM": "http://user:secret@host"})
    assert "secret" not in mistake
    assert "http://***@host" in mistake


# -- documents --------------------------------------------------------------------------------


def test_the_reference_page_is_up_to_date() -> None:
    """docs/settings.md says of every setting what the code does."""
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == settings_markdown(), f"out of date; run: {REMAKE}"


def test_the_documented_file_is_up_to_date() -> None:
    """config/sidecar.yaml has every setting with its default."""
    text = (ROOT / "config" / "sidecar.yaml").read_text(encoding="utf-8")
    assert text == settings_yaml(), f"out of date; run: {REMAKE}"
    assert flat(yaml.safe_load(text)) == effective(load({}, {}).settings)


def test_the_documents_are_written_anew_by_one_command(tmp_path: Path) -> None:
    """Whoever changes a setting has the documents remade, not edited."""
    page, file = tmp_path / "settings.md", tmp_path / "sidecar.yaml"
    write_documents([str(page), str(file)])
    assert page.read_text(encoding="utf-8") == settings_markdown()
    assert file.read_text(encoding="utf-8") == settings_yaml()


PRESETS = {
    "openclaw-gateway": "http://127.0.0.1:18789",
    "vllm": "http://127.0.0.1:8000",
    "llama.cpp": "http://127.0.0.1:8080",
    "ollama": "http://127.0.0.1:11434",
}


@pytest.mark.parametrize(("name", "upstream"), PRESETS.items())
def test_presets_are_good(name: str, upstream: str) -> None:
    """Each preset runs as it is, in front of a backend on its usual port."""
    loaded = load({}, {}, str(ROOT / "config" / f"{name}.yaml"), required=("upstream",))
    assert loaded.settings.upstream == upstream


def test_settings_cannot_be_changed_after_loading() -> None:
    """Everybody sees the same configuration until a new one is loaded as a whole."""
    settings = load({}, {}).settings
    with pytest.raises(ValueError, match="frozen"):
        settings.max_concurrent = 5
    with pytest.raises(ValueError, match="frozen"):
        settings.breaker.open_s = 5


def test_the_model_has_a_description_and_bounds_for_everything() -> None:
    """No setting is left without an explanation, no number without bounds."""
    for setting in SETTINGS.values():
        assert setting.description, setting.key
        if setting.schema["type"] in ("integer", "number"):
            assert "maximum" in setting.schema, setting.key


def test_every_number_of_the_rooms_can_be_set() -> None:
    """A number in a room's configuration that has no setting is found here."""
    settings = Settings()
    for group, config in (
        (settings.breaker, BreakerConfig),
        (settings.timers, Timers),
        (settings.pool, Pool),
        (settings.upstream_tls, UpstreamTls),
    ):
        assert set(type(group).model_fields) == {f.name for f in dataclasses.fields(config)}
