"""A node's agent with memberships, one gateway's session, and an owner who publishes policies."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from node.subclouds.kept import MembershipFile
from node.subclouds.manager import Declarations, SubcloudManager
from node.subclouds.settings import SubcloudSettings
from p2p.job_messages import Offer
from p2p.prices import charge
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.records import KnownPolicy
from p2p.subclouds.terms import model_of_digest, subcloud_terms
from tests.fakes.job_desk import Desk
from tests.fakes.subcloud_owners import Owner
from tests.fakes.trust import NETWORK


class MemberDesk(Desk):
    """A desk whose node may be a member of the owner's subcloud; its files are in `folder`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__()
        self.folder = folder
        self.owner = Owner(1, 1, random.Random(1))
        self.policies = PolicyBook(NETWORK, clock_ms=self.clock)
        self.settings = SubcloudSettings(**{"auto_join": (self.owner.identity,)} | settings)
        self.declarations = Declarations()
        self.restart()

    def restart(self) -> None:
        """Begin with what the disk has."""
        self.manager = SubcloudManager(
            self.membership,
            self.book,
            self.policies,
            MembershipFile(self.folder),
            self.settings,
            self.declarations,
            clock_ms=self.clock,
        )
        self.manager.models = self.models.all
        self.agent.subclouds = self.manager

    def publish(self, **fields: Any) -> KnownPolicy:
        """Have a version of the policy in force at this node."""
        version = self.owner.publish(self.clock(), **{"callers": {"anyone": True}} | fields)
        self.policies.offer(version.record)
        return self.known

    @property
    def known(self) -> KnownPolicy:
        """The policy in force here."""
        found = self.policies.get(self.owner.identity)
        assert found is not None
        return found

    def subcloud_offer(
        self, number: int = 1, known: KnownPolicy | None = None, **changes: Any
    ) -> Offer:
        """An offer of the subcloud's, under the policy in force or another version."""
        known = known if known is not None else self.known
        plain = self.offer(number, **changes)
        model = model_of_digest(self.book.current, known.policy, plain.model_digest)
        assert model is not None
        terms = subcloud_terms(self.book.current, known.policy, known.digest, model)
        maximum = charge(terms, plain.input_tokens_max, plain.output_tokens_max)
        return replace(plain, **{"terms": terms, "maximum": maximum} | changes)

    async def heard(self) -> None:
        """Wait until the node says something more."""
        await self._heard.wait()
