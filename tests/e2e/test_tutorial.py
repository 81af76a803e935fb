"""The tutorial "from zero to a verified bill", word by word, as a reader types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.local_network import REPOSITORY
from tests.fakes.tutorials import follow

pytestmark = pytest.mark.e2e
TUTORIAL = REPOSITORY / "docs/tutorials/from-zero-to-a-verified-bill.md"


def test_from_zero_to_a_verified_bill(tmp_path: Path) -> None:
    done = follow(TUTORIAL, tmp_path, RESULTITY_DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout
    for words in (
        "granted 5.000000 credits",
        "1 grants, each signed by a mint key",
        "The capital of Italy is Rome.",
        "verified: 19 tokens in",
        "refused, as it should be",
        "verified: in the log of",
        "nothing is wrong",
    ):
        assert words in shown, f"{words!r} is not in:\n{shown}{done.stderr}"
