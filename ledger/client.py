"""Owns the asking side of the ledger: signs each question, checks each answer.

The client believes only what it can check: a voucher must promise exactly what was asked and be
signed by somebody who may, and a statement must be covered by grants that the network's mint keys
signed. A ledger that answers with anything else gets UntrustedError.

A question whose answer was lost can be asked again with the same ID and values: the ledger then
gives the first result with `exists` true.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence

from ledger import methods
from ledger.usage_export import check_usage
from p2p.api_keys import ApiKey, hold_mac, lookup_mac
from p2p.codec import decode_message, encode_message
from p2p.errors import UntrustedError
from p2p.key_limits import NO_LIMITS, KeyLimits
from p2p.ledger_messages import (
    AccountFounding,
    CaptureLeg,
    CaptureRequest,
    EarningsRequest,
    EarningsStatement,
    Grant,
    HoldRequest,
    HoldResult,
    KeyCreation,
    KeyLookup,
    KeyRecord,
    KeyRevocation,
    NamespaceOpening,
    ReleaseRequest,
    Statement,
    StatementRequest,
    TransferResult,
    Voucher,
)
from p2p.prices import PriceTerms
from p2p.signing import Document, KeyPair, Signed, open_signed
from p2p.types import AccountId, NetworkId, account_id_from_founding
from p2p.usage_messages import UsageReport, UsageRequest, UsageRow

Call = Callable[[str, bytes], Awaitable[bytes]]
"""Asks a bootstrap: (method, body) -> answer. Raises RefusedError, DeadlineError, ..."""


def _believe(signer: bytes) -> bool:
    return True


class LedgerClient:
    """Asks the ledger in the name of one key pair: a gateway's, an account's or a mint's.

    Every method raises what `call` raises (RefusedError with the ledger's code, DeadlineError,
    PeerUnavailableError, ...), MalformedError for an answer that cannot be read and UntrustedError
    for one that must not be believed.
    """

    def __init__(
        self,
        call: Call,
        key_pair: KeyPair,
        network_id: NetworkId,
        clock_ms: Callable[[], int],
        *,
        trusts: Callable[[bytes], bool] = _believe,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Ask through `call`, sign with `key_pair`.

        Args:
            clock_ms: milliseconds since 1970.
            trusts: tells whether a public key may sign vouchers (a certified bootstrap's).
            random_bytes: makes nonces.
        """
        self._call = call
        self._key_pair = key_pair
        self._network_id = network_id
        self._clock_ms = clock_ms
        self._trusts = trusts
        self._random_bytes = random_bytes

    # --- the path of a job --------------------------------------------------------------------
    async def hold(
        self,
        key_id: str,
        hold_key: bytes,
        *,
        hold_id: bytes,
        job_id: bytes,
        maximum: int,
        terms: PriceTerms,
        expires_ms: int,
        source_network: str = "",
        caller_token: Signed | None = None,
        caller_network: str = "",
    ) -> HoldResult:
        """Hold a job's maximum (microcredits) until `expires_ms`, proving the API key.

        Args:
            hold_key: `ApiKey.hold_key()`.
            source_network: which of the key's networks the client is in, if it is limited to some.
            caller_token: what the client shows for the subcloud that `terms` name.
            caller_network: which of that subcloud's networks the client is in, if it names some.
        """
        mac = hold_mac(
            hold_key, self._network_id, self._key_pair.peer_id, hold_id, maximum, expires_ms
        )
        request = HoldRequest(
            hold_id,
            job_id,
            key_id,
            maximum,
            terms,
            self._clock_ms(),
            expires_ms,
            mac,
            source_network,
            caller_token,
            caller_network,
        )
        answer = await self._ask(methods.HOLD, request)
        result = decode_message(answer, HoldResult)
        self._check_voucher(result.voucher, request)
        return result

    def _check_voucher(self, signed: Signed, request: HoldRequest) -> None:
        voucher = open_signed(signed, Voucher, self._network_id)
        if not self._trusts(signed.signer):
            raise UntrustedError("this voucher is not signed by a bootstrap of the network")
        asked = (
            request.hold_id,
            request.job_id,
            self._key_pair.peer_id,
            request.maximum,
            request.terms,
            request.expires_ms,
        )
        promised = (
            voucher.hold_id,
            voucher.job_id,
            voucher.gateway_id,
            voucher.maximum,
            voucher.terms,
            voucher.expires_ms,
        )
        if asked != promised:
            raise UntrustedError("this voucher promises something else than what was asked for")

    async def capture(
        self, *, capture_id: bytes, hold_id: bytes, legs: Sequence[CaptureLeg]
    ) -> TransferResult:
        """Settle a hold; `amount` in the result is what was charged."""
        request = CaptureRequest(capture_id, hold_id, tuple(legs), self._clock_ms())
        return await self._transfer(methods.CAPTURE, request, capture_id)

    async def release(
        self, *, release_id: bytes, hold_id: bytes, outcome: str = ""
    ) -> TransferResult:
        """Give a whole hold back; `amount` in the result is what was held."""
        request = ReleaseRequest(release_id, hold_id, self._clock_ms(), outcome)
        return await self._transfer(methods.RELEASE, request, release_id)

    async def key_lookup(self, key_id: str, hold_key: bytes) -> KeyRecord:
        """Get the record of an API key that a consumer presented."""
        nonce, issued_ms = self._random_bytes(16), self._clock_ms()
        mac = lookup_mac(hold_key, self._network_id, self._key_pair.peer_id, nonce, issued_ms)
        answer = await self._ask(methods.KEY_LOOKUP, KeyLookup(key_id, nonce, issued_ms, mac))
        record = decode_message(answer, KeyRecord)
        if record.key_id != key_id:
            raise UntrustedError("the ledger answered with another API key's record")
        return record

    # --- reading ------------------------------------------------------------------------------
    async def statement(
        self,
        account_id: AccountId,
        namespace: str,
        *,
        mint_keys: Collection[bytes],
        key_id: str = "",
        hold_key: bytes = b"",
    ) -> Statement:
        """Get a namespace's money, covered by grants that `mint_keys` signed.

        Signed by an account's key pair it needs nothing more; a gateway gives key ID and hold key
        of one of the namespace's API keys.
        """
        nonce, issued_ms, mac = self._random_bytes(16), self._clock_ms(), b""
        if key_id:
            mac = lookup_mac(hold_key, self._network_id, self._key_pair.peer_id, nonce, issued_ms)
        request = StatementRequest(account_id, namespace, nonce, issued_ms, key_id, mac)
        statement = decode_message(await self._ask(methods.STATEMENT, request), Statement)
        self._check_statement(statement, account_id, namespace, mint_keys)
        return statement

    def _check_statement(
        self,
        statement: Statement,
        account_id: AccountId,
        namespace: str,
        mint_keys: Collection[bytes],
    ) -> None:
        grant_ids: set[bytes] = set()
        total = 0
        for signed in statement.grants:
            if signed.signer not in mint_keys:
                raise UntrustedError("the statement has a grant that no mint key signed")
            grant = open_signed(signed, Grant, self._network_id)
            if (grant.account_id, grant.namespace) != (account_id, namespace):
                raise UntrustedError("the statement has a grant to another namespace")
            if grant.grant_id in grant_ids:
                raise UntrustedError("the statement counts a grant twice")
            grant_ids.add(grant.grant_id)
            total += grant.amount
        claimed = statement.available + statement.held + statement.spent
        if not total >= statement.granted >= claimed:
            raise UntrustedError(
                f"the statement does not add up: grants {total}, granted {statement.granted}, "
                f"available, held and spent {claimed} microcredits"
            )

    async def earnings(self, account_id: AccountId) -> EarningsStatement:
        """Get what an account earned (asked by its key pair, or by a peer certified for it)."""
        request = EarningsRequest(account_id, self._random_bytes(16), self._clock_ms())
        return decode_message(await self._ask(methods.EARNINGS, request), EarningsStatement)

    async def usage(
        self,
        account_id: AccountId,
        namespace: str,
        first_day: int,
        last_day: int,
        *,
        key_id: str = "",
        hold_key: bytes = b"",
        after: UsageRow | None = None,
    ) -> UsageReport:
        """Get one page of a namespace's usage (see UsageRequest); `after`: the page's last row."""
        nonce, issued_ms, mac = self._random_bytes(16), self._clock_ms(), b""
        if key_id:
            mac = lookup_mac(hold_key, self._network_id, self._key_pair.peer_id, nonce, issued_ms)
        place = (after.day, after.key_id, after.model) if after is not None else (0, "", "")
        request = UsageRequest(
            account_id, namespace, first_day, last_day, nonce, issued_ms, key_id, mac, *place
        )
        return check_usage(
            request, decode_message(await self._ask(methods.USAGE, request), UsageReport)
        )

    # --- accounts -----------------------------------------------------------------------------
    async def found_account(self, recovery_key: bytes) -> AccountId:
        """Open an account whose signing key is this client's key pair; gives its ID."""
        document = AccountFounding(
            self._key_pair.public_key, recovery_key, self._clock_ms(), self._random_bytes(16)
        )
        signed = self._key_pair.sign(self._network_id, document)
        await self.send(signed)
        return account_id_from_founding(signed.body)

    async def open_namespace(self, account_id: AccountId, namespace: str) -> TransferResult:
        """Open a namespace of an account (signed by the account's key)."""
        return await self._operate(NamespaceOpening(account_id, namespace, self._clock_ms()))

    async def create_key(
        self,
        account_id: AccountId,
        namespace: str,
        key: ApiKey,
        *,
        name: str,
        expires_ms: int = 0,
        credit_cap_total: int = 0,
        models: tuple[str, ...] = (),
        gateways: tuple[str, ...] = (),
        limits: KeyLimits = NO_LIMITS,
    ) -> TransferResult:
        """Register an API key (signed by the account's key); only its hold key leaves us."""
        return await self._operate(
            KeyCreation(
                account_id,
                namespace,
                key.key_id,
                key.hold_key(),
                name,
                self._clock_ms(),
                expires_ms,
                credit_cap_total,
                models,
                gateways,
                limits,
            )
        )

    async def revoke_key(self, account_id: AccountId, key_id: str) -> TransferResult:
        """End an API key (signed by the account's key)."""
        return await self._operate(KeyRevocation(account_id, key_id, self._clock_ms()))

    async def grant(
        self, account_id: AccountId, namespace: str, *, grant_id: bytes, amount: int, memo: str = ""
    ) -> TransferResult:
        """Make credit for a namespace (signed by a mint key); `amount` in microcredits."""
        document = Grant(grant_id, account_id, namespace, amount, memo, self._clock_ms())
        return await self._operate(document)

    async def send(self, signed: Signed) -> TransferResult:
        """Carry a signed account operation or grant, whoever signed it."""
        answer = await self._call(methods.OPERATION, encode_message(signed))
        return decode_message(answer, TransferResult)

    # --- common -------------------------------------------------------------------------------
    async def _operate(self, document: Document) -> TransferResult:
        return await self.send(self._key_pair.sign(self._network_id, document))

    async def _ask(self, method: str, document: Document) -> bytes:
        signed = self._key_pair.sign(self._network_id, document)
        return await self._call(method, encode_message(signed))

    async def _transfer(
        self, method: str, document: Document, transfer_id: bytes
    ) -> TransferResult:
        result = decode_message(await self._ask(method, document), TransferResult)
        if result.transfer_id != transfer_id:
            raise UntrustedError("the ledger answered with another transfer's result")
        return result
