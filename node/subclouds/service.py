"""Owns what a node's memberships need of the network and of time: policies, statements, requests.

Theory of operation. One task evaluates, whenever something changed and when time alone may change a
verdict. One publishes each new statement: by gossip, and to the bootstrap (which keeps it for who
comes late); sessions send it themselves. One asks delegates for certificates: it puts the request
and looks for the answer every few seconds while it waits, as often for a renewal. Policies are kept
current by `p2p.subclouds.sync`; one that an offer named and that is not known here is asked for at
once. What cannot be reached now is tried again: nothing here ends the node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import trio

from node.subclouds.limits import (
    CERTIFICATE_POLL_S,
    FETCH_PAUSE_S,
    FRESH_POLL_S,
    FRESH_REQUEST_MS,
    MATCHED_MAX,
    RECHECK_S_MAX,
    REQUEST_INTERVAL_S,
    REQUEST_RETRY_S,
    WISHES_LOOK_INTERVAL_S,
)
from node.subclouds.manager import SubcloudManager
from node.subclouds.settings import is_pattern, matches
from node.subclouds.wishes import Wish, forget_invite, read_wishes
from p2p.clock import Clock
from p2p.codec import decode_any_message, decode_message, encode_message
from p2p.errors import DeadlineError, MalformedError, P2PError, PeerUnavailableError, RefusedError
from p2p.limits import (
    GOSSIP_MESSAGE_BYTES_MAX,
    JOIN_REQUEST_LIFETIME_S_MAX,
    MEMBERSHIP_INTERVAL_S,
    SUBCLOUD_POLL_INTERVAL_S,
)
from p2p.membership import Membership as Standing
from p2p.network import Network
from p2p.signing import Signed
from p2p.subclouds.directory_client import SubcloudDirectory
from p2p.subclouds.directory_messages import SubcloudJoinRequest
from p2p.subclouds.evidence_documents import open_attestation
from p2p.subclouds.evidence_messages import Attestation
from p2p.subclouds.identity import SubcloudId, label_of
from p2p.subclouds.invites import USE_INVITE, InvitedMembership, parse_subcloud_invite
from p2p.subclouds.memberships import MEMBERSHIPS_TOPIC, MembershipCertificate
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.records import KnownPolicy
from p2p.subclouds.requests import JoinDenial, open_denial
from p2p.subclouds.sync import SubcloudSync
from p2p.uplink import Uplink

log = logging.getLogger(__name__)


class SubcloudService:
    """Runs a `SubcloudManager`."""

    def __init__(
        self,
        manager: SubcloudManager,
        sync: SubcloudSync,
        standing: Standing,
        wishes_path: Path,
        *,
        clock_ms: Clock,
    ) -> None:
        """Follow `sync.book` and the operator's file of wishes."""
        self.troubles: dict[str, str] = {}
        """By name or ID: what went wrong last."""
        self._manager = manager
        self._sync = sync
        self._book: PolicyBook = sync.book
        self._standing = standing
        self._wishes_path = wishes_path
        self._clock_ms = clock_ms
        self.on_evidence: Callable[[Signed], object] = lambda signed: None
        """Takes an attestation that came with certificates. Raises: P2PError."""
        self.answered_ns = 0
        """When the wishes were written by which memberships were judged last."""
        self._wishes_seen: object = None
        self._wishes_ns = 0
        self._asked_ms: dict[SubcloudId, int] = {}
        self._invites_tried: set[tuple[str, str]] = set()
        self._book.on_change(self._on_policy)

    async def run(
        self,
        network: Network,
        uplink: Uplink,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until cancelled; started after the first evaluation."""
        self.read_wishes()
        self._evaluate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sync.run, network, uplink)
            nursery.start_soon(self._greet, uplink)
            nursery.start_soon(self._follow_wishes)
            nursery.start_soon(self._follow_registry)
            nursery.start_soon(self._keep_evaluating)
            nursery.start_soon(self._publish, network, uplink)
            nursery.start_soon(self._ask, uplink)
            nursery.start_soon(self._fetch_wanted, network, uplink)
            task_status.started()

    def read_wishes(self) -> None:
        """Look at the operator's file, if it changed."""
        try:
            found = self._wishes_path.stat()
            seen: object = (found.st_mtime_ns, found.st_ino, found.st_size)
            written_ns = found.st_mtime_ns
        except OSError:
            seen, written_ns = None, 0
        if seen == self._wishes_seen:
            return
        try:
            self._manager.wishes = read_wishes(self._wishes_path)
        except (MalformedError, OSError) as error:
            log.error("what was said about subclouds cannot be read, it stays as it was: %s", error)
        self._wishes_seen, self._wishes_ns = seen, written_ns
        self._manager.changed()

    # --- evaluating -------------------------------------------------------------------------------
    def _on_policy(self, identity: SubcloudId) -> None:
        self._manager.wanted.discard(identity)
        manager = self._manager
        looks_at_all = any(is_pattern(name) for name in manager.settings.auto_join)
        if identity in manager.interests or looks_at_all or manager.names.unresolved:
            manager.changed()

    def _evaluate(self) -> None:
        manager = self._manager
        self._look_names_up()
        try:
            manager.evaluate()
        except P2PError as error:  # no offer is taken by what could not be judged
            log.error("memberships were not judged: %s", error)
        self.answered_ns = self._wishes_ns

    def _look_names_up(self) -> None:
        """Learn what labels lead to, as far as the registry told."""
        manager = self._manager
        manager.registered = self._matched_labels()
        for name in manager.unresolved():
            identity = self._sync.resolve(name)
            if identity is None:
                self.troubles[name] = "no subcloud is registered under that name (yet)"
                continue
            self.troubles.pop(name, None)
            try:
                manager.remember_label(name, identity)
            except OSError as error:
                log.error("the name %s cannot be kept: %s", name, error)

    def _matched_labels(self) -> dict[SubcloudId, str]:
        """The registered labels of known subclouds that the operator's patterns stand for."""
        patterns = [name for name in self._manager.settings.auto_join if is_pattern(name)]
        if not patterns:
            return {}
        labels = [(known.identity, label_of(known.identity)) for known in self._book.all()]
        # Those that it is in first: names that others register later push none of them out.
        kept = self._manager.kept.memberships
        labels.sort(key=lambda pair: (pair[0] not in kept, *pair))
        found = (
            (identity, label)
            for identity, label in labels
            if any(matches(pattern, label) for pattern in patterns)
            and self._sync.resolve(label) == identity
        )
        return dict(islice(found, MATCHED_MAX))

    async def _keep_evaluating(self) -> None:
        while True:
            change = self._manager.change
            self._evaluate()
            left_s = (self._manager.until_ms - self._clock_ms()) / 1000
            most_s = RECHECK_S_MAX if self._manager.interests else MEMBERSHIP_INTERVAL_S
            with trio.move_on_after(max(0.05, min(most_s, left_s))):
                await change.wait()

    async def _follow_wishes(self) -> None:
        while True:
            await trio.sleep(WISHES_LOOK_INTERVAL_S)
            self.read_wishes()

    async def _follow_registry(self) -> None:
        """Notice labels that the registry gave since the policies came."""
        while True:
            await trio.sleep(SUBCLOUD_POLL_INTERVAL_S)
            news = self._matched_labels() != self._manager.registered
            if news or self._manager.unresolved():
                self._manager.changed()

    # --- what the network is told -----------------------------------------------------------------
    async def _greet(self, uplink: Uplink) -> None:
        while True:
            await uplink.wait_up()
            bootstrap = uplink.bootstrap
            if bootstrap is not None:
                try:
                    await self._sync.greet(uplink, bootstrap)
                except P2PError as error:
                    log.info("the bootstrap did not tell about subclouds: %s", error)
                self._manager.changed()
                await self._tell(uplink)
            while uplink.bootstrap is not None and uplink.bootstrap == bootstrap:
                await uplink.wait_changed()

    async def _publish(self, network: Network, uplink: Uplink) -> None:
        told: object = None
        while True:
            manager = self._manager
            change, signed, content = manager.statement_change, manager.statement(), manager.content
            if signed is not None:
                data = encode_message(signed)
                fits = len(data) <= GOSSIP_MESSAGE_BYTES_MAX
                try:
                    if fits:
                        await network.publish(MEMBERSHIPS_TOPIC, data)
                except P2PError as error:
                    log.warning("memberships not published: %s", error)
                # News are told for sure; gossip does for the heartbeat, where it fits.
                if content != told or not fits:
                    await self._tell(uplink)
                told = content
            await change.wait()

    async def _tell(self, uplink: Uplink) -> None:
        signed = self._manager.statement()
        if signed is None or uplink.bootstrap is None:
            return
        try:
            await SubcloudDirectory(uplink).tell(signed)
        except P2PError as error:
            log.info("the bootstrap did not take the memberships: %s", error)

    async def _fetch_wanted(self, network: Network, uplink: Uplink) -> None:
        """Ask for policies that offers named, or the operator, and that are not known here."""
        while True:
            change = self._manager.change
            wanted = list(self._manager.wanted)
            self._manager.wanted.clear()
            missing = [name for name in self._manager.interests if self._book.get(name) is None]
            for name in (*wanted, *missing):
                try:
                    if self._book.get(SubcloudId(name)) is None:
                        await self._sync.fetch(network, uplink, name)
                    elif uplink.bootstrap is not None:
                        await self._sync.poll(uplink, uplink.bootstrap)
                    self.troubles.pop(name, None)
                except P2PError as error:
                    self.troubles[name] = str(error)
            await trio.sleep(FETCH_PAUSE_S)
            if not missing:
                await change.wait()

    # --- certificates -----------------------------------------------------------------------------
    async def _ask(self, uplink: Uplink) -> None:
        while True:
            change = self._manager.change
            for name, wish in self._manager.wishes.join:
                if wish.invite:
                    await self._use_invite(uplink, name, wish)
            self._evaluate()  # the same news may wake us first
            waiting = [f for f in self._manager.findings if f.ask]
            if uplink.bootstrap is not None:
                for finding in waiting:
                    await self._request(uplink, finding.identity)
                await self._collect(uplink)
            with trio.move_on_after(self._poll_s() if waiting else RECHECK_S_MAX):
                await change.wait()

    def _poll_s(self) -> float:
        since_ms = self._clock_ms() - max(self._asked_ms.values(), default=0)
        return CERTIFICATE_POLL_S if since_ms > FRESH_REQUEST_MS else FRESH_POLL_S

    def _may_answer(self) -> list[KnownPolicy]:
        """Whose delegates may have something for this node: also unasked, or after a denial."""
        manager = self._manager
        names = sorted(manager.names.named | manager.kept.memberships.keys())
        return [known for name in names if (known := self._book.get(name)) and _answers(known)]

    async def _request(self, uplink: Uplink, identity: SubcloudId) -> None:
        now_ms = self._clock_ms()
        if self._asked_ms.get(identity, 0) > now_ms - int(REQUEST_INTERVAL_S * 1000):
            return
        request = SubcloudJoinRequest(
            identity,
            self._standing.key_pair.peer_id,
            now_ms,
            now_ms + JOIN_REQUEST_LIFETIME_S_MAX * 1000,
            self._standing.chain,
            self._note_for(identity),
        )
        signed = self._standing.key_pair.sign(self._standing.network, request)
        try:
            await SubcloudDirectory(uplink).put_request(signed)
        except P2PError as error:
            self.troubles[identity] = f"the request was not taken: {error}"
            # Soon again, but not with every poll.
            late_ms = int((REQUEST_INTERVAL_S - REQUEST_RETRY_S) * 1000)
            self._asked_ms[identity] = now_ms - late_ms
            return
        self._asked_ms[identity] = now_ms
        self.troubles.pop(identity, None)
        log.info("asked to join %s", identity)

    def _note_for(self, identity: SubcloudId) -> str:
        names = (identity, label_of(identity))
        wishes = (self._manager.wishes.wish(name) for name in names)
        return next((wish.note for wish in wishes if wish is not None and wish.note), "")

    async def _collect(self, uplink: Uplink) -> None:
        """Ask for each subcloud by itself: delegates of others may write to this node, too."""
        for known in self._may_answer():
            try:
                answers = await SubcloudDirectory(uplink).certificates(known.identity)
            except P2PError as error:
                log.info("no answers of %s were fetched: %s", known.identity, error)
                continue
            for signed in answers:
                try:
                    self._take_answer(signed, known)
                except P2PError as error:
                    log.info("an answer of %s is worth nothing: %s", known.identity, error)

    def _take_answer(self, signed: Signed, known: KnownPolicy) -> None:
        """Take a certificate or a denial; what it is worth, the rules decide. Raises: P2PError."""
        content, manager = decode_any_message(signed.body), self._manager
        if getattr(content, "subcloud_id", known.identity) != known.identity:
            return
        if isinstance(content, MembershipCertificate | InvitedMembership):
            self.take_certificate(known.identity, signed)
        elif isinstance(content, Attestation):
            open_attestation(signed, known.policy, self._clock_ms())
            self.on_evidence(signed)
        elif isinstance(content, JoinDenial):
            denial = open_denial(signed, known.policy)
            mine = denial.peer_id == self._standing.key_pair.peer_id
            if mine and manager.denied_ms.get(denial.subcloud_id, 0) < denial.until_ms:
                manager.denied_ms[denial.subcloud_id] = denial.until_ms
                self._asked_ms.pop(denial.subcloud_id, None)
                if known.identity not in manager.kept.memberships:  # an old one is kept for long
                    self.troubles[known.identity] = denial.reason
                manager.changed()

    def take_certificate(self, identity: SubcloudId, signed: Signed) -> None:
        """Have the rules look at a certificate of this node's."""
        present = self._manager.certificates.get(identity, ())
        if signed not in present:
            self._manager.certificates[identity] = (*present, signed)[-4:]
            self.troubles.pop(identity, None)
            self._manager.changed()

    async def _use_invite(self, uplink: Uplink, name: str, wish: Wish) -> None:
        if (name, wish.invite) in self._invites_tried or uplink.bootstrap is None:
            return
        try:
            secret = parse_subcloud_invite(wish.invite, self._standing.network)
            use = secret.use(self._standing.key_pair.peer_id, self._clock_ms())
            answer = await uplink.call(USE_INVITE, encode_message(use))
            signed = decode_message(answer, Signed)
        except (PeerUnavailableError, DeadlineError):
            return  # later again
        except P2PError as error:
            if isinstance(error, RefusedError) and error.retry_after_s is not None:
                return
            self._invites_tried.add((name, wish.invite))
            self.troubles[self._id_of(name)] = f"the invite was refused: {error}"
            log.warning("the invite to %s was refused: %s", name, error)
            return
        self._invites_tried.add((name, wish.invite))
        self.troubles.pop(self._id_of(name), None)
        self.take_certificate(secret.document.subcloud_id, signed)
        self._evaluate()
        if secret.document.subcloud_id in self._manager.kept.memberships:
            await trio.to_thread.run_sync(forget_invite, self._wishes_path, name)

    def _id_of(self, name: str) -> str:
        return self._manager.kept.labels.get(name, name)


def _answers(known: KnownPolicy) -> bool:
    """Whether members need something that a delegate signs."""
    policy = known.policy
    grades = (policy.regions.evidence, policy.hardware.evidence)
    return policy.join != "open" or "attested" in grades
