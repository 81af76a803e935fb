"""Owns the ledger's calls as a bootstrap answers them.

Theory of operation. The body of each call is an encoded `Signed`. A gateway asks in its own name
(hold, capture, release, key lookup: the signer is the caller); for account operations and
statements it is only the courier of a document that an account's key or a mint key signed. What the
ledger refuses becomes a RefusedError with the ledger's code. A hold is answered with a voucher
signed by this bootstrap: made after the hold is durable, and the same again if the question is
repeated.
"""

from __future__ import annotations

from collections.abc import Callable

from bootstrap.account_door import AccountDoor, opening_of
from bootstrap.account_service import AccountService
from bootstrap.claim_service import ClaimService
from bootstrap.dispute_service import DisputeService
from bootstrap.hold_contexts import context_of, require_own_account
from bootstrap.lease_service import LeaseService
from bootstrap.ledger_checks import (
    account_operation,
    cached_peer_id,
    capture_operation,
    check_fresh,
    from_gateway,
    require_role,
    require_signer,
)
from bootstrap.notices import Notices
from bootstrap.stakes import stake_operation
from bootstrap.subcloud_usage_service import SubcloudUsageService
from ledger import methods
from ledger.accounts import namespace_path
from ledger.errors import (
    KeyProofError,
    KeyUnknownError,
    LedgerError,
    NamespaceUnknownError,
    NotAuthorizedError,
)
from ledger.key_limits import check_gateway
from ledger.key_proof import check_key_usable, proof_ends_ms
from ledger.ledger import Ledger
from ledger.limits import KEY_CACHE_S
from ledger.operations import PlaceHold, ReleaseHold, content_of
from ledger.store.queries import KeyView, account_view, earnings_view, key_view, namespace_view
from ledger.store.stake_queries import staked_by
from ledger.store.usage_queries import usage_report
from p2p.allowed_terms import AllowedTerms, Policies
from p2p.api_keys import lookup_mac
from p2p.calls import Caller, CallHandler
from p2p.codec import decode_message, encode_message
from p2p.errors import RefusedError
from p2p.freshness import check_times
from p2p.ledger_messages import (
    CaptureRequest,
    EarningsRequest,
    EarningsStatement,
    HoldRequest,
    HoldResult,
    KeyLookup,
    KeyRecord,
    ReleaseRequest,
    Statement,
    StatementRequest,
    Voucher,
)
from p2p.limits import CLOCK_SKEW_MS_MAX
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import KeyPair, Signed, open_signed
from p2p.types import NetworkId, Role
from p2p.usage_messages import UsageRequest


