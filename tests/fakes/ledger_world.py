"""Owns a small world for ledger tests: keys, accounts and the operations that they sign."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace

from ledger.book import Book
from ledger.hold_context import NO_CONTEXT, HoldContext
from ledger.operations import (
    BindNode,
    CaptureHold,
    CreateKey,
    ExpireHold,
    FoundAccount,
    Leg,
    MakeGrant,
    OpenNamespace,
    Operation,
    PlaceHold,
    ReleaseHold,
    RevokeKey,
)
from ledger.rules import decide
from p2p.api_keys import ApiKey, hold_mac, new_api_key
from p2p.job_messages import DeliveryCount, NodeReceipt
from p2p.ledger_messages import (
    AccountFounding,
    CaptureLeg,
    CaptureRequest,
    Grant,
    HoldRequest,
    KeyCreation,
    KeyRevocation,
    NamespaceOpening,
    ReleaseRequest,
    TransferResult,
)
from p2p.prices import FeeRule, PriceTerms
from p2p.signing import KeyPair, Signed
from p2p.types import AccountId, NetworkId, account_id_from_founding, network_id

START_MS = 1_800_000_000_000
TERMS = PriceTerms(2_000_000, 5_000_000, 1, "tiny-chat")
"""2 microcredits an input token, 5 an output token."""
FEES = FeeRule(500, 500)
DIGEST = bytes([7]) * 32
CAP = 10**15


def key_pair(number: int) -> KeyPair:
    """Give a key pair that is the same in every run."""
    return KeyPair(number.to_bytes(32, "big"))


AUTHORITY = key_pair(1)
NETWORK: NetworkId = network_id("test", AUTHORITY.public_key)
MINT = key_pair(2)
GATEWAY = key_pair(3)
OTHER_GATEWAY = key_pair(4)
NODES = tuple(key_pair(10 + number) for number in range(8))
GATEWAY_ACCOUNT = AccountId("acct-" + "a" * 40)
NODE_ACCOUNTS = tuple(AccountId("acct-" + f"{number:040x}") for number in range(1, 9))


@dataclass(frozen=True)
class Tenant:
    """An account with one namespace and one API key."""

    keys: KeyPair
    founding: FoundAccount
    account_id: AccountId
    namespace: str
    api_key: ApiKey

    @property
    def path(self) -> str:
        return f"{self.account_id}/{self.namespace}"


class World:
    """Makes signed operations. IDs count up, so that a run is repeatable."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self._ids = itertools.count(1)

    def clock_ms(self) -> int:
        return self.now_ms

    def new_id(self) -> bytes:
        return hashlib.sha256(next(self._ids).to_bytes(16, "big")).digest()[:16]

    def tenant(self, number: int = 0, namespace: str = "dev") -> Tenant:
        keys = key_pair(1000 + number)
        document = AccountFounding(
            keys.public_key, key_pair(2000 + number).public_key, START_MS, bytes(16)
        )
        signed = keys.sign(NETWORK, document)
        api_key = new_api_key(number.to_bytes(10, "big") + bytes(32))
        return Tenant(
            keys,
            FoundAccount(signed, document),
            account_id_from_founding(signed.body),
            namespace,
            api_key,
        )

    def setup(
        self, tenant: Tenant, amount: int, *, cap: int = 0, nodes: int = 3
    ) -> list[Operation]:
        """Everything that must exist before a tenant's first hold."""
        found: list[Operation] = [
            tenant.founding,
            self.opening(tenant),
            self.creation(tenant, credit_cap_total=cap),
        ]
        if amount:
            found.append(self.grant(tenant, amount))
        return found + self.bindings(nodes)

    def bindings(self, count: int = 3) -> list[Operation]:
        pairs = list(zip(NODES, NODE_ACCOUNTS, strict=True))[:count]
        return [BindNode(node.peer_id, account) for node, account in pairs]

    def opening(self, tenant: Tenant, signer: KeyPair | None = None) -> OpenNamespace:
        document = NamespaceOpening(tenant.account_id, tenant.namespace, self.now_ms)
        return OpenNamespace((signer or tenant.keys).sign(NETWORK, document), document)

    def creation(
        self, tenant: Tenant, signer: KeyPair | None = None, **changes: object
    ) -> CreateKey:
        document = replace(
            KeyCreation(
                tenant.account_id,
                tenant.namespace,
                tenant.api_key.key_id,
                tenant.api_key.hold_key(),
                "a key",
                self.now_ms,
            ),
            **changes,
        )
        return CreateKey((signer or tenant.keys).sign(NETWORK, document), document)

    def revocation(self, tenant: Tenant, signer: KeyPair | None = None) -> RevokeKey:
        document = KeyRevocation(tenant.account_id, tenant.api_key.key_id, self.now_ms)
        return RevokeKey((signer or tenant.keys).sign(NETWORK, document), document)

    def grant(
        self, tenant: Tenant, amount: int, *, grant_id: bytes | None = None, epoch_cap: int = CAP
    ) -> MakeGrant:
        document = Grant(
            grant_id or self.new_id(),
            tenant.account_id,
            tenant.namespace,
            amount,
            "a test",
            self.now_ms,
        )
        return MakeGrant(MINT.sign(NETWORK, document), document, epoch_cap)

    def hold(
        self,
        tenant: Tenant,
        maximum: int,
        *,
        hold_id: bytes | None = None,
        gateway: KeyPair = GATEWAY,
        lifetime_ms: int = 60_000,
        terms: PriceTerms = TERMS,
        mac: bytes | None = None,
        fees: FeeRule = FEES,
        context: HoldContext = NO_CONTEXT,
        caller_token: Signed | None = None,
        caller_network: str = "",
    ) -> PlaceHold:
        hold_id = hold_id or self.new_id()
        expires_ms = self.now_ms + lifetime_ms
        proof = mac or hold_mac(
            tenant.api_key.hold_key(), NETWORK, gateway.peer_id, hold_id, maximum, expires_ms
        )
        document = HoldRequest(
            hold_id,
            hold_id[::-1],
            tenant.api_key.key_id,
            maximum,
            terms,
            self.now_ms,
            expires_ms,
            proof,
            caller_token=caller_token,
            caller_network=caller_network,
        )
        signed = gateway.sign(NETWORK, document)
        return PlaceHold(
            signed,
            document,
            NETWORK,
            gateway.peer_id,
            GATEWAY_ACCOUNT,
            DIGEST,
            fees,
            900_000,
            context=context,
        )

    def leg(
        self,
        hold: PlaceHold,
        *,
        node: KeyPair = NODES[0],
        attempt: int = 0,
        input_tokens: int = 0,
        output_tokens: int = 0,
        receipt: dict[str, object] | None = None,
        delivery: dict[str, object] | None = None,
        gateway: KeyPair = GATEWAY,
    ) -> tuple[Leg, CaptureLeg]:
        """A leg where the node signed as much as the gateway counts, unless changed."""
        document = hold.document
        offer_hash = bytes([attempt]) * 32
        made = NodeReceipt(
            document.job_id,
            attempt,
            offer_hash,
            document.hold_id,
            hold.gateway_id,
            bytes([9]) * 32,
            DIGEST,
            bytes([8]) * 32,
            bytes([6]) * 32,
            input_tokens or 10,
            output_tokens,
            self.now_ms,
            self.now_ms,
            True,
            "stop",
            1,
        )
        made = replace(made, **(receipt or {}))
        counted = DeliveryCount(
            document.job_id,
            attempt,
            offer_hash,
            document.hold_id,
            node.peer_id,
            input_tokens,
            output_tokens,
            True,
            self.now_ms,
        )
        counted = replace(counted, **(delivery or {}))
        signed = CaptureLeg(node.sign(NETWORK, made), gateway.sign(NETWORK, counted))
        return Leg(node.peer_id, made, counted), signed

    def capture(
        self,
        hold: PlaceHold,
        legs: list[tuple[Leg, CaptureLeg]],
        *,
        capture_id: bytes | None = None,
        gateway: KeyPair = GATEWAY,
        outcome: str = "",
    ) -> CaptureHold:
        document = CaptureRequest(
            capture_id or self.new_id(),
            hold.document.hold_id,
            tuple(signed for _, signed in legs),
            self.now_ms,
            outcome,
        )
        signed = gateway.sign(NETWORK, document)
        return CaptureHold(signed, document, gateway.peer_id, tuple(leg for leg, _ in legs))

    def release(
        self,
        hold: PlaceHold,
        *,
        release_id: bytes | None = None,
        gateway: KeyPair = GATEWAY,
        outcome: str = "",
    ) -> ReleaseHold:
        document = ReleaseRequest(
            release_id or self.new_id(), hold.document.hold_id, self.now_ms, outcome
        )
        return ReleaseHold(gateway.sign(NETWORK, document), document, gateway.peer_id)

    def expire(self, hold: PlaceHold) -> ExpireHold:
        return ExpireHold(hold.document.hold_id, self.now_ms)


class MemoryLedger:
    """The pure rules over one book that holds everything: a ledger without a database."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.book = Book()

    def do(self, *operations: Operation) -> TransferResult:
        """Decide and apply; gives the last result. Raises what the rules raise."""
        result = None
        for operation in operations:
            change = decide(self.book, operation, self.world.now_ms)
            self.book.apply(change)
            result = change.result
        assert result is not None
        return result

    def balances(self) -> dict[str, int]:
        """Every ledger account that is not zero, summed from the entries."""
        found: dict[str, int] = {}
        for transfer in self.book.new_transfers:
            for account, amount in transfer.entries:
                found[account] = found.get(account, 0) + amount
        assert sum(found.values()) == 0
        return {account: amount for account, amount in found.items() if amount}
