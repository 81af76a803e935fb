"""Owns a ledger without network or database for the command line's tests: the rules themselves."""

from __future__ import annotations

from typing import Any

from bootstrap.ledger_checks import account_operation
from ledger.errors import LedgerError
from ledger.operations import FoundAccount, Operation
from p2p.account_messages import AccountRequest, AccountStatement
from p2p.codec import decode_any_message, decode_message
from p2p.ledger_messages import AccountFounding, TransferResult
from p2p.signing import Signed, open_signed
from resultity.errors import GatewayCallError
from tests.fakes.ledger_desk import CONFIGURATION
from tests.fakes.ledger_world import NETWORK, MemoryLedger, World


def _operation(document: Signed) -> Operation:
    if isinstance(decode_any_message(document.body), AccountFounding):
        return FoundAccount(document, open_signed(document, AccountFounding, NETWORK))
    return account_operation(NETWORK, document, CONFIGURATION)


class OwnersCarrier:
    """Implements `resultity.account_keys.Carrier`; can lose answers and questions."""

    def __init__(self) -> None:
        self.world = World()
        self.ledger = MemoryLedger(self.world)
        self.lose_answers = 0
        self.lose_questions = 0

    def operation(self, document: Signed) -> TransferResult:
        if self.lose_questions:
            self.lose_questions -= 1
            raise GatewayCallError("cannot reach the gateway")
        operation = _operation(document)
        try:
            result = self.ledger.do(operation)
        except LedgerError as error:
            raise GatewayCallError(str(error), status=400, code=error.code) from error
        if self.lose_answers:
            self.lose_answers -= 1
            raise GatewayCallError("cannot reach the gateway")
        return result

    def send(self, what: str, document: Signed, answer: Any) -> Any:
        assert (what, answer) == ("account", AccountStatement)
        asked = open_signed(document, AccountRequest, NETWORK)
        account = self.ledger.book.accounts[asked.account_id]
        if document.signer not in account.signing_keys | account.recovery_keys:
            raise GatewayCallError("not a key of the account", status=403, code="not_authorized")
        founding = next(
            record.signed
            for record in self.ledger.book.new_records
            if record.subject == account.account_id and record.purpose == "account-founding"
        )
        return AccountStatement(
            tuple(sorted(account.signing_keys)),
            tuple(sorted(account.recovery_keys)),
            account.key_changes,
            account.operations,
            (),
            decode_message(founding, Signed),
        )
