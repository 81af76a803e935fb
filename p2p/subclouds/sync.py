"""Owns how a peer keeps its policies and revocation lists current: gossip, its bootstrap, the DHT.

Theory of operation. A change of a subcloud that is known here is taken from whoever tells it: it
verifies by itself. A subcloud that is unknown here is not: gossip of it is a hint to ask a
bootstrap, which has checked the network's rule of creation, so that nobody fills every peer's book
with subclouds of accounts that cost nothing. When a bootstrap is greeted, its list (version, proof,
revocation list's number) is compared with the book: what is newer there is fetched, what is newer
here is handed over. Later, every few seconds, the changes since then are asked for, which repairs
lost gossip. One subcloud that is asked for by its ID while no bootstrap has it, or answers, is
looked up on the DHT.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

import trio

from p2p.codec import decode_any_message
from p2p.configuration_sync import Asked
from p2p.errors import DeadlineError, P2PError, PeerUnavailableError, RefusedError
from p2p.limits import (
    SUBCLOUD_FETCHES_AT_ONCE,
    SUBCLOUD_HINTS_MAX,
    SUBCLOUD_HINTS_PER_SECOND,
    SUBCLOUD_POLL_INTERVAL_S,
    SUBCLOUDS_HANDED_OVER_MAX,
    SUBCLOUDS_KNOWN_MAX,
)
from p2p.network import Network
from p2p.rare_log import RareLog
from p2p.signing import Signed
from p2p.subcloud_rules import SubcloudRules
from p2p.subclouds.creation import creation_refusal, may_take_name, named, subcloud_refusal
from p2p.subclouds.directory_client import SubcloudDirectory, is_unknown
from p2p.subclouds.directory_messages import SubcloudNews, SubcloudSummary
from p2p.subclouds.gossip_intake import GossipIntake
from p2p.subclouds.identity import SubcloudId, label_of
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.policy_gossip import claimed_subcloud, look_up_policy
from p2p.subclouds.records import KnownPolicy, PolicyRecord, all_subcloud_topics
from p2p.token_bucket import TokenBucket
from p2p.types import PeerId
from p2p.uplink import Uplink

log = logging.getLogger(__name__)
Rules = Callable[[], SubcloudRules]


class SubcloudSync:
    """One peer's book of policies, kept current. `run` follows; `greet` belongs in a greeting."""

    def __init__(self, book: PolicyBook, rules: Rules) -> None:
        """Keep `book` current; `rules` gives what the network configuration says now."""
        self.book = book
        self._rules = rules
        self._labels: dict[str, SubcloudId] = {}
        self._cursors: OrderedDict[PeerId, str] = OrderedDict()
        self._hints: dict[SubcloudId, None] = {}
        self._hinted = trio.Event()
        now_s = 0.0
        self._asked = TokenBucket(SUBCLOUD_HINTS_PER_SECOND, SUBCLOUD_HINTS_MAX, now_s)
        self._intake = GossipIntake(log, now_s)
        self._refusals = RareLog(log)
        book.on_change(lambda identity: self._intake.forget())

    # --- names ------------------------------------------------------------------------------------
    def resolve(self, name: str) -> SubcloudId | None:
        """Say which subcloud a name means, as far as is known here: an ID, or a label.

        The authority's word goes before the registry's.
        """
        identity = named(self._rules(), name)
        if identity is not None:
            return identity
        found = self._labels.get(name)
        return found if found is not None and may_take_name(self._rules(), found) else None

    def find(self, name: str) -> KnownPolicy | None:
        """Give the policy that a name means, if it is known here and not banned."""
        identity = self.resolve(name)
        if identity is None or subcloud_refusal(self._rules(), identity):
            return None
        return self.book.get(identity)

    # --- a bootstrap ------------------------------------------------------------------------------
    async def greet(self, link: Asked, bootstrap: PeerId) -> None:
        """Compare the book with a bootstrap's, both ways. A bad record is refused, not the link.

        Raises: P2PError if the bootstrap does not answer.
        """
        directory = SubcloudDirectory(link)
        known_there = await self._take_changes(directory, bootstrap)
        if known_there is None:
            return
        await self._hand_over(directory, known_there)

    async def poll(self, link: Asked, bootstrap: PeerId) -> None:
        """Take what has changed at a bootstrap since it was last asked. Raises: P2PError."""
        await self._take_changes(SubcloudDirectory(link), bootstrap)

    async def _take_changes(
        self, directory: SubcloudDirectory, bootstrap: PeerId
    ) -> dict[SubcloudId, SubcloudSummary] | None:
        """Give the bootstrap's whole list if it was read from the start."""
        cursor = self._cursors.get(bootstrap, "")
        whole = not cursor
        listed: dict[SubcloudId, SubcloudSummary] = {}
        while True:
            page = await directory.page(cursor)
            if not whole and page.cursor.partition(":")[0] != cursor.partition(":")[0]:
                whole, listed = True, {}  # it was restarted, and began again
            before = len(listed)
            listed |= {summary.subcloud_id: summary for summary in page.summaries}
            cursor = page.cursor
            # A list that goes on and names nothing new is no honest one.
            if not page.more or not before < len(listed) <= SUBCLOUDS_KNOWN_MAX:
                break
        await self._fetch_all(directory, list(listed.values()), bootstrap)
        # Only now: what could not be fetched is asked for again.
        self._cursors[bootstrap] = cursor
        self._cursors.move_to_end(bootstrap)
        while len(self._cursors) > 16:
            self._cursors.popitem(last=False)
        return listed if whole else None

    async def _fetch_all(
        self, directory: SubcloudDirectory, summaries: list[SubcloudSummary], bootstrap: PeerId
    ) -> None:
        wanted = []
        for summary in summaries:
            self._learn_label(summary)
            if self._is_newer(summary):
                wanted.append(summary.subcloud_id)
        failures: list[P2PError] = []

        async def work() -> None:
            while wanted and not failures:
                try:
                    await self._fetch_one(directory, wanted.pop(), bootstrap)
                except P2PError as error:
                    failures.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(min(SUBCLOUD_FETCHES_AT_ONCE, len(wanted))):
                nursery.start_soon(work)
        if failures:
            raise failures[0]

    async def _fetch_one(
        self, directory: SubcloudDirectory, identity: SubcloudId, bootstrap: PeerId
    ) -> KnownPolicy | None:
        """Take a subcloud from a bootstrap; None if it has none. Raises: P2PError (no answer)."""
        try:
            record, revocations = await directory.get(identity)
        except RefusedError as error:
            if is_unknown(error):
                return None
            raise
        self._offer(record, bootstrap)
        if revocations is not None:
            self._offer(revocations, bootstrap)
        return self.book.get(identity)

    def _is_newer(self, summary: SubcloudSummary) -> bool:
        known = self.book.get(summary.subcloud_id)
        if known is None:
            return True
        revocations = self.book.revocations(summary.subcloud_id)
        number = revocations.number if revocations is not None else 0
        mine = (known.policy.version, known.owner.length)
        # Another digest of the same version is a fork: it is fetched to be refused and kept.
        forked = summary.version == known.policy.version and summary.digest != known.digest
        newer = (summary.version, summary.proof_length) > mine
        return forked or newer or summary.revocations_number > number

    async def _hand_over(
        self, directory: SubcloudDirectory, listed: dict[SubcloudId, SubcloudSummary]
    ) -> None:
        handed = 0
        for known in self.book.all():
            summary = listed.get(known.identity)
            signed = self.book.signed_revocations(known.identity)
            revocations = self.book.revocations(known.identity)
            number = revocations.number if revocations is not None else 0
            mine = (known.policy.version, known.owner.length)
            theirs = (summary.version, summary.proof_length) if summary is not None else (0, 0)
            number_there = summary.revocations_number if summary is not None else 0
            if mine <= theirs and number <= number_there:
                continue
            if handed == SUBCLOUDS_HANDED_OVER_MAX:
                return
            handed += 1
            try:
                if mine > theirs:
                    await directory.publish(known.record)
                if signed is not None and number > number_there:
                    await directory.put_revocations(signed)
            except (PeerUnavailableError, DeadlineError):
                raise
            except P2PError as error:
                log.info("%s was not taken by the bootstrap: %s", known.identity, error)

    def _learn_label(self, summary: SubcloudSummary) -> None:
        label = summary.label
        # A name leads to subclouds of that name only, whatever a bootstrap says.
        if not label or label != label_of(summary.subcloud_id):
            return
        known = self._labels.get(label)
        if known is None and len(self._labels) < SUBCLOUDS_KNOWN_MAX:
            self._labels[label] = summary.subcloud_id
        elif known is not None and known != summary.subcloud_id:
            # The registry never gives a name away again: one of the two bootstraps lies.
            text = "the name %s was %s's; %s is not taken"
            now_s, other = trio.current_time(), summary.subcloud_id
            self._refusals.write(logging.WARNING, now_s, text, label, known, other)

    # --- one that is asked for --------------------------------------------------------------------
    async def fetch(self, network: Network, uplink: Uplink, name: str) -> KnownPolicy:
        """Give a subcloud by ID or label: from the book, a bootstrap, or (by ID) the DHT.

        Raises: RefusedError `unknown_subcloud`, `subcloud_banned`; PeerUnavailableError (a label,
            and no bootstrap answers).
        """
        identity = self.resolve(name)
        known = self.book.get(identity) if identity is not None else None
        if known is None:
            known = await self._ask_for(network, uplink, name, identity)
        refusal = subcloud_refusal(self._rules(), known.identity)
        if refusal:
            raise RefusedError("subcloud_banned", refusal)
        return known

    async def _ask_for(
        self, network: Network, uplink: Uplink, name: str, identity: SubcloudId | None
    ) -> KnownPolicy:
        directory = SubcloudDirectory(uplink)
        trouble: P2PError | None = None
        try:
            summary = await directory.resolve(name)
            self._learn_label(summary)
            source = uplink.bootstrap or PeerId("")
            known = await self._fetch_one(directory, summary.subcloud_id, source)
            if known is not None and (identity is None or known.identity == identity):
                return known
        except RefusedError as error:
            if not is_unknown(error):
                raise
        except P2PError as error:
            trouble = error
        if identity is not None:
            # Of a stake only the ledger knows; the other rules are in the configuration.
            if not creation_refusal(self._rules(), identity):
                record = await look_up_policy(network, identity)
                if record is not None:
                    self._offer(record, "the DHT")
            known = self.book.get(identity)
            if known is not None:
                return known
        if trouble is not None:
            raise PeerUnavailableError(f"no bootstrap tells about {name}: {trouble}") from trouble
        raise RefusedError("unknown_subcloud", f"there is no subcloud {name} in this network")

    # --- gossip -----------------------------------------------------------------------------------
    async def run(self, network: Network, uplink: Uplink) -> None:
        """Follow gossip and the bootstrap until cancelled (at most once in a process)."""
        async with trio.open_nursery() as nursery:
            for topic in all_subcloud_topics():
                nursery.start_soon(self._listen, network, topic)
            nursery.start_soon(self._follow_hints, uplink)
            nursery.start_soon(self._poll_forever, uplink)

    async def _listen(self, network: Network, topic: str) -> None:
        async for item in network.subscribe(topic):
            if not self._intake.admits(item.data, item.author, trio.current_time()):
                continue
            try:
                self.hear(item.data, item.author)
            except P2PError as error:
                self._intake.refuse(item.data, item.author, error, trio.current_time())

    def hear(self, data: bytes, author: PeerId) -> None:
        """Take what gossip brings. Raises: P2PError (it is refused; evidence may be kept)."""
        message = decode_any_message(data)
        match message:
            case PolicyRecord():
                identity = claimed_subcloud(message)
                known = self.book.get(identity)
                if known is None:
                    self._hint(identity)
                elif known.record != message:
                    self.book.offer(message, author)
            case Signed():
                self._offer_revocations(message, author)
            case SubcloudNews(identity, version, number):
                known, revocations = self.book.get(identity), self.book.revocations(identity)
                newest = revocations.number if revocations is not None else 0
                if known is None or version > known.policy.version or number > newest:
                    self._hint(identity)
            case _:
                log.debug("a %s among the policies, from %s", type(message).__name__, author)

    def _offer_revocations(self, signed: Signed, source: str) -> None:
        try:
            self.book.offer_revocations(signed, source)
        except RefusedError:
            pass  # of a subcloud unknown here: it comes with its policy

    def _offer(self, item: PolicyRecord | Signed, source: str) -> None:
        """Take what was asked for; a bad one is told and does no harm."""
        try:
            if isinstance(item, PolicyRecord):
                self.book.offer(item, source)
            else:
                self._offer_revocations(item, source)
        except P2PError as error:
            text = "what %s tells of a subcloud was refused: %s"
            self._refusals.write(logging.WARNING, trio.current_time(), text, source, error)

    def _hint(self, identity: SubcloudId) -> None:
        full = len(self._hints) >= SUBCLOUD_HINTS_MAX
        if identity not in self._hints and not full and self._asked.take(trio.current_time()):
            self._hints[identity] = None
            self._hinted.set()

    async def _follow_hints(self, uplink: Uplink) -> None:
        while True:
            await self._hinted.wait()
            self._hinted = trio.Event()
            hints, self._hints = list(self._hints), {}
            await uplink.wait_up()
            directory = SubcloudDirectory(uplink)
            source = uplink.bootstrap or PeerId("")
            try:
                for identity in hints:
                    await self._follow_hint(directory, identity, source)
            except P2PError as error:
                log.info("what gossip told of subclouds was not fetched: %s", error)

    async def _follow_hint(
        self, directory: SubcloudDirectory, identity: SubcloudId, source: PeerId
    ) -> None:
        try:
            self._learn_label(await directory.resolve(identity))
            await self._fetch_one(directory, identity, source)
        except RefusedError as error:  # somebody made it up: the other hints go on
            log.debug("gossip named %s: %s", identity, error)

    async def _poll_forever(self, uplink: Uplink) -> None:
        while True:
            await trio.sleep(SUBCLOUD_POLL_INTERVAL_S)
            bootstrap = uplink.bootstrap
            if bootstrap is None:
                continue
            try:
                await self.poll(uplink, bootstrap)
            except P2PError as error:
                log.info("the subclouds' changes were not told: %s", error)
