"""Owns the names of the ledger's calls. The body of each is an encoded `Signed`.

| method     | document in the body      | answer            | who may call                 |
|------------|---------------------------|-------------------|------------------------------|
| HOLD       | HoldRequest               | HoldResult        | the gateway that signed it   |
| CAPTURE    | CaptureRequest            | TransferResult    | the gateway that signed it   |
| RELEASE    | ReleaseRequest            | TransferResult    | the gateway that signed it   |
| KEY_LOOKUP | KeyLookup                 | KeyRecord         | the gateway that signed it   |
| STATEMENT  | StatementRequest          | Statement         | any gateway or bootstrap     |
| OPERATION  | AccountFounding,          | TransferResult    | any gateway or bootstrap (it |
|            | NamespaceOpening,         |                   | is only the courier: the     |
|            | KeyCreation,              |                   | document's signer counts)    |
|            | KeyRevocation, Grant      |                   |                              |
| EARNINGS   | EarningsRequest           | EarningsStatement | any certified peer           |
"""

from __future__ import annotations

HOLD = "ledger.hold"
CAPTURE = "ledger.capture"
RELEASE = "ledger.release"
KEY_LOOKUP = "ledger.key_lookup"
STATEMENT = "ledger.statement"
OPERATION = "ledger.operation"
EARNINGS = "ledger.earnings"
