"""Owns what every test run has in common: Hypothesis profiles and the marks that folders imply."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline per example: the machine that runs the tests may be busy.
settings.register_profile(
    "normal", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("soak", settings.get_profile("normal"), max_examples=2_000)
settings.load_profile("soak" if os.environ.get("RESULTITY_SOAK") == "1" else "normal")

END_TO_END = Path(__file__).parent / "e2e"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under tests/e2e starts real processes: it carries the mark without being asked."""
    for item in items:
        if item.path.is_relative_to(END_TO_END):
            item.add_marker(pytest.mark.e2e)
