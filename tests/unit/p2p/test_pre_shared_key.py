"""The file of a pre-shared key: made once, read by its owner, refused when it is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2p.errors import MalformedError, P2PError, UntrustedError
from p2p.pre_shared_key import create_pre_shared_key, load_pre_shared_key


def test_it_is_made_once_and_read(tmp_path: Path) -> None:
    path = tmp_path / "network.key"
    create_pre_shared_key(path)
    key = load_pre_shared_key(path)
    assert key is not None
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        create_pre_shared_key(path)
    assert load_pre_shared_key(path) == key
    assert load_pre_shared_key(None) is None


@pytest.mark.parametrize("content", ["", "zz", "ab" * 31, "00" * 32, "é"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "network.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(MalformedError, match=str(path)):
        load_pre_shared_key(path)


def test_one_that_others_can_read_or_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "network.key"
    with pytest.raises(P2PError, match="No such file"):
        load_pre_shared_key(path)
    create_pre_shared_key(path)
    path.chmod(0o644)
    with pytest.raises(UntrustedError, match="chmod 600"):
        load_pre_shared_key(path)
