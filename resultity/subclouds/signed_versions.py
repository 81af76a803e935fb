"""Owns the memory of what an account has signed: no second policy for a version by accident.

Two policies with one version are a fork: peers refuse both ways on and keep them as evidence
against the owner. The file `<account file>.signed.json` stands beside the account file; losing it
costs nothing but the guard.
"""

from __future__ import annotations

import json
from pathlib import Path

from p2p.files import write_atomically
from p2p.subclouds.records import PolicyRecord
from resultity.errors import DataFolderError, SettingsError
from resultity.subclouds.signing import digest_of, policy_in

SUBCLOUDS_MAX = 10_000


def note_signed(account_file: Path, record: PolicyRecord, *, replace: bool) -> None:
    """Remember a version before it leaves this machine.

    Args:
        replace: another policy was signed for this version, and never left this machine.
    Raises: SettingsError if there is another policy for the version, DataFolderError.
    """
    path = account_file.with_name(f"{account_file.name}.signed.json")
    policy, digest = policy_in(record), digest_of(record)
    known = _read(path)
    version, before = known.get(policy.subcloud_id, (0, ""))
    if not replace and (policy.version, digest) != (version, before) and policy.version <= version:
        raise SettingsError(
            f"version {version} of {policy.subcloud_id} was signed before with other content: two "
            "policies of one version are a fork. Publish that one, or give --replace if it was "
            "shown to nobody"
        )
    known[policy.subcloud_id] = (policy.version, digest)
    write_atomically(path, json.dumps(known, indent=1).encode() + b"\n")


def _read(path: Path) -> dict[str, tuple[int, str]]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {str(name): (int(entry[0]), str(entry[1])) for name, entry in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise DataFolderError(f"{path} is damaged: remove it") from error
    return dict(list(found.items())[-SUBCLOUDS_MAX:])
