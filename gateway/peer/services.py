"""Owns the bundle of services that every job is given."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.peer.key_rates import KeyRates
from gateway.peer.keys import KeyCache
from gateway.peer.leases import Leases
from gateway.peer.ledger_port import LedgerPort
from gateway.peer.registry import Registry
from gateway.peer.sessions import Sessions
from gateway.peer.settlement import Settlement
from gateway.subclouds.placing import Placing
from p2p.certificates import Chain
from p2p.clock import Clock
from p2p.configuration_book import ConfigurationBook
from p2p.signing import KeyPair
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.index import GLOBAL_POOL
from p2p.types import AccountId, NetworkId, PeerId


@dataclass(frozen=True, slots=True)
class Services:
    """What a job needs of the gateway.

    Attributes:
        now_s: monotonic seconds; clock_ms: time of day.
        random_bytes: for IDs and salts.
        placing: where jobs belong: subclouds, and who qualifies in them.
        issuer_chain: the certificates of a bootstrap that signs vouchers.
        cache_secret: makes accounts' cache scopes; nobody else can tell whose a scope is.
    """

    key_pair: KeyPair
    network: NetworkId
    configuration: ConfigurationBook
    keys: KeyCache
    key_rates: KeyRates
    ledger: LedgerPort
    registry: Registry
    sessions: Sessions
    settlement: Settlement
    leases: Leases
    placing: Placing
    clock_ms: Clock
    now_s: Callable[[], float]
    random_bytes: Callable[[int], bytes]
    issuer_chain: Callable[[PeerId], Chain]
    cache_secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def cache_scope(self, account_id: AccountId, identity: SubcloudId = GLOBAL_POOL) -> bytes:
        """Name an account in one pool to a node's cache of prompts (`p2p.job_messages.Offer`)."""
        content = f"{account_id}\0{identity}".encode()
        return hmac.digest(self.cache_secret, content, hashlib.sha256)[:16]
