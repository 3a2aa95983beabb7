"""Which label does a model get? One of few, whatever clients write into their requests.

Each value of a label is a set of series that a Prometheus must keep. So models that the
configuration names have a label from the start, others only once the backend has answered for them,
and only the first ones: a client that makes up names can fill neither the memory nor the list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

OTHER = "other"  # any model without a label
NONE = "none"  # a request that named no model

# A backend serves few models; this many lines are as many as a graph can show (a guess).
FIRST_SEEN_MAX = 20

# What names of models consist of: owner/name:tag@revision. Longer names are only a nuisance.
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/@+-]{0,95}")


class ModelLabels:
    """The labels that there are."""

    def __init__(self, configured: Iterable[str] = ()) -> None:
        """`configured` are the names that have a label in any case."""
        self._labels = dict.fromkeys(configured)
        self._room = FIRST_SEEN_MAX

    @property
    def all(self) -> tuple[str, ...]:
        """All labels so far, also those for all others."""
        return tuple(dict.fromkeys([*self._labels, OTHER, NONE]))

    def label_of(self, model: str | None) -> str:
        """The label of a request for `model`."""
        if model is None:
            return NONE
        return model if model in self._labels else OTHER

    def answered(self, model: str | None) -> str:
        """Likewise for a request that the backend answered well, so that the model exists."""
        if (
            model is not None
            and model not in self._labels
            and self._room
            and _LABEL.fullmatch(model)
        ):
            self._labels[model] = None
            self._room -= 1
        return self.label_of(model)
