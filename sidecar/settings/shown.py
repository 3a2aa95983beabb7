"""How is a setting's value shown? On one line, without what may be secret."""

from __future__ import annotations

import json
import re

# Longer values are cut: a mistake is one line.
_SHOWN_CHARACTERS = 80

# Where a URL may carry a password or a token: before the @, and in the query.
_USER_INFO = re.compile(r"^(\w+://)?.*@", re.DOTALL)
_QUERY = re.compile(r"\?.*", re.DOTALL)


def masked(value: object) -> object:
    """The value as it may be shown: what may be a password or a token in a URL becomes stars."""
    if not isinstance(value, str) or value.startswith("unix:"):
        return value
    return _QUERY.sub("?***", _USER_INFO.sub(r"\1***@", value))


def shown(value: object) -> str:
    """A value as text of one line, masked."""
    safe = masked(value)
    text = safe if isinstance(safe, str) else json.dumps(safe, default=str)
    # A text that is empty or has odd characters is quoted, so that one sees it.
    if not text or not text.isprintable() or text != text.strip():
        text = json.dumps(text)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def plain_number(value: object) -> object:
    """A number without a needless fraction: 300, not 300.0. Likewise within a mapping."""
    if isinstance(value, dict):
        return {key: plain_number(inner) for key, inner in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
