"""The tutorial "a private EU subcloud in ten minutes", word by word, as a reader types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.local_network import HANG_S, REPOSITORY
from tests.fakes.tutorials import follow

pytestmark = pytest.mark.e2e
TUTORIAL = REPOSITORY / "docs/tutorials/a-private-eu-subcloud-in-ten-minutes.md"


@pytest.mark.timeout(3 * HANG_S)  # forty commands, each a process
def test_a_private_eu_subcloud_in_ten_minutes(tmp_path: Path) -> None:
    done = follow(TUTORIAL, tmp_path)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    at = 0
    for words in (
        "the policy of eu-legal is well-formed",
        "two mistakes",
        "version 1 of eu-legal is published",
        "# version     1",
        "1 members (at most 10000), 0 qualify",
        "region: wanted",
        "no member qualifies",
        "is vouched for in eu-legal-",
        "The capital of Italy is Rome.",
        "refused: not a caller",
        "price.owner_fee: 0% -> 5%",
        "one difference",
        "version 2 of eu-legal is published",
        "eu-legal:2",
        "The capital of France is Paris.",
        "1 banned",
        "nobody is left",
        "The capital of France is Paris.",
        "version 3 of eu-legal is published",
    ):
        at = done.stdout.find(words, at)
        assert at >= 0, f"{words!r} is not in (or not in its order):\n{told}"
        at += len(words)
    for words in (
        "line 5, column 13: `evidence`: expected `declared`",
        "line 4, column 19: `allow`: expected a country's two letters",
        "does not let this caller in",
    ):
        assert words in done.stderr, told
