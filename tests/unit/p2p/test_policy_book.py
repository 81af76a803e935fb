"""The book of policies: newest wins, everything else is refused and kept as evidence, on disk."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest

from p2p.errors import ForkError, P2PError, RefusedError, StaleError, UntrustedError
from p2p.limits import POLICY_EVIDENCE_PER_SUBCLOUD_MAX, POLICY_GRACE_S, SUBCLOUDS_PER_OWNER_MAX
from p2p.subclouds import policy_book
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.records import PolicyRecord
from tests.fakes.clocks import FakeClock
from tests.fakes.ledger_world import NETWORK, key_pair
from tests.fakes.policy_owners import DELEGATE, PolicyOwner, revocation_list

OWNER, OTHER = PolicyOwner(1), PolicyOwner(2)
FIRST = OWNER.record()
TEAM = OWNER.identity()


def a_book(folder: Path | None = None, clock: FakeClock | None = None, **options) -> PolicyBook:
    return PolicyBook(NETWORK, folder, clock_ms=clock or FakeClock(), **options)


def kinds(book: PolicyBook) -> list[str]:
    return [item.kind for item in book.evidence]


def test_the_newest_version_is_in_force_and_the_one_before_has_a_grace() -> None:
    clock = FakeClock()
    book, heard = a_book(clock=clock), []
    book.on_change(heard.append)
    assert book.offer(FIRST)
    assert not book.offer(FIRST)
    second = OWNER.record(after=FIRST, contact="x")
    assert book.offer(second)
    assert book.get(TEAM).record == second
    assert book.previous(TEAM, clock()).record == FIRST
    clock.advance(POLICY_GRACE_S)
    assert book.previous(TEAM, clock()) is None
    assert heard == [TEAM, TEAM]
    assert [known.record for known in book.all()] == [second]


def test_a_peer_that_missed_versions_takes_the_newest() -> None:
    book = a_book()
    book.offer(FIRST)
    third = OWNER.record(after=OWNER.record(after=FIRST))
    assert book.offer(third)
    assert book.get(TEAM).policy.version == 3


@pytest.mark.parametrize("folder", [True, False], ids=["on disk", "in memory"])
def test_what_is_refused_is_kept_as_evidence(tmp_path: Path, folder: bool) -> None:
    book = a_book(tmp_path if folder else None)
    second = OWNER.record(after=FIRST)
    book.offer(second)
    with pytest.raises(StaleError):
        book.offer(FIRST, "peer-1")
    fork = OWNER.record(after=FIRST, contact="another second version")
    with pytest.raises(ForkError):
        book.offer(fork, "peer-2")
    foreign = OWNER.record(after=second, signer=OTHER.key)
    with pytest.raises(UntrustedError):
        book.offer(foreign, "peer-3")
    assert sorted(kinds(book)) == ["foreign", "fork", "older"]
    by_kind = {item.kind: item for item in book.evidence}
    assert by_kind["fork"].record == fork
    assert by_kind["fork"].known == second.policy
    assert by_kind["fork"].source == "peer-2"
    with pytest.raises(ForkError):  # the same again is kept once
        book.offer(fork, "peer-4")
    assert len(book.evidence) == 3
    assert book.get(TEAM).record == second
    if folder:
        again = a_book(tmp_path)
        assert again.get(TEAM).record == second
        assert {item.name for item in again.evidence} == {item.name for item in book.evidence}


def test_evidence_is_bounded_and_junk_pushes_no_proof_out() -> None:
    book = a_book()
    book.offer(FIRST)
    forks = [OWNER.record(contact=f"fork {number}") for number in range(6)]
    for fork in forks:
        with pytest.raises(ForkError):
            book.offer(fork)
    for number in range(6):
        with pytest.raises(UntrustedError):
            book.offer(OWNER.record(after=FIRST, signer=OTHER.key, contact=str(number)))
    assert kinds(book).count("fork") == POLICY_EVIDENCE_PER_SUBCLOUD_MAX
    assert kinds(book).count("foreign") == POLICY_EVIDENCE_PER_SUBCLOUD_MAX


def test_what_nobody_signed_is_no_evidence() -> None:
    book = a_book()
    book.offer(FIRST)
    forged = PolicyRecord(
        type(FIRST.policy)(FIRST.policy.body, OTHER.key.public_key, bytes(64)), (), FIRST.accounts
    )
    with pytest.raises(UntrustedError):
        book.offer(forged)
    assert not book.evidence


def test_after_a_key_change_the_same_version_is_signed_again() -> None:
    owner, book, heard = PolicyOwner(3), a_book(), []
    record = owner.record()
    book.offer(record)
    stolen = owner.key
    short = owner.proof()
    owner.replace_key()
    renewed = owner.record()
    book.on_change(heard.append)
    assert book.offer(renewed)  # the same content: the record is another, the version is not
    assert heard == []
    assert book.get(owner.identity()).record == renewed
    assert not book.offer(record)
    # The key that was removed signs nothing any more for who knows of the change.
    with pytest.raises(UntrustedError):
        book.offer(owner.record(after=record, signer=stolen, proof=short))
    with pytest.raises(UntrustedError):
        book.offer(owner.record("second", signer=stolen, proof=short))
    assert book.offer(owner.record(after=renewed))


def test_a_shorter_proof_of_keys_is_refused_where_a_longer_one_is_known() -> None:
    owner, book = PolicyOwner(4), a_book()
    extra = key_pair(8999)
    first = owner.record()
    from tests.fakes.account_world import key_change

    owner.changes.append(key_change(owner.world, owner.tenant, 1, added=(extra,), signer=owner.key))
    book.offer(owner.record())
    with pytest.raises(StaleError, match="proof"):
        book.offer(owner.record(after=first, proof=owner.proof(0)))
    assert book.offer(owner.record(after=first))


def test_handovers_are_not_forgotten_nor_doubled() -> None:
    giver, taker, third, book = PolicyOwner(5), PolicyOwner(6), PolicyOwner(7), a_book()
    first = giver.record()
    book.offer(first)
    handed = giver.handed_over(first, taker)
    assert book.offer(handed)
    assert book.get(giver.identity()).owner.account_id == taker.account_id
    with pytest.raises(StaleError, match="handed over"):
        book.offer(giver.record(after=giver.record(after=first)))
    with pytest.raises(ForkError, match="two accounts"):
        book.offer(giver.handed_over(giver.record(after=first), third))
    assert book.offer(taker.record(after=handed))


def test_a_removed_key_hands_nothing_over() -> None:
    giver, taker, book = PolicyOwner(8), PolicyOwner(9), a_book()
    stolen, first = giver.key, giver.record()
    short = giver.proof()
    giver.replace_key()
    book.offer(giver.record())
    handed = giver.handed_over(first, taker, signer=stolen)
    forged = PolicyRecord(handed.policy, handed.handovers, (taker.proof(), short))
    with pytest.raises(UntrustedError, match="handover"):
        book.offer(forged)
    assert book.offer(giver.handed_over(first, taker))


def test_it_is_on_disk_before_it_is_in_force(tmp_path: Path, monkeypatch) -> None:
    book = a_book(tmp_path)
    book.offer(FIRST)

    def full_disk(*args: object, **options: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(policy_book, "write_atomically", full_disk)
    with pytest.raises(OSError, match="space"):
        book.offer(OWNER.record(after=FIRST))
    assert book.get(TEAM).policy.version == 1


def test_a_restart_keeps_everything_and_sets_damage_aside(tmp_path: Path) -> None:
    book = a_book(tmp_path)
    record = OWNER.record(join="semi-open")
    book.offer(record)
    book.offer(OTHER.record())
    book.offer_revocations(revocation_list(TEAM, 3))
    again = a_book(tmp_path)
    assert again.get(TEAM).record == record
    assert again.revocations(TEAM).number == 3
    (tmp_path / f"{OTHER.identity()}.msgpack").write_bytes(b"x")
    third = a_book(tmp_path)
    assert len(third) == 1
    assert third.offer(OTHER.record())


def test_the_number_of_subclouds_is_bounded(monkeypatch) -> None:
    clock = FakeClock()
    book = a_book(clock=clock, subclouds_max=2)
    book.offer(OWNER.record("one", expires_ms=clock() + 1000))
    book.offer(OWNER.record("two"))
    with pytest.raises(RefusedError) as refusal:
        book.offer(OWNER.record("three"))
    assert refusal.value.code == "too_many_subclouds"
    clock.advance(31 * 86_400)  # what ended long ago makes room
    assert book.offer(OWNER.record("three"))
    assert book.get(OWNER.identity("one")) is None
    monkeypatch.setattr(policy_book, "SUBCLOUDS_PER_OWNER_MAX", 2)
    with pytest.raises(RefusedError):
        book.offer(OWNER.record("four"))
    assert SUBCLOUDS_PER_OWNER_MAX > 2


# --- revocation lists -----------------------------------------------------------------------------
def test_revocation_lists_are_numbered_and_signed_by_delegates(tmp_path: Path) -> None:
    clock = FakeClock()
    book = a_book(tmp_path, clock)
    with pytest.raises(RefusedError):
        book.offer_revocations(revocation_list(TEAM, 1))
    book.offer(OWNER.record(join="private"))
    second = revocation_list(TEAM, 2)
    assert book.offer_revocations(second)
    assert not book.offer_revocations(second)
    with pytest.raises(StaleError):
        book.offer_revocations(revocation_list(TEAM, 1))
    with pytest.raises(UntrustedError):
        book.offer_revocations(revocation_list(TEAM, 3, signer=OTHER.key))
    with pytest.raises(ForkError):
        book.offer_revocations(revocation_list(TEAM, 2, OTHER.key.peer_id))
    assert kinds(book) == ["revocation_fork"]
    with pytest.raises(StaleError):
        book.offer_revocations(revocation_list(TEAM, 9, issued_ms=clock() + 3_600_000))
    assert book.revocations(TEAM).number == 2


def test_the_list_of_a_delegate_who_is_named_no_more_admits_nobody_and_still_revokes(
    tmp_path: Path,
) -> None:
    book, banned = a_book(tmp_path), OTHER.key.peer_id
    first = OWNER.record(join="private")
    book.offer(first)
    signed = revocation_list(TEAM, 2**50, banned)
    book.offer_revocations(signed)
    kept = OWNER.record(after=first, join="private", contact="x")
    book.offer(kept)
    assert book.revocations(TEAM) is not None
    other = key_pair(7002)
    left = OWNER.record(after=kept, join="private", delegate_keys=(other.public_key.hex(),))
    book.offer(left)
    recalled = a_book()
    recalled.offer(left)
    recalled.recall_revocations(signed)
    for one in (book, a_book(tmp_path), recalled):
        found = one.revocations(TEAM)
        assert found is not None
        assert (found.number, found.issued_ms, found.banned_peers) == (0, 0, (banned,))
        assert one.signed_revocations(TEAM) is None
        with pytest.raises(UntrustedError, match="not signed by a delegate"):
            one.offer_revocations(revocation_list(TEAM, 3, signer=DELEGATE))
        before = revocation_list(TEAM, 7, signer=other, issued_ms=FakeClock()() - 1)
        with pytest.raises(StaleError, match="older than the former"):
            one.offer_revocations(before)
        assert one.offer_revocations(revocation_list(TEAM, 1, signer=other))
        assert one.revocations(TEAM).banned_peers == ()
        assert one.signed_revocations(TEAM) is not None
    alone = OWNER.record(after=left, delegate_keys=())
    book.offer(alone)
    assert book.revocations(TEAM) is None


def test_a_policy_from_the_future_is_not_taken() -> None:
    book, clock = a_book(), FakeClock()
    with pytest.raises(P2PError, match="future"):
        book.offer(OWNER.record(issued_ms=clock() + 3_600_000, expires_ms=clock() + 7_200_000))


def test_in_whatever_order_records_come_the_last_one_is_in_force() -> None:
    giver, taker = PolicyOwner(20), PolicyOwner(21)
    records = [giver.record()]
    giver.replace_key()
    records.append(giver.record(after=records[-1]))
    records.append(giver.handed_over(records[-1], taker))
    taker.replace_key()
    records.append(taker.record(after=records[-1]))
    records.append(taker.record(after=records[-1], contact="x"))
    for order in itertools.permutations(records):
        book = a_book()
        for record in order:
            with contextlib.suppress(StaleError, UntrustedError):
                book.offer(record)
        assert book.get(giver.identity()).record == records[-1]
        assert not {"fork", "revocation_fork"} & {item.kind for item in book.evidence}
