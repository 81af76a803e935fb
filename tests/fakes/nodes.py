"""Owns a scripted node: speaks the job session protocol, and misbehaves on request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from node.agent.offer_rules import check_leased_hold
from p2p.adverts import Advert, ModelAdvert
from p2p.certificates import Chain
from p2p.clock import Clock
from p2p.codec import Message
from p2p.errors import P2PError
from p2p.job_messages import (
    OUTPUT_HASH_START,
    Accept,
    AcceptFrame,
    CancelFrame,
    DeliveryCount,
    DeliveryFrame,
    EndFrame,
    LoadReport,
    NodeReceipt,
    Offer,
    OfferFrame,
    OutputFrame,
    RefuseFrame,
    VoucherFrame,
    next_output_hash,
)
from p2p.lease_messages import Lease, LeasedHold, LeaseVoucherFrame
from p2p.ledger_messages import Voucher
from p2p.link import Link
from p2p.logprob_messages import TokenLogprob, TopLogprob
from p2p.network import Stream
from p2p.signing import KeyPair, Signed, open_signed
from p2p.subclouds.memberships import MembershipFrame
from p2p.types import NetworkId, public_key_of

WORDS = tuple(f"word{number} " for number in range(20))


@dataclass(slots=True)
class Script:
    """What a node does with the next job.

    Attributes:
        words: the whole answer, a token each; a resumed job begins after the resumed tokens.
        batch: tokens in each frame.
        stop_after: give this many own tokens and then do what `then` says.
        then: "end" (properly), "drop" (break the session), "hang", "fail" (EndFrame failed).
        refuse: refusal code, or "" to accept.
        hold_back: wait for this event before each frame.
        forge: changes a receipt before it is signed.
        input_tokens: what the accept says.
        lengths: how many words choices have, where it is not all of them.
        logprobs: give them to those who ask.
    """

    words: Sequence[str] = WORDS
    batch: int = 4
    stop_after: int | None = None
    then: str = "end"
    refuse: str = ""
    reason: str = "because"
    input_tokens: int = 7
    hold_back: trio.Event | None = None
    pause_s: float = 0.0
    forge: Callable[[NodeReceipt], NodeReceipt] | None = None
    forge_signature: bool = False
    accept: bool = True
    output_before_voucher: bool = False
    lengths: dict[int, int] = field(default_factory=dict)
    logprobs: bool = True


@dataclass(slots=True)
class JobSeen:
    """What a node saw of one attempt."""

    offer: Offer
    request: dict[str, Any]
    voucher: trio.Event = field(default_factory=trio.Event)
    cancelled: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    sent_tokens: int = 0
    leased: bool = False
    deliveries: list[DeliveryCount] = field(default_factory=list)


class FakeNode:
    """One node: give its `serve` to a network as the handler of JOBS_PROTOCOL."""

    def __init__(
        self,
        key_pair: KeyPair,
        network: NetworkId,
        chain: Chain,
        *,
        model: ModelAdvert,
        clock_ms: Clock,
    ) -> None:
        self.key_pair = key_pair
        self.network = network
        self.chain = chain
        self.model = model
        self.clock_ms = clock_ms
        self.script = Script()
        self.scripts: list[Script] = []
        self.jobs: list[JobSeen] = []
        self.load = LoadReport(0, 0, model.slots, 50.0, True)
        self.links: list[Link] = []
        self.accept_leases = True
        self.full_leases = 0
        """So many leased jobs are refused because this node has done enough under their lease."""
        self.leases: dict[tuple[int, bytes], Lease] = {}
        self.addresses: tuple[str, ...] = ()
        self.statement: Signed | None = None
        """What it says of its memberships at the begin of each session."""
        self._sequence = 0

    def advert(self, **changes: Any) -> Signed:
        """Sign what this node says about itself."""
        self._sequence += 1
        now_ms = self.clock_ms()
        document = Advert(
            peer_id=self.key_pair.peer_id,
            sequence=now_ms + self._sequence,
            issued_ms=now_ms,
            expires_ms=now_ms + 45_000,
            chain=self.chain,
            addresses=self.addresses,
            models=(self.model,),
            software="fake/1",
        )
        return self.key_pair.sign(self.network, replace(document, **changes))

    async def serve(self, stream: Stream) -> None:
        """Serve one session until it ends."""
        link = Link(stream)
        self.links.append(link)
        running: dict[int, tuple[JobSeen, Script]] = {}
        try:
            async with trio.open_nursery() as nursery:

                def on_messages(messages: list[Message]) -> None:
                    for item in messages:
                        self._on_message(item, link, running, nursery)

                await nursery.start(link.run, on_messages)
                link.send(self.load)
                if self.statement is not None:
                    link.send(MembershipFrame(self.statement))
        except* P2PError:
            pass
        finally:
            self.links.remove(link)

    def report(self, **changes: Any) -> None:
        """Tell all sessions a changed load."""
        self.load = replace(self.load, **changes)
        for link in self.links:
            link.send(self.load)

    def say(self, statement: Signed) -> None:
        """Tell all sessions, and those to come, what it says of its memberships."""
        self.statement = statement
        for link in self.links:
            link.send(MembershipFrame(statement))

    def _on_message(
        self,
        item: Message,
        link: Link,
        running: dict[int, tuple[JobSeen, Script]],
        nursery: trio.Nursery,
    ) -> None:
        match item:
            case OfferFrame():
                key = public_key_of(link.remote)
                offer = open_signed(item.offer, Offer, self.network, key)
                assert offer.node_id == self.key_pair.peer_id
                seen = JobSeen(offer, json.loads(offer.request))
                self.jobs.append(seen)
                script = self.scripts.pop(0) if self.scripts else self.script
                running[item.number] = (seen, script)
                nursery.start_soon(self._work, item, seen, script, link)
            case VoucherFrame():
                if item.number in running:
                    seen = running[item.number][0]
                    voucher = open_signed(item.voucher, Voucher, self.network)
                    assert voucher.hold_id == seen.offer.hold_id
                    assert voucher.job_id == seen.offer.job_id
                    assert voucher.maximum >= seen.offer.maximum
                    seen.voucher.set()
            case LeaseVoucherFrame():
                self._on_lease(item, link, running)
            case CancelFrame():
                if item.number in running:
                    running[item.number][0].cancelled.set()
            case DeliveryFrame():
                key = public_key_of(link.remote)
                count = open_signed(item.delivery, DeliveryCount, self.network, key)
                if item.number in running:
                    running[item.number][0].deliveries.append(count)
            case _:
                raise AssertionError(f"a {type(item).__name__} from a gateway")

    def _on_lease(
        self, item: LeaseVoucherFrame, link: Link, running: dict[int, tuple[JobSeen, Script]]
    ) -> None:
        if item.lease is not None:
            lease = open_signed(item.lease, Lease, self.network)
            self.leases[(id(link), lease.lease_id)] = lease
        if item.number not in running:
            return
        seen = running[item.number][0]
        if not self.accept_leases or self.full_leases:
            retry_after_ms = 1000 if self.accept_leases else 0
            self.full_leases = max(0, self.full_leases - 1)
            link.send(RefuseFrame(item.number, "needs_voucher", "vouchers only", retry_after_ms))
            seen.cancelled.set()
            return
        offer = seen.offer
        hold = open_signed(item.hold, LeasedHold, self.network, public_key_of(link.remote))
        lease = self.leases[(id(link), hold.lease_id)]
        check_leased_hold(lease, hold, offer, self.clock_ms())
        seen.leased = True
        seen.voucher.set()

    async def _work(self, frame: OfferFrame, seen: JobSeen, script: Script, link: Link) -> None:
        try:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    await seen.cancelled.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                await self._run(frame, seen, script, link)
                nursery.cancel_scope.cancel()
        except* P2PError:
            pass
        finally:
            seen.ended.set()
        if seen.cancelled.is_set() and link.is_open:
            link.send(EndFrame(frame.number, "cancelled", ""))

    def output_of(
        self, offer: Offer, offer_hash: bytes, script: Script, request: dict[str, Any]
    ) -> NodeOutput:
        """What is said to an offer, step by step."""
        return NodeOutput(self, offer, offer_hash, script, request)

    async def _run(self, frame: OfferFrame, seen: JobSeen, script: Script, link: Link) -> None:
        number, offer = frame.number, seen.offer
        if script.refuse:
            link.send(RefuseFrame(number, script.refuse, script.reason, 1500, 2000, 1024))
            return
        if not script.accept:
            await trio.sleep_forever()
        offer_hash = hashlib.sha256(frame.offer.body).digest()
        accept = Accept(
            offer.job_id, offer.attempt, offer_hash, script.input_tokens, offer.output_tokens_max
        )
        link.send(AcceptFrame(number, self.key_pair.sign(self.network, accept)))
        if not script.output_before_voucher:
            await seen.voucher.wait()
        state = self.output_of(offer, offer_hash, script, seen.request)
        for start in range(0, state.count, script.batch):
            if script.hold_back is not None:
                await script.hold_back.wait()
            if script.pause_s:
                await trio.sleep(script.pause_s)
            for choice in state.choices:
                frame = state.frame(number, choice, start, start + script.batch)
                if frame is not None:
                    link.send(frame)
                    seen.sent_tokens += len(frame.token_ids)
        if script.then == "drop":
            await trio.sleep(0.05)  # let the frames leave
            await link._stream.reset()
        elif script.then == "hang":
            await trio.sleep_forever()
        elif script.then == "fail":
            link.send(EndFrame(number, "failed", "the runtime died", state.receipt(True, "failed")))
        else:
            outcome = state.outcome
            link.send(EndFrame(number, outcome, "", state.receipt(True, outcome)))


class NodeOutput:
    """The output and the running receipt of one attempt."""

    def __init__(
        self,
        node: FakeNode,
        offer: Offer,
        offer_hash: bytes,
        script: Script,
        request: dict[str, Any],
    ) -> None:
        self.node = node
        self.offer = offer
        self.offer_hash = offer_hash
        self.script = script
        self.request = request
        self.hash = OUTPUT_HASH_START
        self.tokens = 0
        self.resumed = dict.fromkeys(range(offer.choices), 0)
        self.resumed[0] = len(offer.resume_tokens)
        for known in offer.resume_choices:
            if known.finish:
                del self.resumed[known.choice]
            else:
                self.resumed[known.choice] = len(known.token_ids)
        self.choices = list(self.resumed)
        each = offer.output_tokens_max // offer.choices
        self.words = {
            choice: choice_words(script.words, choice)[
                begin : min(each, script.lengths.get(choice, each))
            ]
            for choice, begin in self.resumed.items()
        }
        self.outcome = "length" if each < len(script.words) else "stop"
        longest = max(map(len, self.words.values()), default=0)
        self.count = longest if script.stop_after is None else min(script.stop_after, longest)

    def frame(self, number: int, choice: int, start: int, end: int) -> OutputFrame | None:
        """The output of one choice from `start` on; None if there is none."""
        words = self.words[choice][start : min(end, self.count)]
        if not words:
            return None
        offer, first = self.offer, self.resumed[choice] + start
        token_ids, text = tuple(range(first, first + len(words))), "".join(words)
        several = offer.choices > 1
        self.hash = next_output_hash(self.hash, token_ids, text, choice if several else None)
        self.tokens += len(token_ids)
        is_last = start + len(words) == len(self.words[choice])
        return OutputFrame(
            number,
            token_ids,
            text,
            self.receipt(False, ""),
            self._logprobs(words, token_ids),
            choice,
            self.outcome if several and is_last else "",
        )

    def _logprobs(self, words: Sequence[str], ids: Sequence[int]) -> tuple[TokenLogprob, ...]:
        if not (self.request.get("logprobs") and self.script.logprobs):
            return ()
        count = self.request.get("top_logprobs", 0)
        return tuple(
            TokenLogprob(word.encode(), -token / 4, tuple(fake_alternatives(count)))
            for word, token in zip(words, ids, strict=True)
        )

    def receipt(self, final: bool, finish_reason: str) -> Signed:
        offer = self.offer
        document = NodeReceipt(
            job_id=offer.job_id,
            attempt=offer.attempt,
            offer_hash=self.offer_hash,
            hold_id=offer.hold_id,
            gateway_id=offer.gateway_id,
            request_hash=offer.request_hash,
            model_digest=offer.model_digest,
            model_id=self.node.model.model_id,
            output_hash=self.hash,
            input_tokens=self.script.input_tokens,
            output_tokens=self.tokens,
            started_ms=0,
            at_ms=self.node.clock_ms(),
            final=final,
            finish_reason=finish_reason,
            seed=offer.seed,
        )
        if self.script.forge is not None:
            document = self.script.forge(document)
        signed = self.node.key_pair.sign(self.node.network, document)
        if self.script.forge_signature:
            return Signed(signed.body, signed.signer, bytes(64))
        return signed


def choice_words(words: Sequence[str], choice: int) -> list[str]:
    """The answer of one choice: choice 0 is the script's, the others bear their number."""
    return [f"{choice}{word}" if choice else word for word in words]


def fake_alternatives(count: int) -> list[TopLogprob]:
    """The likeliest tokens at each place of a scripted answer."""
    return [TopLogprob(token, b"top%d" % token, -1.0 - token) for token in range(count)]
