"""Owns timed jobs from the gateway's side: whom to test, the test, and what is said of it.

Theory of operation. A policy that asks for benchmarked hardware needs measurements that somebody
makes. A gateway that the policy admits tests its members by itself: one at a time, those whose
measurement is missing or near its end. The job is greedy, with words of its own in the prompt, so
that no answer to it can lie ready. The time is the gateway's own, from the question to the last
token: an answer that is held back and sent at once gains nothing. What came is checked against the
node's receipts and for plausible counts; that the tokens are the model's is not checked here, that
needs the model. The statement goes to the node, which shows it to others, and counts here at once.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import trio

from gateway.limits import (
    BENCHMARK_LOOK_S,
    BENCHMARK_RETRY_S,
    BENCHMARK_TRIES_KEPT_MAX,
)
from p2p.certificates import Chain
from p2p.clock import Clock
from p2p.errors import P2PError, RefusedError, UntrustedError
from p2p.job_messages import (
    OUTPUT_HASH_START,
    EndFrame,
    OutputFrame,
    RefuseFrame,
    next_output_hash,
)
from p2p.limits import (
    BENCHMARK_LIFETIME_S,
    BENCHMARK_TIMEOUT_S,
    BENCHMARK_TOKENS,
    BENCHMARK_TOKENS_MIN,
    CALL_TIMEOUT_S,
)
from p2p.network import Network
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import KeyPair, Signed, open_signed
from p2p.subclouds.evaluation import admits_model
from p2p.subclouds.evidence import with_evidence
from p2p.subclouds.evidence_documents import NodeEvidence
from p2p.subclouds.evidence_messages import (
    BENCHMARK_PROTOCOL,
    BenchmarkOffer,
    BenchmarkReceipt,
    BenchmarkStatement,
)
from p2p.subclouds.facts import NodeFacts, Standing
from p2p.subclouds.message_stream import MessageStream
from p2p.subclouds.policy import SubcloudPolicy
from p2p.types import NetworkId, PeerId, public_key_of

log = logging.getLogger(__name__)
OFFER_LIFETIME_MS = 60_000
STEERING_TOKENS = 4
RENEW_SHARE = 4
"""A measurement is made anew in the last quarter of its life."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A node's model that some policy wants measured."""

    node: PeerId
    model_digest: bytes


def wanted_by(
    policy: SubcloudPolicy,
    members: Iterable[tuple[NodeFacts, NodeEvidence | None]],
    configuration: NetworkConfiguration,
    now_ms: int,
) -> Iterator[Wanted]:
    """Give the members' models whose speed a policy wants measured, and nobody has lately."""
    floor = policy.hardware
    if floor.evidence != "benchmarked" or not floor.tokens_per_second_min:
        return
    soon_ms = now_ms + int(BENCHMARK_LIFETIME_S * 1000) // RENEW_SHARE
    for facts, evidence in members:
        known = with_evidence(Standing(), policy, facts, evidence, configuration, now_ms)
        measured = {speed.digest for speed in known.speeds if speed.until_ms > soon_ms}
        for model in facts.models:
            if model.digest not in measured and admits_model(policy, model):
                yield Wanted(facts.peer_id, model.digest)


def benchmark_request(nonce: str, *, forced: bool) -> bytes:
    """Make the JSON of the job. `forced`: by a grammar, for models that stop early by themselves.

    Greedy, so that how the answer is drawn costs the same everywhere.
    """
    content = f"Session {nonce}. Count from one to two hundred in words, without stopping."
    fields: dict[str, object] = {
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": BENCHMARK_TOKENS,
    }
    if forced:
        schema = {
            "type": "array",
            "items": {"type": "integer"},
            "minItems": BENCHMARK_TOKENS // 2,
            "maxItems": BENCHMARK_TOKENS,
        }
        fields["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "numbers", "strict": True, "schema": schema},
        }
    return json.dumps(fields).encode()


