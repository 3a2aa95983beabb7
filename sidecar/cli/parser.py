"""What stands on the command line? Commands and their flags; settings' flags from the model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from sidecar import __version__
from sidecar.settings.address import DEFAULT_ADMIN
from sidecar.settings.mistakes import Mistake, unknown

if TYPE_CHECKING:
    from sidecar.settings.catalog import Setting
    from sidecar.settings.load import FlagValue

PROGRAM = "openclaw-sidecar"

_COMMANDS = {
    "run": "guard a backend until stopped",
    "check": "check the configuration without starting anything",
    "config": "print the configuration in force, with the source of each value",
    "demo": "run in front of a built-in demo backend",
    "status": "ask a running sidecar how it is doing",
    "healthcheck": "exit with 0 if a running sidecar is alive, else with 1",
}
_WITH_SETTINGS = ("run", "check", "config", "demo")

_EXAMPLES = {
    "": """\
examples:
  openclaw-sidecar demo
  openclaw-sidecar run --upstream http://127.0.0.1:18789
  openclaw-sidecar check --config sidecar.yaml
  openclaw-sidecar status

Each command has its own help: openclaw-sidecar run --help""",
    "run": """\
examples:
  openclaw-sidecar run --upstream http://127.0.0.1:18789
  openclaw-sidecar run --config sidecar.yaml --listen :8080 --max-concurrent 5
  SIDECAR_UPSTREAM=http://127.0.0.1:8000 openclaw-sidecar run --breaker.open-s 30""",
    "check": """\
examples:
  openclaw-sidecar check --config sidecar.yaml
  SIDECAR_CONFIG=sidecar.yaml openclaw-sidecar check""",
    "config": """\
examples:
  openclaw-sidecar config --config sidecar.yaml
  openclaw-sidecar config --json
  openclaw-sidecar config --schema > sidecar.schema.json""",
    "demo": """\
examples:
  openclaw-sidecar demo
  openclaw-sidecar demo --listen 127.0.0.1:0 --admin 127.0.0.1:0
  openclaw-sidecar demo --upstream http://127.0.0.1:18789""",
    "status": """\
examples:
  openclaw-sidecar status
  openclaw-sidecar status --admin unix:/run/sidecar-admin.sock
  openclaw-sidecar status --json | jq '.guards[].waiting'""",
    "healthcheck": """\
examples:
  openclaw-sidecar healthcheck
  openclaw-sidecar healthcheck --ready --admin 127.0.0.1:9091
  openclaw-sidecar healthcheck --admin localhost:9091 --admin-ca ca.pem""",
}

_SETTINGS_NOTE = """\
Every setting is a flag, an environment variable (--breaker.open-s is SIDECAR_BREAKER__OPEN_S) and
a key of the YAML file (breaker: open_s:). The command line is stronger than the environment, the
environment stronger than the file, the file stronger than the defaults."""


class Parsed(NamedTuple):
    """A command with its options, its settings' flags by key, and the flags nobody knows."""

    command: str
    options: argparse.Namespace
    settings: dict[str, FlagValue]
    unknown_flags: list[Mistake]


