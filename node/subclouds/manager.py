"""Owns a node's memberships while it runs: what it is a member of, and its signed statement.

Theory of operation. `evaluate` puts together what the operator wants, what the policies say and
what the node is, lets the rules decide (`membership_rules`), writes the outcome to disk and only
then puts it into force: offers are judged by it from that moment, and the statement that says so is
signed. It is cheap and runs whenever something may have changed; an offer that finds its subcloud's
policy newer than the last evaluation, or its time over, has it run first. `node.subclouds.service`
runs it on time and talks to the network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import trio

from node.agent.runtime_port import Served
from node.agent.subcloud_offers import Joined
from node.subclouds.candidates import Names, Surroundings, candidates_of, names_of
from node.subclouds.kept import MembershipFile
from node.subclouds.membership_changes import changes_between
from node.subclouds.membership_rules import Finding, Kept, decide
from node.subclouds.own_facts import offered_adverts, own_facts
from node.subclouds.settings import SubcloudSettings
from node.subclouds.wishes import Wishes
from p2p.approved_models import ApprovedModel
from p2p.clock import Clock
from p2p.configuration_book import ConfigurationBook
from p2p.hardware import Hardware
from p2p.limits import MEMBERSHIP_INTERVAL_S, MEMBERSHIP_LIFETIME_S, MODELS_PER_NODE_MAX
from p2p.membership import Membership as Standing
from p2p.signing import Signed
from p2p.subclouds.creation import subcloud_refusal
from p2p.subclouds.evaluation import NEVER_MS
from p2p.subclouds.evidence_documents import KnownAttestation
from p2p.subclouds.evidence_messages import DeclaredSpeed
from p2p.subclouds.facts import NodeFacts
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.membership_standing import SubcloudState, isolates_now
from p2p.subclouds.memberships import MembershipStatement, RevocationList
from p2p.subclouds.records import KnownPolicy
from p2p.types import AccountId, PeerId

log = logging.getLogger(__name__)


class Policies(Protocol):
    """What the manager needs of a `PolicyBook`."""

    def get(self, identity: SubcloudId) -> KnownPolicy | None:
        """The policy in force."""
        ...

    def previous(self, identity: SubcloudId, now_ms: int) -> KnownPolicy | None:
        """The version before, while its grace lasts."""
        ...

    def revocations(self, identity: SubcloudId) -> RevocationList | None:
        """The newest revocation list."""
        ...


@dataclass(frozen=True, slots=True)
class Declarations:
    """What the operator declares: country (ISO 3166-1 alpha-2, or empty), promise about content."""

    country: str = ""
    stores_no_content: bool = False


class SubcloudManager:
    """The memberships of one node (`node.agent.subcloud_port.Memberships`)."""

    def __init__(
        self,
        standing: Standing,
        configuration: ConfigurationBook,
        policies: Policies,
        file: MembershipFile,
        settings: SubcloudSettings,
        declarations: Declarations,
        *,
        clock_ms: Clock,
    ) -> None:
        """Go on with what `file` holds. Raises: MalformedError, OSError (the file)."""
        self.settings = settings
        self.wishes = Wishes()
        self.registered: dict[SubcloudId, str] = {}
        """The registry's labels, as far as patterns need them."""
        self.certificates: dict[SubcloudId, tuple[Signed, ...]] = {}
        self.denied_ms: dict[SubcloudId, int] = {}
        self.models: Callable[[], Iterable[Served]] = tuple
        self.hardware: Callable[[], Hardware | None] = lambda: None
        self.evidence: Callable[[], tuple[Signed, ...]] = tuple
        self.attestations: Callable[[], tuple[KnownAttestation, ...]] = tuple
        self.wanted: set[str] = set()
        """Subclouds whose newest policy offers asked for."""
        self.names = Names()
        self.findings: tuple[Finding, ...] = ()
        self._standing = standing
        self._configuration = configuration
        self._policies = policies
        self._file = file
        self._declarations = declarations
        self._clock_ms = clock_ms
        self.kept = file.load()
        self._by_id: dict[SubcloudId, Finding] = {}
        self._digests: dict[SubcloudId, str] = {}
        """The policies (their digests) by which the findings were made."""
        self._own: dict[bytes, ApprovedModel] = {}
        self._until_ms = 0
        self._sequence = 0
        self._signed: Signed | None = None
        self.content: object = None
        """What the newest statement says, but for its times."""
        self._signed_ms = 0
        self.statement_change = trio.Event()
        self._changed = trio.Event()

    # --- the agent's port -------------------------------------------------------------------------
    @property
    def isolated(self) -> str:
        """The subcloud for which this node left the global pool, or empty."""
        for identity, kept in self.kept.memberships.items():
            if not kept.membership.isolates:
                continue
            state = self._state_of(identity)
            # It consented: while the policy is not known, it has left.
            if state is None or isolates_now(state, self._clock_ms()):
                return identity
        return ""

    def joined(self, subcloud_id: str) -> Joined | None:
        """The membership of a subcloud as offers are judged by it."""
        identity = SubcloudId(subcloud_id)
        if identity not in self.kept.memberships:
            return None
        known, now_ms = self._policies.get(identity), self._clock_ms()
        finding = self._by_id.get(identity)
        if known is None:
            return None
        if self._digests.get(identity) != known.digest or self._until_ms <= now_ms:
            self.evaluate()
            finding = self._by_id.get(identity)
        if finding is None or finding.kept is None:
            return None
        previous = self._policies.previous(identity, now_ms)
        return Joined(
            known.policy,
            known.digest,
            previous.policy if previous is not None else None,
            previous.digest if previous is not None else "",
            finding.reason,
            finding.models,
            finding.slots_max,
        )

    def policy_wanted(self, subcloud_id: str) -> None:
        """An offer names a version of a policy that is not known here."""
        if subcloud_id not in self.wanted:
            self.wanted.add(subcloud_id)
            self.changed()

    def own_model(self, digest: bytes) -> ApprovedModel | None:
        """A model that a policy approves by itself: of a membership, or of what is to be joined."""
        return self._own.get(digest)

    def admits_gateway(self, peer_id: PeerId, account_id: AccountId) -> bool:
        """Whether the policy of some membership admits a gateway."""
        found = (self._policies.get(identity) for identity in self.kept.memberships)
        policies = (known.policy for known in found if known is not None)
        return any(policy.admits_gateway(peer_id, account_id) for policy in policies)

    def statement(self) -> Signed | None:
        """The newest statement, or None while there is nothing to say."""
        return self._signed

    # --- what the service does --------------------------------------------------------------------
    @property
    def change(self) -> trio.Event:
        """Set when something may be different (take it before `evaluate`)."""
        return self._changed

    def changed(self) -> None:
        """Evaluate soon."""
        self._changed.set()
        self._changed = trio.Event()

    @property
    def until_ms(self) -> int:
        """When time alone may change something."""
        return self._until_ms

    @property
    def interests(self) -> frozenset[SubcloudId]:
        """The subclouds whose policies matter here."""
        names = self.names
        return frozenset(names.named | names.matched | names.left | self.kept.memberships.keys())

    def evaluate(self) -> None:
        """Judge everything now, put it into force, and sign a statement if there is news."""
        if not self._configuration.known:
            return
        now_ms = self._clock_ms()
        self.find_own_models()
        around = Surroundings(
            self._state_of, self._closed, self.certificates, self.denied_ms, self.attestations()
        )
        candidates = candidates_of(self.names, self.kept, around)
        findings = decide(candidates, self._facts(now_ms), now_ms) if candidates else ()
        if self._adopt(findings, now_ms):
            self.findings = findings
            self._by_id = {finding.identity: finding for finding in findings}
            self._digests = {
                c.identity: c.state.known.digest for c in candidates if c.state is not None
            }
        self._until_ms = min((f.until_ms for f in findings), default=NEVER_MS)
        self.find_own_models()
        self._sign_if_due(now_ms)

    def _adopt(self, findings: tuple[Finding, ...], now_ms: int) -> bool:
        """Put a decision into force once it is on disk; False if it could not be written."""
        before, spoke = self.kept.memberships, self.kept.spoke
        after: dict[SubcloudId, Kept] = {f.identity: f.kept for f in findings if f.kept}
        changes = changes_between(before, findings)
        old_left = dict(self.kept.left_ms)
        self.kept.memberships = after
        self.kept.spoke = self.kept.spoke or bool(after)
        for change in changes:
            if change.what == "left":
                self.kept.left_ms[change.identity] = now_ms
        try:
            if changes or before != after:
                self._file.save(self.kept)
        except OSError as error:
            log.error("memberships cannot be written, they stay as they were: %s", error)
            self.kept.memberships, self.kept.left_ms = before, old_left
            self.kept.spoke = spoke
            self._by_id = {}  # until it can be written, no offer is taken by it
            return False
        for change in changes:
            reason = f": {change.reason}" if change.reason else ""
            log.info("subcloud %s: %s%s", change.identity, change.what, reason)
        self._file.note(changes, now_ms)
        return True

    def unresolved(self) -> frozenset[str]:
        """Labels that the operator named and that lead nowhere yet."""
        names = names_of(self.settings, self.wishes, self.kept.labels, self.registered)
        return frozenset(names.unresolved)

    def remember_label(self, label: str, identity: SubcloudId) -> None:
        """Keep what a label that the operator gave leads to. Raises: OSError."""
        if self.kept.labels.get(label) != identity:
            self.kept.labels[label] = identity
            self._file.save(self.kept)

    # --- inside -----------------------------------------------------------------------------------
    def _state_of(self, identity: SubcloudId) -> SubcloudState | None:
        known = self._policies.get(identity)
        if known is None:
            return None
        # What the node agrees to is always the version in force: it needs no predecessor.
        return SubcloudState(
            known,
            revocations=self._policies.revocations(identity),
            banned=bool(self._closed(identity)),
        )

    def _closed(self, identity: SubcloudId) -> str:
        if not self._configuration.known:
            return ""
        return subcloud_refusal(self._configuration.current.subclouds, identity)

    def _facts(self, now_ms: int) -> NodeFacts:
        return own_facts(
            self._standing,
            offered_adverts(self.models()),
            self._configuration.current,
            self.hardware(),
            country=self._declarations.country,
            stores_no_content=self._declarations.stores_no_content,
            now_ms=now_ms,
        )

    def find_own_models(self) -> None:
        """Look for models that policies approve by themselves: here, or where it wants to be."""
        found: dict[bytes, ApprovedModel] = {}
        names = names_of(self.settings, self.wishes, self.kept.labels, self.registered)
        self.names = names
        for identity in sorted(names.named | names.matched | self.kept.memberships.keys()):
            if identity in names.left:
                continue
            known = self._policies.get(identity)
            if known is not None and not known.policy.ended and not self._closed(identity):
                for model in known.policy.models.own:
                    found.setdefault(bytes.fromhex(model.digest), model)
        self._own = found

    def _sign_if_due(self, now_ms: int) -> None:
        declared, chain = self._declarations, self._standing.chain
        memberships = tuple(kept.membership for _, kept in sorted(self.kept.memberships.items()))
        evidence = self.evidence()
        something = memberships or evidence or declared.country or declared.stores_no_content
        if not chain or not (something or self.kept.spoke):
            return
        content = (chain, memberships, evidence)
        age_ms = now_ms - self._signed_ms
        fresh = 0 <= age_ms < int(MEMBERSHIP_INTERVAL_S * 1000)  # the clock may be set back
        if fresh and content == self.content:
            return
        # Time-based and monotone: a restarted node goes on above its old sequence numbers.
        self._sequence = max(self._sequence + 1, now_ms)
        document = MembershipStatement(
            peer_id=self._standing.key_pair.peer_id,
            sequence=self._sequence,
            issued_ms=now_ms,
            expires_ms=now_ms + int(MEMBERSHIP_LIFETIME_S * 1000),
            chain=chain,
            memberships=memberships,
            country=declared.country,
            stores_no_content=declared.stores_no_content,
            evidence=evidence,
            speeds=self._speeds(),
        )
        self._signed = self._standing.key_pair.sign(self._standing.network, document)
        self.content, self._signed_ms = content, now_ms
        self.statement_change.set()
        self.statement_change = trio.Event()

    def _speeds(self) -> tuple[DeclaredSpeed, ...]:
        measured = ((model.facts.digest, model.pace.output_each) for model in self.models())
        found = (DeclaredSpeed(digest, speed) for digest, speed in measured if speed > 0)
        return tuple(found)[:MODELS_PER_NODE_MAX]
