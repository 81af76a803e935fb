"""Versions of a policy as their owner makes them: offline, handed over, with changed keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from p2p.account_file import AccountKeys, create_account
from p2p.account_messages import AccountKeyChange
from p2p.account_proof import AccountProof
from p2p.errors import UntrustedError
from p2p.signing import KeyPair
from p2p.subclouds.policy import check_successor
from p2p.subclouds.records import KnownPolicy, PolicyRecord, verify_record
from resultity.errors import DataFolderError, SettingsError
from resultity.subclouds.diff import differences
from resultity.subclouds.policy_file import PolicyFile, read_policy_file
from resultity.subclouds.signed_versions import note_signed
from resultity.subclouds.signing import (
    Before,
    Owner,
    hand_over,
    read_before,
    read_record,
    sign_again,
    sign_file,
    sign_last,
    write_handover,
    write_record,
)
from tests.fakes.subclouds import NETWORK, a_policy

NOW_MS = 1_700_000_000_000


def an_owner(number: int) -> Owner:
    keys, _ = create_account(NETWORK, lambda: NOW_MS, bytes([number]) * 16)
    return Owner(keys, AccountProof(keys.founding))


FOUNDER, TAKER = an_owner(1), an_owner(2)


def a_file(more: str = "") -> PolicyFile:
    return read_policy_file(f"name: eu-legal\nexpires: 365d\ncallers: {{anyone: true}}\n{more}")


def first() -> Before:
    return Before(verify_record(sign_file(a_file(), FOUNDER, None, NETWORK, NOW_MS), NETWORK))


def follows(before: Before, record: PolicyRecord) -> KnownPolicy:
    """Verify a record and that it may replace the version before."""
    known = verify_record(record, NETWORK)
    old = before.known
    assert check_successor(old.policy, old.digest, known.policy, known.digest)
    return known


def test_versions_follow_each_other() -> None:
    before = first()
    assert (before.known.policy.version, before.known.policy.predecessor_digest) == (1, None)
    record = sign_file(a_file("isolate: true"), FOUNDER, before, NETWORK, NOW_MS - 5)
    second = follows(before, record)
    assert second.policy.version == 2
    assert second.policy.issued_ms == NOW_MS  # a clock that went back changes nothing
    assert differences(before.known.policy, second.policy) == ["isolate: false -> true"]
    last = follows(Before(second), sign_last(FOUNDER, Before(second), NOW_MS + 1))
    assert last.policy.ended
    assert differences(second.policy, last.policy)[-1] == "ended: false -> true"
    with pytest.raises(SettingsError, match="has ended"):
        sign_last(FOUNDER, Before(last), NOW_MS + 2)
    with pytest.raises(SettingsError, match="nothing follows"):
        sign_file(a_file(), FOUNDER, Before(last), NETWORK, NOW_MS + 2)


def test_only_whose_turn_it_is_signs() -> None:
    before = first()
    with pytest.raises(SettingsError, match="belongs to"):
        sign_file(a_file(), TAKER, before, NETWORK, NOW_MS)
    with pytest.raises(SettingsError, match="belongs to"):
        sign_last(TAKER, before, NOW_MS)
    with pytest.raises(SettingsError, match="belongs to"):
        hand_over(TAKER, before, FOUNDER.keys.account_id, NOW_MS)
    with pytest.raises(SettingsError, match="owns it already"):
        hand_over(FOUNDER, before, FOUNDER.keys.account_id, NOW_MS)


def test_a_handover_is_accepted_by_the_next_version(tmp_path: Path) -> None:
    before = first()
    path = tmp_path / "eu.handover"
    signed = hand_over(FOUNDER, before, TAKER.keys.account_id, NOW_MS)
    write_handover(path, before.known.record, signed)
    handed = read_before(path, NETWORK)
    with pytest.raises(SettingsError, match="the handover names"):
        sign_file(a_file(), FOUNDER, handed, NETWORK, NOW_MS)
    taken = follows(before, sign_file(a_file(), TAKER, handed, NETWORK, NOW_MS))
    assert taken.policy.owner == TAKER.keys.account_id
    assert taken.identity == before.known.identity
    with pytest.raises(SettingsError, match="before you hand it over again"):
        hand_over(TAKER, handed, FOUNDER.keys.account_id, NOW_MS)
    # And back, which gives the founder's account a second place in the chain.
    write_handover(
        path, taken.record, hand_over(TAKER, Before(taken), FOUNDER.keys.account_id, NOW_MS)
    )
    back = sign_file(a_file(), FOUNDER, read_before(path, NETWORK), NETWORK, NOW_MS)
    assert follows(Before(taken), back).policy.version == 3
    third = follows(
        Before(verify_record(back, NETWORK)),
        sign_file(a_file("join: open"), FOUNDER, Before(verify_record(back, NETWORK)), NETWORK, 0),
    )
    assert len(third.record.handovers) == 2


def test_a_handover_by_a_stranger_is_refused(tmp_path: Path) -> None:
    before = first()
    path = tmp_path / "eu.handover"
    signed = hand_over(FOUNDER, before, TAKER.keys.account_id, NOW_MS)
    write_handover(path, before.known.record, replace(signed, signer=TAKER.keys.signing.public_key))
    with pytest.raises(UntrustedError):
        read_before(path, NETWORK)
    other = sign_file(read_policy_file("name: other\nexpires: 1d"), FOUNDER, None, NETWORK, NOW_MS)
    write_handover(path, other, signed)
    with pytest.raises(DataFolderError, match="does not own"):
        read_before(path, NETWORK)


def test_after_a_change_of_keys_the_version_in_force_is_signed_again() -> None:
    before = first()
    new = KeyPair(b"n" * 32)
    old = FOUNDER.keys.signing
    change = AccountKeyChange(
        FOUNDER.keys.account_id, 1, (new.public_key,), (old.public_key,), NOW_MS
    )
    keys = AccountKeys(new, FOUNDER.keys.founding)
    offline = Owner.offline(keys, before, NETWORK)
    assert not offline.is_proven(NETWORK)
    owner = Owner(keys, AccountProof(keys.founding, (old.sign(NETWORK, change),)))
    assert owner.is_proven(NETWORK)
    again = verify_record(sign_again(owner, before), NETWORK)
    assert again.digest == before.known.digest
    assert again.record.policy.signer == new.public_key
    # Offline again: the proof of the version in force knows the change.
    assert Owner.offline(keys, Before(again), NETWORK).is_proven(NETWORK)
    with pytest.raises(SettingsError):
        sign_again(TAKER, before)


def test_files_of_records(tmp_path: Path) -> None:
    before = first()
    path = tmp_path / "eu.policy"
    write_record(path, before.known.record)
    assert read_record(path) == before.known.record
    assert read_before(path, NETWORK).known.digest == before.known.digest
    for content in (b"", b"name: x\n", path.read_bytes()[:-1], b"\x93" * 50):
        path.write_bytes(content)
        with pytest.raises(DataFolderError):
            read_record(path)
        with pytest.raises(DataFolderError):
            read_before(path, NETWORK)
    with pytest.raises(DataFolderError, match="cannot read"):
        read_record(tmp_path / "none")


def test_no_second_policy_is_signed_for_a_version_by_accident(tmp_path: Path) -> None:
    account = tmp_path / "owner.account"
    one = sign_file(a_file(), FOUNDER, None, NETWORK, NOW_MS)
    other = sign_file(a_file("isolate: true"), FOUNDER, None, NETWORK, NOW_MS)
    note_signed(account, one, replace=False)
    note_signed(account, one, replace=False)
    with pytest.raises(SettingsError, match="fork"):
        note_signed(account, other, replace=False)
    note_signed(account, other, replace=True)
    with pytest.raises(SettingsError, match="fork"):
        note_signed(account, one, replace=False)
    before = Before(verify_record(other, NETWORK))
    note_signed(account, sign_last(FOUNDER, before, NOW_MS), replace=False)
    with pytest.raises(SettingsError, match="fork"):
        note_signed(account, other, replace=False)
    account.with_name("owner.account.signed.json").write_text("[")
    with pytest.raises(DataFolderError, match="damaged"):
        note_signed(account, other, replace=False)


def test_differences_are_told_in_the_terms_of_the_file() -> None:
    model = {
        "name": "own",
        "digest": "1" * 64,
        "context_tokens": 10,
        "input_microcredits_per_million_tokens": 250_000,
        "output_microcredits_per_million_tokens": 1,
    }
    old = a_policy(
        regions={"allow": ("DE", "NO")},
        models={"own": (model,), "names": ({"name": "qwen"},)},
        service={"uptime_min": 9900},
        expires_ms=86_400_000,
    )
    new = a_policy(
        regions={"allow": ("NO", "FR"), "evidence": "proven"},
        models={
            "own": (model | {"input_microcredits_per_million_tokens": 10**6},),
            "names": ({"name": "qwen", "versions": ("2",)}, {"name": "llama"}),
        },
        hardware={"gpu": {"kind": "RTX", "memory_bytes_min": 24 * 2**30}},
        service={"first_token_ms_max": 1500},
        contact="x: y",
        expires_ms=2 * 86_400_000,
    )
    assert differences(old, new) == [
        'contact: (none) -> "x: y"',
        "expires: 1d -> 2d",
        'models.names[qwen].versions: + "2"',
        "models.names: + llama",
        "models.own[own].input_price: 0.25 -> 1",
        "regions.allow: - DE",
        "regions.allow: + FR",
        "regions.evidence: declared -> proven",
        "hardware.gpu: added",
        "hardware.gpu.kind: (none) -> RTX",
        "hardware.gpu.memory_min: 0 B -> 24 GiB",
        "service.first_token_max: 0ms -> 1500ms",
        "service.uptime_min: 99% -> 0%",
    ]
    assert differences(new, new) == []
    swapped = a_policy(regions={"allow": ("NO", "DE")})
    assert differences(a_policy(regions={"allow": ("DE", "NO")}), swapped) == [
        "regions.allow: another order"
    ]
