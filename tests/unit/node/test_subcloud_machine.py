"""A node's memberships under anything that may happen, against an obvious reference."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.agent.runtime_port import ModelState
from node.agent.subcloud_offers import Place, check_global, check_subcloud_offer
from node.subclouds.membership_rules import OTHERS_JUDGE
from node.subclouds.wishes import Wish
from p2p.certificates import verify_chain
from p2p.errors import P2PError, RefusedError
from p2p.signing import open_signed
from p2p.subclouds.memberships import MembershipStatement, verify_memberships
from tests.fakes.member_desk import MemberDesk
from tests.fakes.trust import GATEWAY, NETWORK, NODE, OTHER_GATEWAY, gateway_chain

SOAK = os.environ.get("RESULTITY_SOAK") == "1"


class Memberships(RuleBasedStateMachine):
    """One subcloud whose owner, node, operator and time do as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.desk = MemberDesk(self.folder)
        self.consents = False
        self.left_ms = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @property
    def identity(self) -> Any:
        return self.desk.owner.identity

    # --- what happens -------------------------------------------------------------------------
    @precondition(lambda self: not (self.desk.owner.versions and self._ended()))
    @rule(
        join=st.sampled_from(["open", "open", "semi-open"]),
        isolate=st.booleans(),
        ended=st.sampled_from([False] * 9 + [True]),
        gateway=st.sampled_from([[], [GATEWAY.peer_id], [OTHER_GATEWAY.peer_id]]),
        cooldown_s=st.sampled_from([0, 60]),
        models=st.sampled_from([{}, {"names": [{"name": "another"}]}]),
    )
    def publish(self, gateway: list[str], **fields: Any) -> None:
        self.desk.publish(**fields, gateways={"peers": gateway})

    @precondition(lambda self: self.desk.owner.versions)
    @rule()
    def certify(self) -> None:
        signed = self.desk.owner.certify(NODE.peer_id, self.desk.clock())
        self.desk.manager.certificates[self.identity] = (signed,)

    @precondition(lambda self: self.desk.owner.versions)
    @rule(banned=st.sampled_from([False, False, True]))
    def list_revocations(self, banned: bool) -> None:
        owner = self.desk.owner
        owner.banned = {NODE.peer_id} if banned else set()
        try:
            self.desk.policies.offer_revocations(owner.revocation_list(self.desk.clock()))
        except P2PError:
            pass  # an ended subcloud takes none

    @rule(word=st.sampled_from(["join", "leave", "isolate", "no isolation"]))
    def say(self, word: str) -> None:
        wishes, name = self.desk.manager.wishes, self.identity
        match word:
            case "join":
                wishes = wishes.with_join(name, Wish())
            case "leave":
                wishes = wishes.with_left(name)
            case "isolate":
                wishes = wishes.with_isolate(name)
            case "no isolation":
                wishes = wishes.with_isolate("")
        self.desk.manager.wishes = wishes
        self.desk.manager.evaluate()

    @rule(active=st.booleans())
    def change_model(self, active: bool) -> None:
        self.desk.model.state = ModelState.ACTIVE if active else ModelState.FAILED
        self.desk.manager.evaluate()  # models tell when they change

    @rule(seconds=st.sampled_from([1, 59, 61, 700, 4000]))
    def wait(self, seconds: int) -> None:
        self.desk.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        wishes = self.desk.manager.wishes
        certificates = self.desk.manager.certificates
        self.desk.restart()
        self.desk.manager.wishes, self.desk.manager.certificates = wishes, certificates

    @rule()
    def evaluate(self) -> None:
        self.desk.manager.evaluate()

    def _ended(self) -> bool:
        return self.desk.owner.newest.policy.ended

    # --- what must hold ---------------------------------------------------------------------------
    @invariant()
    def no_offer_runs_that_the_policy_or_the_consent_forbids(self) -> None:
        desk, now_ms = self.desk, self.desk.clock()
        known = desk.policies.get(self.identity)
        if known is None:
            return
        gateway = verify_chain(gateway_chain(), NETWORK, GATEWAY.peer_id, now_ms)
        joined = desk.manager.joined(self.identity)
        place = Place(desk.manager.isolated, joined)
        offer = desk.subcloud_offer()
        current = desk.book.current
        try:
            check_subcloud_offer(
                offer, place, gateway=gateway, configuration=current, previous=None, now_ms=now_ms
            )
        except RefusedError:
            taken = False
        else:
            taken = True
        policy = known.policy
        alive = not policy.ended and policy.expires_ms > now_ms
        kept = desk.manager.kept.memberships.get(self.identity)
        if taken:
            assert alive
            assert kept is not None
            assert policy.admits_gateway(GATEWAY.peer_id, gateway.account_id)
            assert desk.model.state is ModelState.ACTIVE
            assert not policy.models.names
            assert self.identity not in desk.manager.names.left
            assert not policy.isolate or kept.membership.isolates
            assert policy.join == "open" or kept.membership.certificate is not None
        try:
            check_global(place)
        except RefusedError:
            assert kept is not None
            assert kept.membership.isolates
            assert policy.isolate
            assert alive

    @invariant()
    def the_statement_says_what_is_kept(self) -> None:
        desk = self.desk
        desk.manager.evaluate()
        signed = desk.manager.statement()
        if signed is None:
            assert not desk.manager.kept.memberships
            return
        verify_memberships(signed, NETWORK, desk.clock())
        statement = open_signed(signed, MembershipStatement, NETWORK)
        kept = desk.manager.kept.memberships
        assert statement.memberships == tuple(k.membership for k in kept.values())
        wishes = desk.manager.wishes
        if any(membership.isolates for membership in statement.memberships):
            assert wishes.isolate == self.identity
        if self.identity in wishes.left:
            assert statement.memberships == ()

    @invariant()
    def the_cooldown_is_kept(self) -> None:
        desk = self.desk
        left_ms = desk.manager.kept.left_ms.get(self.identity, 0)
        kept = desk.manager.kept.memberships.get(self.identity)
        known = desk.policies.get(self.identity)
        if kept is not None and left_ms and known is not None:
            # By the policy under which it joined again; a later one may be stricter.
            assert kept.membership.joined_ms >= left_ms

    @invariant()
    def a_plain_member_fails_only_what_others_judge(self) -> None:
        for finding in self.desk.manager.findings:
            assert not {verdict.criterion for verdict in finding.failed} & OTHERS_JUDGE


Memberships.TestCase.settings = settings(
    max_examples=2000 if SOAK else 40, stateful_step_count=25, deadline=None
)
TestMemberships = pytest.mark.timeout(1800)(Memberships.TestCase)
