"""Owns the transparency log's calls as a bootstrap answers them, and the gossip of checkpoints.

Theory of operation. Checkpoints, consistency proofs and leaves are for every member: leaves are
commitments and tell nothing. What a leaf says is told, with its salt and a proof, only to who may
know it: the consumer's leg and account operations to a signing key of the namespace's account, what
was earned to a signing key of the account that earned it or to the node that signed the receipt. A
subject that does not exist and one that is not the asker's get the same answer.

The log's key pair belongs to this bootstrap (`log.key` in its data folder) and is certified by it:
a LogKey document, under the bootstrap's certificate from the authority. The authority can name the
keys itself (`log_keys` in the network configuration): then no other signs checkpoints that count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

import trio

from bootstrap.ledger_checks import check_fresh, require_role
from bootstrap.limits import CHECKPOINT_GOSSIP_INTERVAL_S
from ledger import methods
from ledger.errors import LedgerError, ValueRefusedError
from ledger.ledger import Ledger
from ledger.limits import LOG_LEAVES_MAX
from ledger.log.appending import LogSigner
from ledger.log.notes import log_origin
from ledger.log.sequencer import Sequencer
from ledger.store.log.proofs import checkpoint_message, consistency, inclusion_reply
from ledger.store.log.queries import latest_checkpoint, leaves_between
from p2p.calls import Caller, CallHandler
from p2p.certificates import Chain
from p2p.codec import decode_message, encode_message
from p2p.errors import P2PError, RefusedError
from p2p.log_messages import InclusionRequest, LogKey, LogRange
from p2p.log_topics import CHECKPOINT_TOPIC
from p2p.network import Network
from p2p.signing import KeyPair, Signed, open_signed
from p2p.types import NetworkId, Role

log = logging.getLogger(__name__)
_MEMBERS = (Role.NODE, Role.GATEWAY, Role.BOOTSTRAP)


class LogService:
    """Keeps the log of one ledger growing, answers for it, and tells its checkpoints."""

    def __init__(
        self,
        ledger: Ledger,
        key_pair: KeyPair,
        log_key: KeyPair,
        chain: Chain,
        network_id: NetworkId,
        clock_ms: Callable[[], int],
        log_keys: Callable[[], Collection[bytes]] = tuple,
    ) -> None:
        """Serve a running ledger.

        Args:
            key_pair: the bootstrap's: certifies the log key.
            log_key: signs checkpoints, and nothing else.
            chain: the bootstrap's certificate.
            clock_ms: milliseconds since 1970.
            log_keys: the log keys that the configuration in force names; empty: any counts.
        """
        self._ledger = ledger
        self._network_id = network_id
        self._clock_ms = clock_ms
        origin = log_origin(network_id)
        statement = key_pair.sign(network_id, LogKey(origin, log_key.public_key, clock_ms()))
        signer = LogSigner(origin, log_key, statement, tuple(chain))
        self.sequencer = Sequencer(
            ledger,
            signer,
            may_sign=lambda: not log_keys() or log_key.public_key in log_keys(),
        )

    def handlers(self) -> dict[str, CallHandler]:
        """Give the handler of each method, for `p2p.calls.serve_calls`."""
        return {
            methods.LOG_CHECKPOINT: _refusing(self._checkpoint),
            methods.LOG_INCLUSION: _refusing(self._inclusion),
            methods.LOG_CONSISTENCY: _refusing(self._consistency),
            methods.LOG_LEAVES: _refusing(self._leaves),
        }

    async def run(self, network: Network) -> None:
        """Sequence, and gossip a new checkpoint from time to time, until cancelled.

        (Not in a mirror, which only answers the calls.)
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.sequencer.run)
            told = -1
            while True:
                await trio.sleep(CHECKPOINT_GOSSIP_INTERVAL_S)
                try:
                    told = await self._tell(network, told)
                except (LedgerError, P2PError) as error:
                    log.warning("no checkpoint was told: %s", error)

    async def _tell(self, network: Network, told: int) -> int:
        latest = await self._ledger.read(latest_checkpoint)
        if latest is None or latest.size == told:
            return told
        await network.publish(CHECKPOINT_TOPIC, encode_message(checkpoint_message(latest)))
        return latest.size

    async def _checkpoint(self, caller: Caller, body: bytes) -> bytes:
        require_role(caller, *_MEMBERS)
        latest = await self._ledger.read(latest_checkpoint)
        if latest is None:
            raise ValueRefusedError("the log is empty so far")
        return encode_message(checkpoint_message(latest))

    async def _inclusion(self, caller: Caller, body: bytes) -> bytes:
        require_role(caller, *_MEMBERS)
        signed = decode_message(body, Signed)
        document = open_signed(signed, InclusionRequest, self._network_id)
        check_fresh(document.issued_ms, self._clock_ms())
        if len(document.subject) not in (16, 32):
            raise ValueRefusedError("a subject is a transfer ID (16 bytes) or a digest (32)")
        reply = await self._ledger.read(
            lambda c: inclusion_reply(c, document.subject, signed.signer)
        )
        return encode_message(reply)

    async def _consistency(self, caller: Caller, body: bytes) -> bytes:
        require_role(caller, *_MEMBERS)
        sizes = decode_message(body, LogRange)
        return await self._ledger.read(lambda c: consistency(c, sizes.begin, sizes.end))

    async def _leaves(self, caller: Caller, body: bytes) -> bytes:
        require_role(caller, *_MEMBERS)
        wanted = decode_message(body, LogRange)
        if not 0 <= wanted.end - wanted.begin <= LOG_LEAVES_MAX:
            raise ValueRefusedError(f"at most {LOG_LEAVES_MAX} leaves are given at once")
        found = await self._ledger.read(lambda c: leaves_between(c, wanted.begin, wanted.end))
        return b"".join(found)


def _refusing(handler: CallHandler) -> CallHandler:
    """Tell what the ledger refuses as a RefusedError with the ledger's code."""

    async def handle(caller: Caller, body: bytes) -> bytes:
        try:
            return await handler(caller, body)
        except LedgerError as error:
            raise RefusedError(error.code, str(error), error.retry_after_s) from error

    return handle
