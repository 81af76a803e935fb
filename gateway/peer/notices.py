"""Owns how the gateway hears of changed keys and wanted leases: bootstraps' notices, by gossip."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable

from gateway.limits import NOTICES_REMEMBERED_MAX
from gateway.peer.keys import KeyCache
from gateway.peer.leases import Leases
from p2p.clock import Clock
from p2p.codec import encode_message
from p2p.errors import P2PError, UntrustedError
from p2p.lease_messages import LEDGER_NOTICE_TOPIC, LedgerNotice
from p2p.ledger_notices import NOTICE_AGE_MS_MAX, open_notice
from p2p.network import Network
from p2p.types import NetworkId, PeerId

log = logging.getLogger(__name__)


class Notices:
    """Takes ledger notices for as long as the gateway runs."""

    def __init__(
        self,
        network: NetworkId,
        keys: KeyCache,
        leases: Leases,
        *,
        is_banned: Callable[[PeerId], bool],
        clock_ms: Clock,
    ) -> None:
        """Tell `keys` and `leases`; notices of banned bootstraps are dropped."""
        self._network = network
        self._keys = keys
        self._leases = leases
        self._is_banned = is_banned
        self._clock_ms = clock_ms
        self._seen: OrderedDict[bytes, int] = OrderedDict()
        """Digests of notices that were acted on, and until when they could be replayed."""

    async def follow(self, network: Network) -> None:
        """Listen until cancelled."""
        async for item in network.subscribe(LEDGER_NOTICE_TOPIC):
            try:
                self.take(item.data)
            except P2PError as error:
                log.info("a ledger notice from %s is dropped: %s", item.author, error)

    def take(self, data: bytes) -> None:
        """Act on a notice, once however often it comes.

        Raises: MalformedError, UntrustedError, StaleError.
        """
        notice, issuer = open_notice(data, self._network, self._clock_ms())
        if self._is_banned(issuer):
            raise UntrustedError("its issuer is banned")
        if self._is_repeat(notice, issuer):
            return
        if notice.changed_keys:
            marks = frozenset(notice.changed_keys)
            self._keys.forget_marked(marks)
            self._leases.key_changed(marks)
        if notice.wanted_keys:
            self._leases.wanted(frozenset(notice.wanted_keys))

    def _is_repeat(self, notice: LedgerNotice, issuer: PeerId) -> bool:
        # Of what was signed, not of what was sent: the chain beside it can be varied by anybody.
        digest = hashlib.sha256(issuer.encode() + encode_message(notice)).digest()
        now_ms = self._clock_ms()
        while self._seen and next(iter(self._seen.values())) < now_ms:
            self._seen.popitem(last=False)
        if digest in self._seen:
            return True
        self._seen[digest] = notice.issued_ms + NOTICE_AGE_MS_MAX
        if len(self._seen) > NOTICES_REMEMBERED_MAX:
            self._seen.popitem(last=False)
        return False
