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
|            | KeyRevocation, Grant,     |                   |                              |
|            | ApiKeyRotation,           |                   |                              |
|            | AccountKeyChange          |                   |                              |
| ACCOUNT    | AccountRequest            | AccountStatement  | any gateway or bootstrap     |
| KEYS       | KeyListRequest            | KeyList           | any gateway or bootstrap     |
| EARNINGS   | EarningsRequest           | EarningsStatement | any certified peer           |
| USAGE      | UsageRequest              | UsageReport       | any gateway or bootstrap     |
"""

from __future__ import annotations

HOLD = "ledger.hold"
CAPTURE = "ledger.capture"
RELEASE = "ledger.release"
KEY_LOOKUP = "ledger.key_lookup"
STATEMENT = "ledger.statement"
OPERATION = "ledger.operation"
EARNINGS = "ledger.earnings"

# The transparency log (answered by `bootstrap.log_service`). The bodies of LOG_CONSISTENCY and
# LOG_LEAVES are an encoded LogRange, that of LOG_CHECKPOINT is empty.
LOG_CHECKPOINT = "log.checkpoint"
"""-> Checkpoint, for any certified peer."""
LOG_INCLUSION = "log.inclusion"
"""Signed InclusionRequest -> InclusionReply, for any certified peer; what is given depends on who
signed."""
LOG_CONSISTENCY = "log.consistency"
"""-> hashes of 32 bytes, one after another, for any certified peer."""
LOG_LEAVES = "log.leaves"
"""-> leaves' data of 32 bytes, one after another, for any certified peer."""
ACCOUNT = "ledger.account"
KEYS = "ledger.keys"
USAGE = "ledger.usage"
RCP = "rcp.report"
"""A frozen epoch of contribution points; the body is an RcpQuery, unsigned: they are public."""
