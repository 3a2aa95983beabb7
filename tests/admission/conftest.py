"""How does hypothesis search, and what do tests of admission start from?"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.admission.driver import Driver

# The same examples on every run: a red build is a broken promise, never bad luck.
settings.register_profile(
    "fixed",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=150,
    stateful_step_count=40,
    # Not `explain`: it traces every line, and a failure would end in the time-out instead.
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
# To look further, by hand: HYPOTHESIS_PROFILE=search pytest tests/admission --timeout 0
settings.register_profile(
    "search",
    deadline=None,
    max_examples=5_000,
    stateful_step_count=80,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture
def driver() -> Driver:
    """A guard with the documented defaults: 3 slots, 64 places, 5 failures, 60 s."""
    return Driver()
