"""What may stand in a setting? The value types, with messages that say what would be right."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_settings import NoDecode

from sidecar.settings.address import ListenAddress, parse_listen, parse_upstream

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# A day. Longer times are slips of the unit (milliseconds for seconds), not wishes.
MAX_S = 86_400.0

# Likewise, all guesses. A KiB of prompt is some 250 tokens: a minute for them is slow on any CPU.
MAX_S_PER_KIB = 60.0
MAX_SLOTS = 10_000
MAX_WAITING = 100_000
MAX_QUEUE_BYTES = 64 * 1024**3

_OFF_WORDS = ("off", "none", "null")

# `tchar` of RFC 9110, 5.6.2: what a method may consist of.
_ROUTE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s+(\S+)")


def _not_bool(value: object) -> object:
    # Python's True is 1; whoever writes `max_concurrent: yes` meant something else.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")  # noqa: TRY004 - pydantic's way
    return value


def _off_is_none(value: object) -> object:
    # YAML 1.1 reads a bare `off` as false.
    if value is False or (isinstance(value, str) and value.strip().lower() in _OFF_WORDS):
        return None
    return _not_bool(value)


def _word(value: object) -> object:
    """One of a few words: letter case does not matter, and YAML's bare `off` is the word."""
    if value is False:
        return "off"
    return value.strip().lower() if isinstance(value, str) else value


def _as_list(value: object) -> object:
    """Lists come from YAML as lists, from flags and variables as text.

    Text is a JSON list or is split at commas and line ends.
    """
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _json_list(value)
    return [part.strip() for part in re.split(r"[,\n]", value) if part.strip()]


def _json_list(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("must be a JSON list, or values separated by commas") from None


def _text(value: object, example: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, such as {example}")  # noqa: TRY004 - pydantic's way
    return value.strip()


def _listen(value: object) -> ListenAddress:
    if isinstance(value, ListenAddress):
        return value
    return parse_listen(_text(value, "127.0.0.1:8080"))


def _upstream(value: object) -> str:
    return parse_upstream(_text(value, "http://127.0.0.1:18789"))


def _network(value: object) -> Network:
    if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return value
    text = _text(value, "10.0.0.0/8")
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(_right_network(text)) from error


def _right_network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"must be networks such as 10.0.0.0/8 or fd00::/8, not {text!r}"
    return f"must be the network's own address: {network} instead of {text}"


def _route(value: object) -> str:
    text = _text(value, '"POST **/chat/completions"')
    match = _ROUTE.fullmatch(text)
    if match is None:
        raise ValueError(f'must be "METHOD /path" such as "POST **/completions", not {text!r}')
    method, glob = match.groups()
    if not glob.startswith(("/", "**")):
        raise ValueError(f"must have a path that begins with / or **, not {glob!r}")
    if "?" in glob or "#" in glob:
        raise ValueError(f"must have a path without ? or #, as the query is not matched: {glob!r}")
    if re.search(r"//|%|\\|/\.{1,2}(/|$)", glob):
        raise ValueError(
            f"must have a path without //, /./, /../, % and \\, as it is compared: {glob!r}"
        )
    # Paths are compared without their last slash, so one in the rule would never match.
    return f"{method.upper()} {glob.rstrip('/') or '/'}"


WholeNumber = Annotated[int, BeforeValidator(_not_bool)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
Number = Annotated[_Finite, BeforeValidator(_not_bool)]
WholeNumberOrNone = Annotated[int | None, BeforeValidator(_not_bool)]
NumberOrNone = Annotated[_Finite | None, BeforeValidator(_not_bool)]
NumberOrOff = Annotated[_Finite | None, BeforeValidator(_off_is_none)]
Word = BeforeValidator(_word)
ListOfText = BeforeValidator(_as_list)

# `NoDecode`: the text of a variable is read here, not taken for JSON before.
Listen = Annotated[
    ListenAddress,
    PlainValidator(_listen),
    PlainSerializer(str),
    WithJsonSchema({"type": "string"}),
    NoDecode,
]
Upstream = Annotated[str, PlainValidator(_upstream), WithJsonSchema({"type": "string"})]
TrustedNetwork = Annotated[
    Network, PlainValidator(_network), PlainSerializer(str), WithJsonSchema({"type": "string"})
]
Route = Annotated[str, PlainValidator(_route), WithJsonSchema({"type": "string"})]

Networks = Annotated[tuple[TrustedNetwork, ...], ListOfText, NoDecode]
Routes = Annotated[tuple[Route, ...], ListOfText, NoDecode]
