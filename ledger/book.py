"""Owns the part of the ledger that one group of operations works on, in memory. Pure.

The store fills a book with every record that the group needs, the rules decide one operation after
the other against it, and the store writes what is new or changed. An operation that breaks a rule
raises before anything in the book is touched, so that it alone fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ledger.claims import ClaimEntry
from ledger.conduct import ConductCount, ConductKey
from ledger.disputes import DisputeBook
from ledger.exposure import GatewayExposure, moved
from ledger.log.batch import LogBatch
from ledger.operations import FreezeEpoch, KeepUptime
from ledger.records import (
    Account,
    ApiKeyEntry,
    Binding,
    Change,
    GrantEntry,
    Hold,
    HoldEnd,
    InviteUse,
    KeyUsage,
    LeaseUse,
    Namespace,
    NodeInviteUse,
    PastTransfer,
    ReferralEntry,
    SignedRecord,
    TokenUse,
    Transfer,
)
from ledger.stakes import OpenStake
from ledger.usage import Counts, UsageKey, WorkKey, add_usage, add_work
from p2p.types import PeerId


@dataclass(slots=True)
class Book:
    """Records by their IDs, and which of them are new or changed (new ones are in both sets).

    `minted`: what each mint key granted in the current epoch. `past`: transfers by ID. A hold
    without an entry in `ends` is open. `leases`: the use of the holds that are leases. `referrals`:
    who referred an account, up to the root; `invite_uses`, `node_invite_uses`: how many accounts or
    nodes came by an invite. `claims`: on each hold or lease, by the job's hold and the attempt.
    """

    accounts: dict[str, Account] = field(default_factory=dict)
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    keys: dict[str, ApiKeyEntry] = field(default_factory=dict)
    usage: dict[str, KeyUsage] = field(default_factory=dict)
    holds: dict[bytes, Hold] = field(default_factory=dict)
    ends: dict[bytes, HoldEnd] = field(default_factory=dict)
    leases: dict[bytes, LeaseUse] = field(default_factory=dict)
    bindings: dict[str, Binding] = field(default_factory=dict)
    minted: dict[bytes, int] = field(default_factory=dict)
    past: dict[bytes, PastTransfer] = field(default_factory=dict)
    referrals: dict[str, str] = field(default_factory=dict)
    invite_uses: dict[bytes, int] = field(default_factory=dict)
    node_invite_uses: dict[bytes, int] = field(default_factory=dict)
    numbers: dict[bytes, int] = field(default_factory=dict)
    """The row numbers that transfers keep, by ID, where a mirror writes them (else: empty)."""
    log_size: int = 0
    log_pending: set[bytes] = field(default_factory=set)
    disputes: DisputeBook = field(default_factory=DisputeBook)
    claims: dict[bytes, dict[tuple[bytes, int], ClaimEntry]] = field(default_factory=dict)
    exposures: dict[PeerId, GatewayExposure] = field(default_factory=dict)
    token_uses: dict[str, TokenUse] = field(default_factory=dict)
    stakes: dict[str, OpenStake] = field(default_factory=dict)
    """By subcloud; one that was given back has the amount 0."""
    published: set[str] = field(default_factory=set)
    """Subclouds whose stake is asked back and that the database has a policy of."""

    conduct: dict[ConductKey, ConductCount] = field(default_factory=dict)
    consumed: dict[UsageKey, Counts] = field(default_factory=dict)
    worked: dict[WorkKey, tuple[int, int]] = field(default_factory=dict)
    frozen_day: int | None = None
    new_uptime: list[KeepUptime] = field(default_factory=list)
    new_epochs: list[FreezeEpoch] = field(default_factory=list)
    new_log_batches: list[LogBatch] = field(default_factory=list)
    new_transfers: list[Transfer] = field(default_factory=list)
    new_holds: list[Hold] = field(default_factory=list)
    new_ends: list[HoldEnd] = field(default_factory=list)
    new_grants: list[GrantEntry] = field(default_factory=list)
    new_records: list[SignedRecord] = field(default_factory=list)
    new_referrals: list[ReferralEntry] = field(default_factory=list)
    new_invite_uses: list[InviteUse] = field(default_factory=list)
    new_node_invite_uses: list[NodeInviteUse] = field(default_factory=list)
    new_accounts: set[str] = field(default_factory=set)
    new_namespaces: set[str] = field(default_factory=set)
    new_keys: set[str] = field(default_factory=set)
    new_bindings: set[str] = field(default_factory=set)
    changed_accounts: set[str] = field(default_factory=set)
    changed_account_keys: dict[str, int] = field(default_factory=dict)
    changed_namespaces: set[str] = field(default_factory=set)
    changed_keys: set[str] = field(default_factory=set)
    changed_usage: set[str] = field(default_factory=set)
    changed_bindings: set[str] = field(default_factory=set)
    changed_leases: set[bytes] = field(default_factory=set)
    changed_claims: dict[tuple[bytes, int], ClaimEntry] = field(default_factory=dict)
    changed_exposures: set[PeerId] = field(default_factory=set)
    changed_token_uses: set[str] = field(default_factory=set)
    locked_tokens: set[str] = field(default_factory=set)
    """Tokens that have a row in the database only so that it could be locked."""

    def apply(self, change: Change) -> None:
        """Take over what an operation did."""
        transfer, namespace = change.transfer, change.namespace
        if transfer is not None:
            assert sum([entry.amount for entry in transfer.entries]) == 0
            assert transfer.transfer_id not in self.past
            self.past[transfer.transfer_id] = PastTransfer(transfer.content, transfer.result)
            self.new_transfers.append(transfer)
        if namespace is not None:
            assert namespace.available >= 0
            assert namespace.held >= 0
            if namespace.path not in self.namespaces:
                self.new_namespaces.add(namespace.path)
            self.namespaces[namespace.path] = namespace
            self.changed_namespaces.add(namespace.path)
        if change.usage is not None:
            self.usage[change.usage.key_id] = change.usage
            self.changed_usage.add(change.usage.key_id)
        if change.hold is not None:
            self.holds[change.hold.hold_id] = change.hold
            self.new_holds.append(change.hold)
        if change.token_use is not None:
            self.token_uses[change.token_use.name] = change.token_use
            self.changed_token_uses.add(change.token_use.name)
        if change.end is not None:
            assert change.end.hold_id not in self.ends
            self.ends[change.end.hold_id] = change.end
            self.new_ends.append(change.end)
        if transfer is not None and transfer.hold_id in self.holds:
            self._move_exposure(transfer)
        for claim in change.claims:
            key = (claim.hold_id, claim.attempt)
            self.claims.setdefault(claim.payer_id, {})[key] = claim
            self.changed_claims[key] = claim
        if change.lease is not None:
            self.leases[change.lease.hold_id] = change.lease
            self.changed_leases.add(change.lease.hold_id)
        if change.consumed is not None:
            add_usage(self.consumed, change.consumed)
            add_work(self.worked, change.worked)
        if change.hold is None and change.end is None:
            self._apply_rare(change)

    def _move_exposure(self, transfer: Transfer) -> None:
        assert transfer.hold_id is not None
        gateway_id = self.holds[transfer.hold_id].gateway_id
        before = self.exposure_of(gateway_id)
        after = moved(before, transfer)
        if after is not before:
            self.exposures[gateway_id] = after
            self.changed_exposures.add(gateway_id)

    def exposure_of(self, gateway_id: PeerId) -> GatewayExposure:
        """Give a gateway's exposure; one that never held anything has none."""
        return self.exposures.get(gateway_id) or GatewayExposure(gateway_id)

    def _apply_rare(self, change: Change) -> None:
        if change.log_batch is not None:
            self.log_size = change.log_batch.size
            self.log_pending.difference_update(change.log_batch.sources)
            self.new_log_batches.append(change.log_batch)
        if change.record is not None:
            self.new_records.append(change.record)
        if change.referral is not None:
            self.referrals[change.referral.account_id] = change.referral.referrer
            self.new_referrals.append(change.referral)
        if change.invite_use is not None:
            invite_id = change.invite_use.invite_id
            self.invite_uses[invite_id] = self.invite_uses.get(invite_id, 0) + 1
            self.new_invite_uses.append(change.invite_use)
        if change.node_invite_use is not None:
            invite_id = change.node_invite_use.invite_id
            self.node_invite_uses[invite_id] = self.node_invite_uses.get(invite_id, 0) + 1
            self.new_node_invite_uses.append(change.node_invite_use)
        if change.dispute is not None:
            self.disputes.apply(change.dispute)
        if change.uptime is not None:
            self.new_uptime.append(change.uptime)
        if change.epoch is not None:
            self.frozen_day = change.epoch.last_day
            self.new_epochs.append(change.epoch)
        if change.account is not None:
            before = self.accounts.get(change.account.account_id)
            if before is not None and before.key_changes != change.account.key_changes:
                assert change.record is not None
                self.changed_account_keys[before.account_id] = change.record.at_ms
            if change.account.account_id not in self.accounts:
                self.new_accounts.add(change.account.account_id)
            self.accounts[change.account.account_id] = change.account
            self.changed_accounts.add(change.account.account_id)
        if change.key is not None:
            if change.key.key_id not in self.keys:
                self.new_keys.add(change.key.key_id)
                self.usage[change.key.key_id] = KeyUsage(change.key.key_id, 0, 0)
            self.keys[change.key.key_id] = change.key
            self.changed_keys.add(change.key.key_id)
        if change.grant is not None:
            grant = change.grant
            self.minted[grant.mint_key] = self.minted.get(grant.mint_key, 0) + grant.amount
            self.new_grants.append(grant)
        if change.stake is not None:
            self.stakes[change.stake.subcloud_id] = change.stake
        if change.binding is not None:
            if change.binding.peer_id not in self.bindings:
                self.new_bindings.add(change.binding.peer_id)
            self.bindings[change.binding.peer_id] = change.binding
            self.changed_bindings.add(change.binding.peer_id)
