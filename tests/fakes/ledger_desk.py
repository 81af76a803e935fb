"""Owns a ledger service on a real ledger, with an account, a namespace, a key and some credit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from bootstrap.account_door import AccountDoor
from bootstrap.ledger_service import LedgerService
from ledger.client import LedgerClient
from ledger.ledger import Ledger
from p2p.api_keys import new_api_key
from p2p.calls import Caller
from p2p.certificates import Certificate
from p2p.ledger_messages import CaptureLeg, HoldResult, Voucher
from p2p.network_configuration import ApprovedModel, Fees, NetworkConfiguration, price_terms
from p2p.signing import KeyPair, open_signed
from p2p.types import AccountId, Role
from tests.fakes.ledger_world import (
    DIGEST,
    GATEWAY,
    GATEWAY_ACCOUNT,
    MINT,
    NETWORK,
    NODE_ACCOUNTS,
    NODES,
    START_MS,
    World,
    key_pair,
)
from tests.fakes.subcloud_ledger import Policies

BOOTSTRAP = key_pair(5)
ACCOUNT = key_pair(6)
KEY = new_api_key(bytes(range(42)))
MODEL = ApprovedModel(
    name="tiny-chat",
    digest=DIGEST.hex(),
    context_tokens=1024,
    input_microcredits_per_million_tokens=2_000_000,
    output_microcredits_per_million_tokens=5_000_000,
)
CONFIGURATION = NetworkConfiguration(
    network_id=NETWORK,
    version=1,
    issued_ms=START_MS,
    models=(MODEL,),
    fees=Fees(gateway_basis_points=500, network_basis_points=500),
    mint_keys=(MINT.public_key.hex(),),
)
TERMS = price_terms(CONFIGURATION, MODEL)


def caller(
    pair: KeyPair, role: Role = Role.GATEWAY, account_id: AccountId = GATEWAY_ACCOUNT
) -> Caller:
    certificate = Certificate(NETWORK, pair.peer_id, role, account_id, START_MS, START_MS + 10**9)
    return Caller(pair.peer_id, certificate)


class Desk:
    """A running service with an account, a namespace, a key and 100,000 microcredits."""

    def __init__(self, ledger: Ledger) -> None:
        self.world = World()
        self.configuration = CONFIGURATION
        self.ledger = ledger
        self.door = door = AccountDoor(ledger, lambda: self.configuration, self.clock_ms)
        self.policies = Policies()
        self.service = LedgerService(
            ledger,
            BOOTSTRAP,
            NETWORK,
            lambda: self.configuration,
            self.clock_ms,
            door,
            policies=self.policies,
        )
        self.handlers = self.service.handlers()
        self.account_id = AccountId("")

    def clock_ms(self) -> int:
        return self.world.now_ms

    def call_as(self, who: Caller) -> Callable[[str, bytes], Awaitable[bytes]]:
        async def call(method: str, body: bytes) -> bytes:
            return await self.handlers[method](who, body)

        return call

    def client(self, pair: KeyPair, who: Caller | None = None) -> LedgerClient:
        return LedgerClient(self.call_as(who or caller(GATEWAY)), pair, NETWORK, self.clock_ms)

    @property
    def gateway(self) -> LedgerClient:
        return self.client(GATEWAY)

    async def set_up(self) -> None:
        account = self.client(ACCOUNT)
        self.account_id = await account.found_account(key_pair(7).public_key)
        await account.open_namespace(self.account_id, "dev")
        await account.create_key(self.account_id, "dev", KEY, name="a key")
        await self.client(MINT).grant(
            self.account_id, "dev", grant_id=self.world.new_id(), amount=100_000
        )
        for node, node_account in zip(NODES, NODE_ACCOUNTS, strict=True):
            await self.ledger.bind_node(node.peer_id, node_account)

    async def hold(self, maximum: int = 1_000, **changes: object) -> HoldResult:
        arguments = {
            "hold_id": self.world.new_id(),
            "job_id": self.world.new_id(),
            "maximum": maximum,
            "terms": TERMS,
            "expires_ms": self.world.now_ms + 60_000,
        }
        return await self.gateway.hold(KEY.key_id, KEY.hold_key(), **{**arguments, **changes})

    def leg(self, result: HoldResult, **options: object) -> CaptureLeg:
        voucher = open_signed(result.voucher, Voucher, NETWORK)
        tenant = self.world.tenant()
        hold = self.world.hold(tenant, 1, hold_id=voucher.hold_id)
        document = replace(hold.document, job_id=voucher.job_id)
        return self.world.leg(replace(hold, document=document), **options)[1]


def open_hold_id(result: HoldResult) -> bytes:
    return open_signed(result.voucher, Voucher, NETWORK, signer=BOOTSTRAP.public_key).hold_id
