"""What does a glob match, and does one glob match all that another one does?

In a path `*` stands for any characters within one segment, `**` for any number of segments. In a
model's name `*` stands for any characters. Letter case is ignored in both: to guard too much is
safer than too little, and some backends ignore it too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import product

# `**` stands for no segment too, then without the slash that would set it apart.
_PATH_WILDCARD = re.compile(r"/\*\*$|\*\*/|\*\*|\*")
_WILDCARDS = {"/**": "(?:/.*)?", "**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}

# Characters that nobody writes into a glob. What a wildcard makes of them it makes of all others.
_ANY_SEGMENT = "\x01"
_ANY_CHARACTERS = "\x02"

# Three `**` in one rule are plenty; beyond so many samples a comparison is not worth its time.
_SAMPLES_MAX = 10_000


def path_pattern(path_glob: str) -> re.Pattern[bytes]:
    """Compile a path glob."""
    pattern = ""
    position = 0
    for match in _PATH_WILDCARD.finditer(path_glob):
        pattern += re.escape(path_glob[position : match.start()])
        pattern += _WILDCARDS[match.group()]
        position = match.end()
    pattern += re.escape(path_glob[position:])
    return re.compile(pattern.encode(), re.IGNORECASE | re.DOTALL)


def model_pattern(model_glob: str) -> re.Pattern[str]:
    """Compile a model glob."""
    parts = map(re.escape, model_glob.split("*"))
    return re.compile(".*".join(parts), re.IGNORECASE | re.DOTALL)


@lru_cache(maxsize=4096)  # of a configuration's rules each is compared with each
def path_covers(path_glob: str, other: str) -> bool:
    """Whether `path_glob` matches every canonical path that `other` matches.

    Found by samples: `other` with its wildcards replaced by what no literal can match. A `**` is
    tried with fewer and with more segments than `path_glob` can match one by one, so that what
    holds for the samples holds for all. False where that takes too many of them.
    """
    pattern = path_pattern(path_glob)
    segments_max = path_glob.count("/") + 2
    alternatives = [
        _path_samples(piece, segments_max)
        for piece in re.split(f"({_PATH_WILDCARD.pattern})", other)
    ]
    samples = 1
    for some in alternatives:
        samples *= len(some)
    if samples > _SAMPLES_MAX:
        return False
    return all(pattern.fullmatch(path.encode()) for path in _canonical(product(*alternatives)))


def _path_samples(piece: str, segments_max: int) -> list[str]:
    if piece == "*":
        return [_ANY_SEGMENT]
    if "**" not in piece:
        return [piece]
    runs = ["/".join([_ANY_SEGMENT] * count) for count in range(1, segments_max + 1)]
    before = "/" if piece.startswith("/") else ""
    behind = "/" if piece.endswith("/") else ""
    found = ["", *(before + run + behind for run in runs)]
    if behind:  # where the path begins with it
        found += ["/", *("/" + run + "/" for run in runs)]
    return found


def _canonical(samples: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """The samples that are paths as `canonical_path` makes them: others never come to a rule."""
    for parts in samples:
        path = "".join(parts)
        if path == "/" or (path.startswith("/") and "//" not in path and not path.endswith("/")):
            yield path


@lru_cache(maxsize=4096)
def model_covers(model_glob: str, other: str) -> bool:
    """Whether `model_glob` matches every name that `other` matches."""
    sample = other.replace("*", _ANY_CHARACTERS)
    return model_pattern(model_glob).fullmatch(sample) is not None
