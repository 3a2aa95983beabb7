"""Which class of routes does a request belong to? Method and path glob, first match wins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

# Distinct targets remembered; a scanner that tries more pays for matching, not with our memory.
_CACHE_SIZE = 1024


@dataclass(frozen=True, slots=True)
class RouteRule:
    """Requests of `method` whose path matches `path_glob` belong to class `guard`.

    In a glob `*` stands for any characters within one segment, `**` for any number of segments.
    """

    method: str
    path_glob: str
    guard: str


# `**` stands for no segment too, then without the slash that would set it apart.
_WILDCARDS = {"/**": "(?:/.*)?", "**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}


def glob_to_regex(path_glob: str) -> re.Pattern[bytes]:
    """Compile a path glob. Letter case is ignored: to guard too much is safer than too little."""
    pattern = ""
    position = 0
    for match in re.finditer(r"/\*\*$|\*\*/|\*\*|\*", path_glob):
        pattern += re.escape(path_glob[position : match.start()])
        pattern += _WILDCARDS[match.group()]
        position = match.end()
    pattern += re.escape(path_glob[position:])
    return re.compile(pattern.encode(), re.IGNORECASE | re.DOTALL)


def canonical_path(target: bytes) -> bytes:
    """The path that a backend might make of a request target, for matching only.

    Backends decode percent-encoding, drop the query, dot segments, double and trailing slashes;
    a path that reaches an inference handler by such a spelling must not slip past its limit
    (RFC 3986, 6.2.2).
    """
    path = target.partition(b"?")[0].partition(b"#")[0]
    if not path.startswith(b"/"):  # absolute-form: scheme://authority/path
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    path = unquote_to_bytes(path).replace(b"\\", b"/")
    segments: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del segments[-1:]
        elif segment not in (b"", b"."):
            segments.append(segment)
    return b"/" + b"/".join(segments)


class RouteTable:
    """An ordered list of rules; remembers what it found for recent targets."""

    def __init__(self, rules: Sequence[RouteRule]) -> None:
        self._rules = [
            (rule.method.upper().encode(), glob_to_regex(rule.path_glob), rule.guard)
            for rule in rules
        ]
        self._methods = frozenset(method for method, _, _ in self._rules)
        self._found: dict[tuple[bytes, bytes], str | None] = {}

    def guard_of(self, method: bytes, target: bytes) -> str | None:
        """The class that guards this request, or None when it passes freely."""
        # Some servers take `post` for POST.
        method = method.upper()
        if method not in self._methods:
            return None
        key = (method, target)
        try:
            return self._found[key]
        except KeyError:
            pass
        guard = self._match(method, canonical_path(target))
        if guard is None and target.startswith((b"//", b"/\\")):
            # Some servers read it as a relative URL, and "//x" as its host (RFC 3986, 4.2).
            guard = self._match(method, canonical_path(b"http://" + target[2:]))
        if len(self._found) < _CACHE_SIZE:
            self._found[key] = guard
        return guard

    def _match(self, method: bytes, path: bytes) -> str | None:
        for rule_method, pattern, guard in self._rules:
            if rule_method == method and pattern.fullmatch(path):
                return guard
        return None
