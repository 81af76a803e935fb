"""Owns the policies that are in force at one peer: the newest of each subcloud, kept on disk.

Theory of operation. A record verifies by itself (`p2p.subclouds.records`); the book adds what only
memory can tell: that a version is older than one seen, that two differ (a fork), that the owner's
keys have changed since the proof in the record, that the subcloud was handed over since. Each
subcloud has one file, replaced as a whole before the new version is in force. Revocation lists are
opened against the delegates of the policy in force. Under a policy that drops the key that signed a
list members with certificates are refused until a delegate signs again, and what the list took back
stays taken back. What is refused is kept as evidence (`p2p.subclouds.policy_evidence`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2p.account_proof import ProvenAccount, prove_account
from p2p.clock import Clock, system_clock_ms
from p2p.codec import decode_message, decode_messages, encode_message, encode_messages
from p2p.errors import (
    ForkError,
    MalformedError,
    P2PError,
    RefusedError,
    StaleError,
    UntrustedError,
)
from p2p.files import write_atomically
from p2p.limits import (
    CLOCK_SKEW_MS_MAX,
    POLICIES_BYTES_MAX,
    POLICY_GRACE_S,
    SUBCLOUDS_KNOWN_MAX,
    SUBCLOUDS_PER_OWNER_MAX,
)
from p2p.signing import Signed
from p2p.subclouds.identity import SubcloudId, parse_subcloud_id
from p2p.subclouds.memberships import RevocationList, keep_revocation_list, open_revocation_list
from p2p.subclouds.policy import Handover, check_successor, open_policy
from p2p.subclouds.policy_evidence import (
    FOREIGN,
    FORK,
    OLDER,
    REVOCATION_FORK,
    EvidenceShelf,
    PolicyEvidence,
)
from p2p.subclouds.records import KnownPolicy, PolicyRecord, verify_record
from p2p.types import AccountId, NetworkId

log = logging.getLogger(__name__)
FORGET_AFTER_MS = 30 * 86_400_000
"""A policy that ended so long ago makes room for others when the book is full."""


@dataclass(slots=True)
class _Entry:
    known: KnownPolicy
    size_bytes: int
    previous: KnownPolicy | None = None
    replaced_ms: int = 0
    revocations: RevocationList | None = None
    revocations_signed: Signed | None = None
    former_ms: int = 0
    """When the list was signed, if it is a former delegate's: an older one does not replace it."""

    def keep(self, signed: Signed) -> None:
        self.revocations, self.former_ms = keep_revocation_list(signed, self.known.policy)
        self.revocations_signed = signed


