"""Owns how the pieces of a node's memberships are made from its settings and data folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from node.observation.subcloud_status import SubcloudStatus
from node.settings import NodeSettings
from node.subclouds.kept import MembershipFile
from node.subclouds.manager import Declarations, SubcloudManager
from node.subclouds.service import SubcloudService
from node.subclouds.showing import show_findings
from node.subclouds.wishes import FOLDER, wishes_path
from p2p.clock import Clock
from p2p.configuration_book import ConfigurationBook
from p2p.membership import Membership
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.sync import SubcloudSync

POLICIES_FOLDER = "policies"


@dataclass(slots=True)
class Subclouds:
    """A node's memberships, what runs them, and the policies that they follow."""

    manager: SubcloudManager
    service: SubcloudService
    policies: PolicyBook
    evidence_lines: Callable[[], tuple[str, ...]] = tuple
    """One line for each document of others that the node shows."""

    def changed(self) -> None:
        """Something about the node or its models is different now."""
        self.manager.changed()

    def status(self) -> tuple[SubcloudStatus, ...]:
        """What the operator sees."""
        manager = self.manager
        return show_findings(
            manager.findings, manager.names, self.policies.get, self.service.troubles
        )

    @property
    def any_named(self) -> bool:
        """Whether the operator, or an earlier run, has anything to do with subclouds."""
        manager = self.manager
        settings, wishes = manager.settings, manager.wishes
        named = settings.auto_join or settings.isolate or wishes.join or wishes.isolate
        return bool(named or manager.kept.memberships)


def make_subclouds(
    settings: NodeSettings,
    membership: Membership,
    configuration: ConfigurationBook,
    clock_ms: Clock,
) -> Subclouds:
    """Go on with what the data folder holds. Raises: MalformedError, OSError."""
    policies = PolicyBook(
        settings.network_id, settings.data_dir / POLICIES_FOLDER, clock_ms=clock_ms
    )
    manager = SubcloudManager(
        membership,
        configuration,
        policies,
        MembershipFile(settings.data_dir / FOLDER),
        settings.subclouds,
        Declarations(settings.country, settings.stores_no_content),
        clock_ms=clock_ms,
    )
    sync = SubcloudSync(policies, lambda: configuration.current.subclouds)
    service = SubcloudService(
        manager, sync, membership, wishes_path(settings.data_dir), clock_ms=clock_ms
    )
    service.read_wishes()
    return Subclouds(manager, service, policies)