class _Parser(argparse.ArgumentParser):
    """argparse, except that wrong use is told in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parse(argv: Sequence[str]) -> Parsed:
    """Read the command line. Raises `SystemExit` for --help, --version and wrong use."""
    command = next(iter(argv), "")
    parser = _top_parser()
    if command.startswith("-"):
        parser.parse_known_args(argv[:1])  # --help and --version end here
    if command not in _COMMANDS:
        parser.error(_no_command(command))
    parser = _command_parser(command)
    options, rest = parser.parse_known_args(argv[1:])
    values = vars(options)
    settings = {key: values.pop(key) for key in _setting_keys(command) if key in values}
    return Parsed(command, options, settings, _unknown_flags(rest, parser))


def _no_command(text: str) -> str:
    known = ", ".join(_COMMANDS)
    if not text:
        return f"a command is missing: {known} (see {PROGRAM} --help)"
    if text.startswith("-"):
        return f"the command comes first, such as: {PROGRAM} run {text} ..."
    import difflib  # noqa: PLC0415 - for slips only

    near = difflib.get_close_matches(text, _COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"commands are {known}"
    return f"unknown command {text!r}; {hint}"


def _top_parser() -> _Parser:
    commands = "\n".join(f"  {name:<12} {text}" for name, text in _COMMANDS.items())
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND [FLAGS]",
        description="Guards an LLM backend: limits what runs at once, queues the rest, stops "
        f"sending while it fails.\n\ncommands:\n{commands}",
        epilog=_EXAMPLES[""],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def _command_parser(command: str) -> _Parser:
    text = _COMMANDS[command]
    text = text[0].upper() + text[1:] + "."
    parser = _Parser(
        prog=f"{PROGRAM} {command}",
        usage=f"{PROGRAM} {command} [FLAGS]",
        description=f"{text}\n\n{_SETTINGS_NOTE}" if command in _WITH_SETTINGS else text,
        epilog=_EXAMPLES[command],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    if command in _WITH_SETTINGS:
        parser.add_argument(
            "--config", metavar="FILE", default=None, help="YAML file (also SIDECAR_CONFIG)"
        )
        _add_output_flags(command, parser)
        _add_setting_flags(parser)
    else:
        _add_asking_flags(command, parser)
    return parser


def _add_output_flags(command: str, parser: argparse.ArgumentParser) -> None:
    if command == "config":
        output = parser.add_mutually_exclusive_group()
        output.add_argument("--json", action="store_true", default=False, help="print JSON")
        output.add_argument(
            "--schema", action="store_true", default=False, help="print the file's JSON schema"
        )


def _add_asking_flags(command: str, parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--admin",
        metavar="ADDRESS",
        default=None,
        help="the sidecar's admin port, HOST:PORT or unix:PATH "
        f"(default: SIDECAR_ADMIN, the file in SIDECAR_CONFIG, or {DEFAULT_ADMIN})",
    )
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument(
        "--admin-ca",
        metavar="FILE",
        default=None,
        help="speak TLS; PEM file with the authorities that the admin port's certificate needs",
    )
    trust.add_argument(
        "--insecure",
        action="store_true",
        default=False,
        help="speak TLS, whatever the certificate. Without --admin this is the default where "
        "SIDECAR_ADMIN_TLS__CERT_FILE or the file in SIDECAR_CONFIG sets a certificate",
    )
    parser.add_argument(
        "--admin-cert",
        metavar="FILE",
        default=None,
        help="certificate to show, where admin_tls.client_ca_file asks for one",
    )
    parser.add_argument(
        "--admin-key",
        metavar="FILE",
        default=None,
        help="private key of that certificate (default: in the same file)",
    )
    if command == "status":
        parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    else:
        parser.add_argument(
            "--ready", action="store_true", default=False, help="ask /readyz instead of /livez"
        )


def _add_setting_flags(parser: argparse.ArgumentParser) -> None:
    from sidecar.settings.catalog import GROUPS, SETTINGS  # noqa: PLC0415 - imports pydantic

    groups: dict[str, argparse._ArgumentGroup] = {
        "": parser.add_argument_group("settings"),
        **{name: parser.add_argument_group(name, _escaped(text)) for name, text in GROUPS.items()},
    }
    for setting in SETTINGS.values():
        _add_setting_flag(groups[setting.group], setting)


def _add_setting_flag(group: argparse._ArgumentGroup, setting: Setting) -> None:
    text = f"{setting.description} (default: {_default_text(setting)})"
    metavar = _metavar(setting)
    if setting.is_list:
        text = _escaped(text + " Comma-separated, or the flag several times.")
        group.add_argument(
            setting.flag, dest=setting.key, action="append", metavar=metavar, help=text
        )
    elif setting.is_switch:  # the bare flag means true
        group.add_argument(
            setting.flag,
            dest=setting.key,
            nargs="?",
            const="true",
            metavar=metavar,
            help=_escaped(text),
        )
    else:
        group.add_argument(setting.flag, dest=setting.key, metavar=metavar, help=_escaped(text))


def _metavar(setting: Setting) -> str:
    if setting.choices:
        return "{" + ",".join(setting.choices) + "}"
    for ending, name in _METAVARS:
        if setting.key.endswith(ending):
            return name
    return {"boolean": "true|false", "integer": "N", "array": "LIST", "object": "JSON"}.get(
        setting.schema["type"], "TEXT"
    )


_METAVARS = (
    ("_bytes", "BYTES"),
    ("_file", "FILE"),
    ("_ratio", "RATIO"),
    ("_s", "SECONDS"),
    ("admin", "ADDRESS"),
    ("listen", "ADDRESS"),
    ("upstream", "URL"),
)


def _default_text(setting: Setting) -> str:
    items = setting.default if isinstance(setting.default, list) else [setting.default]
    texts = [item if isinstance(item, str) else json.dumps(item) for item in items if item != ""]
    return ", ".join("none" if text == "null" else text for text in texts) or "none"


def _escaped(text: str) -> str:
    return text.replace("%", "%%")  # argparse formats help texts


def _setting_keys(command: str) -> Sequence[str]:
    if command not in _WITH_SETTINGS:
        return ()
    from sidecar.settings.catalog import SETTINGS  # noqa: PLC0415 - imports pydantic

    return list(SETTINGS)


def _unknown_flags(rest: Sequence[str], parser: argparse.ArgumentParser) -> list[Mistake]:
    """What argparse did not know. A word behind an unknown flag is taken for its value."""
    known = [flag for action in parser._actions for flag in action.option_strings]  # noqa: SLF001
    mistakes = []
    after_flag = False
    for word in rest:
        if word.startswith("-"):
            flag = word.partition("=")[0]
            mistakes.append(unknown(flag, "flag", flag, known))
        elif not after_flag:
            mistakes.append(Mistake(word, "stands where a flag is expected"))
        after_flag = word.startswith("-") and "=" not in word
    return mistakes