class LedgerService:
    """Answers the ledger's calls (`ledger.methods`) with one process's ledger."""

    def __init__(
        self,
        ledger: Ledger,
        key_pair: KeyPair,
        network_id: NetworkId,
        configuration: Callable[[], NetworkConfiguration],
        clock_ms: Callable[[], int],
        door: AccountDoor,
        notices: Notices | None = None,
        policies: Policies | None = None,
    ) -> None:
        """Serve a running ledger.

        Args:
            key_pair: the bootstrap's: signs vouchers.
            configuration: gives the network configuration in force.
            clock_ms: milliseconds since 1970.
            door: opens accounts (shared with admission).
            notices: told of changed keys and wanted leases (None: nobody listens).
            policies: of subclouds (None: nothing is held for any).
        """
        self._ledger = ledger
        self._door = door
        self._key_pair = key_pair
        self._network_id = network_id
        self._terms = AllowedTerms(configuration, policies)
        self._clock_ms = clock_ms
        self._notices = notices or Notices(key_pair, (), network_id, clock_ms)
        self._claims = ClaimService(ledger, network_id, clock_ms)
        self._disputes = DisputeService(ledger, network_id, self._terms, clock_ms)
        self._leases = LeaseService(
            ledger, key_pair, network_id, self._terms, clock_ms, self._notices
        )
        self._accounts = AccountService(ledger, network_id, clock_ms)
        self._subclouds = SubcloudUsageService(ledger, network_id, policies, clock_ms)

    def handlers(self) -> dict[str, CallHandler]:
        """Give the handler of each method, for `p2p.calls.serve_calls`."""
        return {
            methods.HOLD: _refusing(self._hold),
            methods.CAPTURE: _refusing(self._capture),
            methods.RELEASE: _refusing(self._release),
            methods.KEY_LOOKUP: _refusing(self._key_lookup),
            methods.STATEMENT: _refusing(self._statement),
            methods.OPERATION: _refusing(self._operation),
            methods.EARNINGS: _refusing(self._earnings),
            methods.USAGE: _refusing(self._usage),
            **{method: _refusing(h) for method, h in self._accounts.handlers().items()},
            **{method: _refusing(h) for method, h in self._leases.handlers().items()},
            **{method: _refusing(h) for method, h in self._disputes.handlers().items()},
            **{method: _refusing(h) for method, h in self._claims.handlers().items()},
            **{method: _refusing(h) for method, h in self._subclouds.handlers().items()},
        }

    # --- the path of a job --------------------------------------------------------------------
    async def _hold(self, caller: Caller, body: bytes) -> bytes:
        signed, now_ms = self._from_gateway(caller, body), self._clock_ms()
        document = open_signed(signed, HoldRequest, self._network_id)
        check_times(document.issued_ms, document.expires_ms, now_ms)
        certificate = require_role(caller, Role.GATEWAY)
        configuration = self._terms.current(now_ms)
        lifetime_ms_max = configuration.limits.hold_lifetime_s_max * 1000 + CLOCK_SKEW_MS_MAX
        try:
            job = self._terms.find(document.terms, now_ms)
            context = context_of(certificate, job, self._terms, now_ms, document.caller_token)
        except RefusedError:
            content = content_of(signed.signer, document)
            result = await self._leases.repeated(document.hold_id, content)
            if result is None:
                raise
        else:
            operation = PlaceHold(
                signed,
                document,
                self._network_id,
                caller.peer_id,
                certificate.account_id,
                bytes.fromhex(job.model.digest),
                configuration.fee_rule,
                lifetime_ms_max,
                configuration.limits.gateway_exposure_microcredits_max,
                context,
            )
            result = await self._leases.submit(operation)
        return encode_message(
            HoldResult(self._voucher(caller, document), result.available, result.exists)
        )

    def _voucher(self, caller: Caller, document: HoldRequest) -> Signed:
        voucher = Voucher(
            document.hold_id,
            document.job_id,
            caller.peer_id,
            document.maximum,
            document.terms,
            document.issued_ms,
            document.expires_ms,
        )
        return self._key_pair.sign(self._network_id, voucher)

    async def _capture(self, caller: Caller, body: bytes) -> bytes:
        signed = self._from_gateway(caller, body)
        document = open_signed(signed, CaptureRequest, self._network_id)
        try:
            operation = capture_operation(self._network_id, signed, document, caller.peer_id)
            return encode_message(await self._ledger.submit(operation))
        except LedgerError as error:
            self._ledger.note_refusal(caller.peer_id, error, body)
            raise

    async def _release(self, caller: Caller, body: bytes) -> bytes:
        signed = self._from_gateway(caller, body)
        document = open_signed(signed, ReleaseRequest, self._network_id)
        operation = ReleaseHold(signed, document, caller.peer_id)
        return encode_message(await self._ledger.submit(operation))

    async def _key_lookup(self, caller: Caller, body: bytes) -> bytes:
        signed, now_ms = self._from_gateway(caller, body), self._clock_ms()
        document = open_signed(signed, KeyLookup, self._network_id)
        check_fresh(document.issued_ms, now_ms)
        view, proof_ends = await self._proved_key(signed, document)
        require_own_account(require_role(caller, Role.GATEWAY), view.account_id)
        key = view.key
        check_key_usable(key, now_ms)
        check_gateway(key, caller.peer_id)
        ends_ms = [end for end in (key.expires_ms, proof_ends) if end]
        return encode_message(
            KeyRecord(
                key.key_id,
                view.account_id,
                view.namespace_name,
                key.name,
                min(ends_ms, default=0),
                key.models,
                view.available,
                KEY_CACHE_S,
                key.limits,
            )
        )

    async def _proved_key(
        self, signed: Signed, document: KeyLookup | StatementRequest | UsageRequest
    ) -> tuple[KeyView, int]:
        """Give a key whose possession is proved, and when that proof ends (0: never)."""
        view = await self._ledger.read(lambda c: key_view(c, document.key_id))
        if view is None:
            raise KeyUnknownError(f"there is no API key {document.key_id}")
        asker = cached_peer_id(signed.signer)

        def expected(hold_key: bytes) -> bytes:
            return lookup_mac(hold_key, self._network_id, asker, document.nonce, document.issued_ms)

        ends_ms = proof_ends_ms(view.key, expected, document.mac, self._clock_ms())
        if ends_ms is None:
            raise KeyProofError(f"the MAC does not prove possession of {document.key_id}")
        return view, ends_ms

    # --- accounts -----------------------------------------------------------------------------
    async def _operation(self, caller: Caller, body: bytes) -> bytes:
        require_role(caller, Role.GATEWAY, Role.BOOTSTRAP)
        signed = decode_message(body, Signed)
        opening = opening_of(signed, self._network_id, caller, self._clock_ms())
        if opening is not None:
            return encode_message(await self._door.open(opening))
        configuration = self._terms.current(self._clock_ms())
        network, policies = self._network_id, self._terms.policies
        operation = stake_operation(network, signed, configuration, policies) or account_operation(
            network, signed, configuration
        )
        result = await self._ledger.submit(operation)
        self._notices.note_operation(operation)
        return encode_message(result)

    async def _statement(self, caller: Caller, body: bytes) -> bytes:
        require_role(caller, Role.GATEWAY, Role.BOOTSTRAP)
        signed = decode_message(body, Signed)
        document = open_signed(signed, StatementRequest, self._network_id)
        check_fresh(document.issued_ms, self._clock_ms())
        path = await self._readable_namespace(caller, signed, document)
        found = await self._ledger.read(lambda c: namespace_view(c, path))
        if found is None:
            raise NamespaceUnknownError(f"there is no namespace {path}")
        spent = found.granted - found.available - found.held
        grants = tuple(decode_message(grant, Signed) for grant in found.grants)
        return encode_message(
            Statement(
                found.available,
                found.held,
                spent,
                found.granted,
                grants,
                found.credited,
                found.leased,
                await self._ledger.read(lambda c: staked_by(c, path)),
            )
        )

    async def _readable_namespace(
        self, caller: Caller, signed: Signed, document: StatementRequest | UsageRequest
    ) -> str:
        """Give the path of a namespace that the asking one may look into."""
        path = namespace_path(document.account_id, document.namespace)
        if document.key_id:
            require_signer(caller, signed)
            view, _ = await self._proved_key(signed, document)
            asker = require_role(caller, Role.GATEWAY, Role.BOOTSTRAP)
            require_own_account(asker, view.account_id)
            check_key_usable(view.key, self._clock_ms())
            if view.key.namespace != path:
                raise NotAuthorizedError("this API key belongs to another namespace")
        else:
            await self._require_account_key(document.account_id, signed)
        return path

    async def _usage(self, caller: Caller, body: bytes) -> bytes:
        require_role(caller, Role.GATEWAY, Role.BOOTSTRAP)
        signed = decode_message(body, Signed)
        document = open_signed(signed, UsageRequest, self._network_id)
        check_fresh(document.issued_ms, self._clock_ms())
        path = await self._readable_namespace(caller, signed, document)
        return encode_message(await self._ledger.read(lambda c: usage_report(c, path, document)))

    async def _earnings(self, caller: Caller, body: bytes) -> bytes:
        certificate = require_role(caller, Role.NODE, Role.GATEWAY, Role.BOOTSTRAP)
        signed = decode_message(body, Signed)
        document = open_signed(signed, EarningsRequest, self._network_id)
        check_fresh(document.issued_ms, self._clock_ms())
        own = certificate.account_id == document.account_id
        if not (own and cached_peer_id(signed.signer) == caller.peer_id):
            await self._require_account_key(document.account_id, signed)
        now_ms = self._clock_ms()
        mature_after_s = self._terms.current(now_ms).limits.earnings_mature_after_s
        since_ms = now_ms - mature_after_s * 1000
        view = await self._ledger.read(lambda c: earnings_view(c, document.account_id, since_ms))
        return encode_message(
            EarningsStatement(
                view.earned,
                view.fees,
                view.legs,
                view.unmatured_earned,
                view.unmatured_fees,
                mature_after_s,
                view.disputed_earned,
                view.disputed_fees,
                view.owner_fees,
                view.unmatured_owner_fees,
                view.disputed_owner_fees,
            )
        )

    async def _require_account_key(self, account_id: str, signed: Signed) -> None:
        account = await self._ledger.read(lambda c: account_view(c, account_id))
        if account is None or signed.signer not in account.signing_keys:
            raise NotAuthorizedError("this is not signed by a key of the account")

    def _from_gateway(self, caller: Caller, body: bytes) -> Signed:
        return from_gateway(caller, body, self._terms.current(self._clock_ms()))


def _refusing(handler: CallHandler) -> CallHandler:
    """Tell what the ledger refuses as a RefusedError with the ledger's code."""

    async def handle(caller: Caller, body: bytes) -> bytes:
        try:
            return await handler(caller, body)
        except LedgerError as error:
            raise RefusedError(error.code, str(error), error.retry_after_s) from error

    return handle
