"""Owns what a bootstrap knows of all subclouds: policies, names, and in which order they changed.

Theory of operation. The database is what counts; the book in memory is loaded from it, and follows
it while other bootstraps write to the same one. Peers are told changes in the order in which they
happened here, numbered since this process began: a number of another process means that the list is
read from its start.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable

from bootstrap.limits import SUBCLOUDS_PER_DATABASE_READ
from ledger.ledger import Ledger
from ledger.store.directory_store import StoredSubcloud, changed_subclouds, name_of, names
from p2p.clock import Clock
from p2p.codec import decode_message
from p2p.errors import P2PError, RefusedError
from p2p.limits import SUBCLOUDS_PER_PAGE_MAX
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import Signed
from p2p.subcloud_rules import SubcloudRules
from p2p.subclouds.creation import may_take_name, named
from p2p.subclouds.directory_messages import SubcloudPage, SubcloudSummary, number_after
from p2p.subclouds.identity import SubcloudId, label_of, parse_subcloud_id
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.records import KnownPolicy, PolicyRecord
from p2p.types import NetworkId

log = logging.getLogger(__name__)


class SubcloudRegistry:
    """The book of one bootstrap, and the names in it."""

    def __init__(
        self,
        ledger: Ledger,
        network_id: NetworkId,
        configuration: Callable[[], NetworkConfiguration],
        clock_ms: Clock,
    ) -> None:
        """Start empty: `load` reads the database."""
        self.book = PolicyBook(network_id, clock_ms=clock_ms)
        self._ledger = ledger
        self._configuration = configuration
        self._process = secrets.token_hex(8)
        self._number = 0
        self._order: OrderedDict[SubcloudId, int] = OrderedDict()
        self._names: dict[str, SubcloudId] = {}
        self._read_to = 0
        self.book.on_change(self.changed)

    @property
    def rules(self) -> SubcloudRules:
        """What the network configuration says now."""
        return self._configuration().subclouds

    # --- the database -----------------------------------------------------------------------------
    async def load(self) -> None:
        """Read names and all subclouds. Raises: StorageError."""
        found = await self._ledger.read(names)
        self._names = {label: parse_subcloud_id(text) for label, text in found.items()}
        await self.catch_up()

    async def catch_up(self) -> None:
        """Take what was written since, by us or by another bootstrap. Raises: StorageError."""
        while True:
            rows = await self._read_after(self._read_to)
            for row in rows:
                await self._take(row)
                self._read_to = max(self._read_to, row.changed)
            if len(rows) < SUBCLOUDS_PER_DATABASE_READ:
                return

    async def _read_after(self, changed: int) -> list[StoredSubcloud]:
        return await self._ledger.read(
            lambda c: changed_subclouds(c, changed, SUBCLOUDS_PER_DATABASE_READ)
        )

    async def _take(self, row: StoredSubcloud) -> None:
        try:
            self.book.offer(decode_message(row.record, PolicyRecord), "the database")
            if row.revocations:
                self.book.recall_revocations(decode_message(row.revocations, Signed))
        except P2PError as error:
            log.warning("%s in the database: %s", row.subcloud_id, error)
        await self.learn_name(parse_subcloud_id(row.subcloud_id))

    async def learn_name(self, identity: SubcloudId) -> None:
        """Read whose a subcloud's own label is. Raises: StorageError."""
        label = label_of(identity)
        if label not in self._names:
            found = await self._ledger.read(lambda c: name_of(c, label))
            if found is not None:
                self._names[label] = parse_subcloud_id(found)

    # --- questions --------------------------------------------------------------------------------
    def changed(self, identity: SubcloudId) -> None:
        """A subcloud's record or list is another one now: peers are told in this order."""
        self._number += 1
        self._order[identity] = self._number
        self._order.move_to_end(identity)

    def resolve(self, name: str) -> SubcloudId:
        """Say which subcloud an ID or a label means.

        Raises: RefusedError `unknown_subcloud`.
        """
        identity = named(self.rules, name)
        if identity is None:
            registered = self._names.get(name)
            if registered is not None and may_take_name(self.rules, registered):
                identity = registered
        if identity is None:
            raise RefusedError("unknown_subcloud", f"there is no subcloud {name} in this network")
        return identity

    def known(self, name: str) -> KnownPolicy:
        """Give the policy of a subcloud. Raises: RefusedError `unknown_subcloud`."""
        known = self.book.get(self.resolve(name))
        if known is None:
            raise RefusedError("unknown_subcloud", f"there is no subcloud {name} in this network")
        return known

    def label(self, identity: SubcloudId) -> str:
        """Give the name that leads to a subcloud; empty if none does."""
        label = label_of(identity)
        assigned = self.rules.assigned(label)
        if assigned is not None:
            return label if assigned == identity else ""
        mine = self._names.get(label) == identity and may_take_name(self.rules, identity)
        return label if mine else ""

    def summary(self, known: KnownPolicy) -> SubcloudSummary:
        """Say what is known of a subcloud."""
        revocations = self.book.revocations(known.identity)
        return SubcloudSummary(
            known.identity,
            known.policy.version,
            known.digest,
            known.owner.length,
            revocations.number if revocations is not None else 0,
            self.label(known.identity),
        )

    def page(self, cursor: str) -> SubcloudPage:
        """List what changed after a cursor, oldest change first. Raises: MalformedError."""
        process, _, number = cursor.partition(":")
        after = number_after(number) if process == self._process else 0
        newer: list[SubcloudId] = []
        for identity, changed in reversed(self._order.items()):
            if changed <= after:
                break
            newer.append(identity)
        newer.reverse()
        shown = newer[:SUBCLOUDS_PER_PAGE_MAX]
        known = [found for i in shown if (found := self.book.get(i)) is not None]
        last = self._order[shown[-1]] if shown else max(after, 0)
        return SubcloudPage(
            tuple(self.summary(one) for one in known),
            f"{self._process}:{last}",
            len(newer) > len(shown),
        )