class TooShortError(P2PError):
    """The answer ended before it could be timed."""


class SpeedProbe:
    """Runs one timed job at a node and signs what it found."""

    def __init__(
        self,
        network: Network,
        key_pair: KeyPair,
        chain: Callable[[], Chain],
        clock_ms: Clock,
        *,
        clock_s: Callable[[], float] = trio.current_time,
    ) -> None:
        """Sign by `key_pair`, under the certificate that `chain` gives."""
        self._network = network
        self._key_pair = key_pair
        self._chain = chain
        self._clock_ms = clock_ms
        self._clock_s = clock_s

    async def test(self, node: PeerId, model_digest: bytes, *, forced: bool = False) -> Signed:
        """Time a model of a connected node; gives the signed `BenchmarkStatement`.

        Raises: RefusedError (busy, too often), TooShortError, UntrustedError (what came is not
            what it signs, or is not plausible), other P2PError.
        """
        stream = await self._network.open_stream(node, BENCHMARK_PROTOCOL)
        try:
            with trio.fail_after(BENCHMARK_TIMEOUT_S):
                return await self._test(MessageStream(stream), node, model_digest, forced)
        except trio.TooSlowError as error:
            reason = f"the timed job took more than {BENCHMARK_TIMEOUT_S:g} s"
            raise RefusedError("too_slow", reason, BENCHMARK_RETRY_S) from error
        finally:
            with trio.move_on_after(1, shield=True):
                await stream.close()

    async def _test(
        self, messages: MessageStream, node: PeerId, model_digest: bytes, forced: bool
    ) -> Signed:
        offer = self._offer(node, model_digest, forced)
        signed = self._key_pair.sign(self._network.network_id, offer)
        begun_s = self._clock_s()
        await messages.send(signed, CALL_TIMEOUT_S)
        seen = _Output(self._network.network_id, node, offer.benchmark_id, signed.digest())
        first_s = begun_s
        last_s = begun_s
        while True:
            item = await messages.next(BENCHMARK_TIMEOUT_S, OutputFrame, EndFrame, RefuseFrame)
            if isinstance(item, RefuseFrame):
                raise RefusedError(item.code, item.reason, item.retry_after_ms / 1000 or None)
            if isinstance(item, EndFrame):
                seen.end(item)
                break
            assert isinstance(item, OutputFrame)
            last_s = self._clock_s()
            first_s = last_s if not seen.tokens else first_s
            seen.add(item)
        statement = self._statement(offer, seen.tokens, first_s - begun_s, last_s - begun_s)
        result = self._key_pair.sign(self._network.network_id, statement)
        await messages.send(result, CALL_TIMEOUT_S)
        return result

    def _offer(self, node: PeerId, model_digest: bytes, forced: bool) -> BenchmarkOffer:
        now_ms = self._clock_ms()
        return BenchmarkOffer(
            secrets.token_bytes(16),
            self._key_pair.peer_id,
            node,
            model_digest,
            benchmark_request(secrets.token_hex(8), forced=forced),
            BENCHMARK_TOKENS,
            0,
            now_ms,
            now_ms + OFFER_LIFETIME_MS,
        )

    def _statement(
        self, offer: BenchmarkOffer, tokens: int, first_s: float, all_s: float
    ) -> BenchmarkStatement:
        if tokens < BENCHMARK_TOKENS_MIN:
            raise TooShortError(f"an answer of {tokens} tokens is too short to be timed")
        now_ms = self._clock_ms()
        return BenchmarkStatement(
            offer.benchmark_id,
            self._key_pair.peer_id,
            offer.node,
            offer.model_digest,
            tokens / max(all_s, 1e-6),
            int(first_s * 1000),
            tokens,
            now_ms,
            now_ms + int(BENCHMARK_LIFETIME_S * 1000),
            self._chain(),
        )