class PolicyBook:
    """The newest valid policy and revocation list of each subcloud; refuses everything else."""

    def __init__(
        self,
        network: NetworkId,
        folder: Path | None = None,
        *,
        clock_ms: Clock = system_clock_ms,
        subclouds_max: int = SUBCLOUDS_KNOWN_MAX,
    ) -> None:
        """Start empty, or with what `folder` holds (a damaged file is set aside and said)."""
        self.network = network
        self._folder = folder
        self._clock_ms = clock_ms
        self._subclouds_max = subclouds_max
        self._entries: dict[SubcloudId, _Entry] = {}
        self._owned: Counter[AccountId] = Counter()
        self._accounts: dict[AccountId, ProvenAccount] = {}
        self._size_bytes = 0
        self._listeners: list[Callable[[SubcloudId], None]] = []
        self._shelf = EvidenceShelf(folder / "evidence" if folder is not None else None)
        if folder is not None and folder.is_dir():
            for path in sorted(folder.glob("*.msgpack")):
                self._load(path)

    # --- questions --------------------------------------------------------------------------------
    def get(self, identity: SubcloudId) -> KnownPolicy | None:
        """The policy in force (it may have ended or expired: that is for who uses it)."""
        entry = self._entries.get(identity)
        return entry.known if entry is not None else None

    def previous(self, identity: SubcloudId, now_ms: int) -> KnownPolicy | None:
        """The version before, for a grace of POLICY_GRACE_S after it was replaced here."""
        entry = self._entries.get(identity)
        if entry is None or entry.previous is None:
            return None
        within = now_ms - entry.replaced_ms < POLICY_GRACE_S * 1000
        return entry.previous if within else None

    def all(self) -> tuple[KnownPolicy, ...]:
        """The policies in force."""
        return tuple(entry.known for entry in self._entries.values())

    def revocations(self, identity: SubcloudId) -> RevocationList | None:
        """The newest revocation list; its age is for the caller to judge."""
        entry = self._entries.get(identity)
        return entry.revocations if entry is not None else None

    def signed_revocations(self, identity: SubcloudId) -> Signed | None:
        """The newest revocation list as a delegate signed it, to hand on."""
        entry = self._entries.get(identity)
        return entry.revocations_signed if entry is not None and not entry.former_ms else None

    @property
    def evidence(self) -> tuple[PolicyEvidence, ...]:
        """What was refused and kept, oldest first."""
        return self._shelf.all()

    def __len__(self) -> int:
        """How many subclouds are known."""
        return len(self._entries)

    def on_change(self, listener: Callable[[SubcloudId], None]) -> None:
        """Call `listener` with each subcloud whose policy or revocation list changes from now."""
        self._listeners.append(listener)

    # --- offers -----------------------------------------------------------------------------------
    def offer(self, record: PolicyRecord, source: str = "") -> bool:
        """Take a policy if it is valid and newer; it is on disk before it is in force.

        The version in force, signed anew under a longer proof of the owner's keys, replaces the
        record without being a change. `source`: the peer it comes from, for the evidence.
        Returns: whether the book has something now that it had not.
        Raises: as `examine`.
        """
        known = self.examine(record, source)
        if known is None:
            return False
        self._put(known, self._entries.get(known.identity))
        return True

    def examine(self, record: PolicyRecord, source: str = "") -> KnownPolicy | None:
        """Judge a policy without taking it: what `offer` would take, or None.

        Raises: UntrustedError (ForkError, StaleError; evidence is kept), MalformedError,
            RefusedError `too_many_subclouds`.
        """
        try:
            known = verify_record(record, self.network)
        except UntrustedError:
            self._keep_foreign(record, source)
            raise
        if known.policy.issued_ms > self._clock_ms() + CLOCK_SKEW_MS_MAX:
            raise StaleError("a policy from the future: check the clocks")
        entry = self._entries.get(known.identity)
        if entry is not None and entry.known.record == record:
            return None
        try:
            changed = self._judge(known, entry)
        except UntrustedError as error:
            self._keep_record(_kind_of(error), known.identity, record, source)
            raise
        if not changed and (entry is None or known.owner.length <= entry.known.owner.length):
            return None
        return known

    def offer_revocations(self, signed: Signed, source: str = "") -> bool:
        """Take a revocation list if a delegate signed it and its number is higher.

        Returns: whether it is new. Raises: as `examine_revocations`.
        """
        revocations = self.examine_revocations(signed, source)
        if revocations is None:
            return False
        entry = self._entries[revocations.subcloud_id]
        self._store(entry.known, signed)
        entry.revocations, entry.revocations_signed, entry.former_ms = revocations, signed, 0
        self._tell(revocations.subcloud_id)
        return True

    def recall_revocations(self, signed: Signed) -> None:
        """Take a list from our own store, also a former delegate's. Raises: as `offer_...`."""
        entry = self._entries.get(decode_message(signed.body, RevocationList).subcloud_id)
        if entry is None or signed.signer in entry.known.policy.delegate_public_keys:
            self.offer_revocations(signed, "our own store")
        elif entry.former_ms or entry.revocations_signed is None:
            entry.keep(signed)

    def examine_revocations(self, signed: Signed, source: str = "") -> RevocationList | None:
        """Judge a revocation list without taking it: what `offer_revocations` would take, or None.

        Raises: RefusedError `unknown_subcloud`, UntrustedError (ForkError: evidence is kept,
            StaleError), MalformedError.
        """
        claimed = decode_message(signed.body, RevocationList)
        entry = self._entries.get(claimed.subcloud_id)
        if entry is None:
            raise RefusedError("unknown_subcloud", "a revocation list of a subcloud unknown here")
        if entry.revocations_signed == signed:
            return None
        revocations = open_revocation_list(signed, entry.known.policy)
        if revocations.issued_ms > self._clock_ms() + CLOCK_SKEW_MS_MAX:
            raise StaleError("a revocation list from the future: check the clocks")
        if revocations.issued_ms < entry.former_ms:
            raise StaleError("a revocation list that is older than the former delegate's")
        present = entry.revocations
        if present is not None and revocations.number == present.number:
            if revocations == present:
                return None
            now_ms, known = self._clock_ms(), entry.revocations_signed
            fork = (REVOCATION_FORK, claimed.subcloud_id, now_ms, signed, known, source)
            self.keep(PolicyEvidence(*fork))
            raise ForkError(f"two revocation lists with number {present.number}")
        if present is not None and revocations.number < present.number:
            raise StaleError(f"revocation list {revocations.number}; {present.number} is known")
        return revocations

    # --- rules ------------------------------------------------------------------------------------
    def _judge(self, known: KnownPolicy, entry: _Entry | None) -> bool:
        """Tell whether a verified record is a new version. Raises: as `offer`."""
        if entry is not None and known.digest == entry.known.digest:
            return False  # nothing in it is new but, perhaps, the proof of its owner's keys
        account = self._accounts.get(known.owner.account_id)
        if (
            account is not None
            and known.owner.length <= account.length
            and known.record.policy.signer not in account.signing_keys
        ):
            raise UntrustedError("this policy is signed by a key that the account has no more")
        if entry is None:
            self._check_room(known)
            return True
        present = entry.known
        self._check_handovers(present, known)
        same_owner = present.owner.account_id == known.owner.account_id
        if same_owner and known.owner.length < present.owner.length:
            raise StaleError("the proof of the owner's keys is older than the one known here")
        return check_successor(present.policy, present.digest, known.policy, known.digest)

    def _check_handovers(self, present: KnownPolicy, proposed: KnownPolicy) -> None:
        """Refuse a record that forgets, or contradicts, handovers that are known.

        Raises: StaleError (a handover is missing), ForkError (another one in its place),
            UntrustedError (a new one by a key that its account has no more).
        """
        known, offered = present.record.handovers, proposed.record.handovers
        if len(offered) < len(known):
            raise StaleError("the subcloud was handed over since this policy was signed")
        for one, other in zip(known, offered, strict=False):
            if decode_message(one.body, Handover) != decode_message(other.body, Handover):
                raise ForkError("the subcloud was handed to two accounts")
        if len(offered) == len(known):
            return
        proven = (
            prove_account(a.founding, a.changes, self.network) for a in proposed.record.accounts
        )
        lengths = {account.account_id: account.length for account in proven}
        for new in offered[len(known) :]:
            giver = self._accounts.get(decode_message(new.body, Handover).giver)
            if giver is None or lengths[giver.account_id] > giver.length:
                continue
            if new.signer not in giver.signing_keys:
                raise UntrustedError("a handover signed by a key that the account has no more")

    def _check_room(self, known: KnownPolicy) -> None:
        if self._owned[known.owner.account_id] >= SUBCLOUDS_PER_OWNER_MAX:
            raise RefusedError(
                "too_many_subclouds", f"an account has at most {SUBCLOUDS_PER_OWNER_MAX} subclouds"
            )
        if len(self._entries) >= self._subclouds_max or self._size_bytes > POLICIES_BYTES_MAX:
            self._forget_old()
            if len(self._entries) >= self._subclouds_max or self._size_bytes > POLICIES_BYTES_MAX:
                raise RefusedError("too_many_subclouds", "no more subclouds fit in here")

    def _forget_old(self) -> None:
        oldest_ms = self._clock_ms() - FORGET_AFTER_MS
        for identity, entry in list(self._entries.items()):
            if entry.known.policy.expires_ms < oldest_ms:
                self._size_bytes -= entry.size_bytes
                self._owned[entry.known.owner.account_id] -= 1
                del self._entries[identity]
                if self._folder is not None:
                    self._path(identity).unlink(missing_ok=True)

    # --- keeping ----------------------------------------------------------------------------------
    def _put(self, known: KnownPolicy, entry: _Entry | None) -> None:
        changed = entry is None or entry.known.digest != known.digest
        signed = entry.revocations_signed if entry is not None else None
        self._store(known, signed)
        new = self._install(known, signed)
        if entry is not None and changed:
            new.previous, new.replaced_ms = entry.known, self._clock_ms()
        elif entry is not None:
            new.previous, new.replaced_ms = entry.previous, entry.replaced_ms
        if changed:
            log.info("policy %d of %s is in force", known.policy.version, known.identity)
            self._tell(known.identity)

    def _install(self, known: KnownPolicy, signed: Signed | None) -> _Entry:
        old = self._entries.get(known.identity)
        if old is not None:
            self._size_bytes -= old.size_bytes
            self._owned[old.known.owner.account_id] -= 1
        size_bytes = len(encode_message(known.record))
        entry = _Entry(known, size_bytes)
        if signed is not None:
            entry.keep(signed)
        self._entries[known.identity] = entry
        self._size_bytes += size_bytes
        owner = known.owner
        self._owned[owner.account_id] += 1
        longest = self._accounts.get(owner.account_id)
        if longest is None or owner.length > longest.length:
            self._accounts[owner.account_id] = owner
        return entry

    def _path(self, identity: SubcloudId) -> Path:
        assert self._folder is not None
        return self._folder / f"{identity}.msgpack"

    def _store(self, known: KnownPolicy, revocations: Signed | None) -> None:
        if self._folder is None:
            return
        items = [known.record] if revocations is None else [known.record, revocations]
        # What was never known here is no more missed than before if the machine goes down: a peer
        # that comes late to a thousand subclouds does not wait for the disk a thousand times.
        durable = known.identity in self._entries
        write_atomically(self._path(known.identity), encode_messages(items), durable=durable)

    def _load(self, path: Path) -> None:
        try:
            identity = parse_subcloud_id(path.stem)
            record, *rest = decode_messages(path.read_bytes())
            if not isinstance(record, PolicyRecord):
                raise MalformedError("it does not hold a policy")
            known = verify_record(record, self.network)
            if known.identity != identity:
                raise UntrustedError("it holds the policy of another subcloud")
            signed = rest[0] if rest and isinstance(rest[0], Signed) else None
            self._install(known, signed)
        except (P2PError, OSError) as error:
            log.error("%s is set aside, it will be fetched again: %s", path, error)
            path.rename(path.with_suffix(".damaged"))

    def _tell(self, identity: SubcloudId) -> None:
        for listener in self._listeners:
            listener(identity)

    def _keep_foreign(self, record: PolicyRecord, source: str) -> None:
        try:
            policy = open_policy(record.policy, self.network)
        except P2PError:
            return  # nothing that anybody signed: it proves nothing
        self._keep_record(FOREIGN, policy.identity, record, source)

    def _keep_record(
        self, kind: str, identity: SubcloudId, record: PolicyRecord, source: str
    ) -> None:
        entry = self._entries.get(identity)
        known = entry.known.record.policy if entry is not None else None
        self.keep(
            PolicyEvidence(
                kind,
                identity,
                self._clock_ms(),
                record.policy,
                known,
                source,
                record.handovers,
                record.accounts,
            )
        )

    def keep(self, item: PolicyEvidence) -> None:
        """Keep evidence of what was refused here for other reasons, too."""
        if self._shelf.keep(item):
            source = item.source or "ourselves"
            log.warning("%s: evidence kept (%s), from %s", item.subcloud_id, item.kind, source)


def _kind_of(error: UntrustedError) -> str:
    if isinstance(error, ForkError):
        return FORK
    return OLDER if isinstance(error, StaleError) else FOREIGN