class _Output:
    """Follows a timed job's output, and believes what the receipts bear out."""

    def __init__(
        self, network_id: NetworkId, node: PeerId, benchmark_id: bytes, offer_hash: bytes
    ) -> None:
        self.tokens = 0
        self._network_id = network_id
        self._key = public_key_of(node)
        self._benchmark_id = benchmark_id
        self._offer_hash = offer_hash
        self._hash = OUTPUT_HASH_START
        self._text_bytes = 0

    def add(self, frame: OutputFrame) -> None:
        """Take one frame. Raises: UntrustedError if there is more than was asked for."""
        self.tokens += len(frame.token_ids)
        self._text_bytes += len(frame.text.encode())
        self._hash = next_output_hash(self._hash, frame.token_ids, frame.text)
        if self.tokens > BENCHMARK_TOKENS:
            raise UntrustedError("more tokens than were asked for")

    def end(self, frame: EndFrame) -> None:
        """Check the last receipt against all that came. Raises: RefusedError, UntrustedError."""
        if frame.outcome not in ("stop", "length"):
            raise RefusedError(frame.outcome, frame.detail or "the timed job failed")
        if frame.receipt is None:
            raise UntrustedError("a timed job without a receipt")
        receipt = open_signed(frame.receipt, BenchmarkReceipt, self._network_id, self._key)
        said = (receipt.benchmark_id, receipt.offer_hash, receipt.output_hash)
        if said != (self._benchmark_id, self._offer_hash, self._hash) or not receipt.final:
            raise UntrustedError("a receipt over something else than what was sent")
        # No vocabulary has tokens without bytes, but for a few that steer.
        if receipt.output_tokens != self.tokens or self.tokens > self._text_bytes + STEERING_TOKENS:
            raise UntrustedError("a count of tokens that cannot be")


class Benchmarker:
    """Tests what policies want tested, one node at a time."""

    def __init__(
        self,
        tester: SpeedProbe,
        wanted: Callable[[], Iterable[Wanted | None]],
        on_result: Callable[[PeerId, bytes, Signed], None],
    ) -> None:
        """`wanted` is asked now and then (None: let other work have its turn); `on_result` gets
        node, model and statement."""
        self._tester = tester
        self._wanted = wanted
        self._on_result = on_result
        self._not_before_s: dict[Wanted, float] = {}
        self._forced: set[Wanted] = set()

    async def run(self) -> None:
        """Test until cancelled."""
        while True:
            await trio.sleep(BENCHMARK_LOOK_S)
            await self.look()

    async def look(self) -> int:
        """Test what is wanted now; gives how many measurements were made."""
        now_s = trio.current_time()
        self._not_before_s = {w: s for w, s in self._not_before_s.items() if s > now_s}
        done = 0
        for wanted in self._wanted():
            if wanted is None:
                await trio.lowlevel.checkpoint()
                continue
            if wanted in self._not_before_s:
                continue
            if len(self._not_before_s) >= BENCHMARK_TRIES_KEPT_MAX:
                break
            # Also after a success: whoever counts it may not want it (a chain that is over).
            pause_s = BENCHMARK_RETRY_S
            try:
                forced = wanted in self._forced
                signed = await self._tester.test(wanted.node, wanted.model_digest, forced=forced)
                self._on_result(wanted.node, wanted.model_digest, signed)
                done += 1
            except TooShortError as error:
                log.info("timed job at node %s: %s", wanted.node, error)
                pause_s = BENCHMARK_LOOK_S if wanted not in self._forced else BENCHMARK_RETRY_S
                if len(self._forced) < BENCHMARK_TRIES_KEPT_MAX:
                    self._forced.add(wanted)
            except RefusedError as error:
                pause_s = min(error.retry_after_s or BENCHMARK_RETRY_S, BENCHMARK_RETRY_S)
                log.info("timed job at node %s: %s", wanted.node, error)
            except P2PError as error:
                log.info("timed job at node %s: %s", wanted.node, error)
            self._not_before_s[wanted] = trio.current_time() + pause_s
        return done
