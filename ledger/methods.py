"""Owns the names of the ledger's calls. The body of each is an encoded `Signed`.

| method     | document in the body      | answer            | who may call                 |
|------------|---------------------------|-------------------|------------------------------|
| HOLD       | HoldRequest               | HoldResult        | the gateway that signed it   |
| CAPTURE    | CaptureRequest            | TransferResult    | the gateway that signed it   |
| RELEASE    | ReleaseRequest            | TransferResult    | the gateway that signed it   |
| LEASE      | LeaseRequest              | LeaseResult       | the gateway that signed it   |
| LEASE_RETURN | LeaseReturn            | TransferResult    | the gateway that signed it   |
| CLAIM      | Claim                     | ClaimResult       | the node that signed it      |
| KEY_LOOKUP | KeyLookup                 | KeyRecord         | the gateway that signed it   |
| STATEMENT  | StatementRequest          | Statement         | any gateway or bootstrap     |
| OPERATION  | AccountFounding,          | TransferResult    | any gateway or bootstrap (it |
|            | NamespaceOpening,         |                   | is only the courier: the     |
|            | KeyCreation,              |                   | document's signer counts)    |
|            | KeyRevocation, Grant,     |                   |                              |
|            | ApiKeyRotation,           |                   |                              |
|            | AccountKeyChange,         |                   |                              |
|            | KeyLimitsChange,          |                   |                              |
|            | DisputeAnswer,            |                   |                              |
|            | DisputeResolution,        |                   |                              |
|            | InvitedFounding, Referral;|                   |                              |
|            | SubcloudStake,            |                   |                              |
|            | SubcloudUnstake;          |                   |                              |
|            | CarriedFounding (signed   |                   |                              |
|            | by the gateway)           |                   |                              |
| ACCOUNT    | AccountRequest            | AccountStatement  | any gateway or bootstrap     |
| KEYS       | KeyListRequest            | KeyList           | any gateway or bootstrap     |
| EARNINGS   | EarningsRequest           | EarningsStatement | any certified peer           |
| USAGE      | UsageRequest              | UsageReport       | any gateway or bootstrap     |
| DISPUTES   | DisputeRequest            | DisputeList       | any gateway or bootstrap     |
| SUBCLOUD_USAGE | SubcloudUsageRequest  | SubcloudUsageReport | any gateway or bootstrap   |

The body of DISPUTE_OPEN is an encoded DisputeSubmission, its answer a TransferResult, any gateway
or bootstrap may carry it.
"""

from __future__ import annotations

from p2p.claim_messages import CLAIM, HOLD_STANDINGS
from p2p.ledger_messages import EARNINGS

__all__ = ["CLAIM", "EARNINGS", "HOLD_STANDINGS"]

HOLD = "ledger.hold"
CAPTURE = "ledger.capture"
RELEASE = "ledger.release"
LEASE = "ledger.lease"
LEASE_RETURN = "ledger.lease_return"
CAPTURES = "ledger.captures"
"""CaptureBatch -> CaptureBatchResult, for the gateway that signed each capture in it."""
KEY_LOOKUP = "ledger.key_lookup"
STATEMENT = "ledger.statement"
OPERATION = "ledger.operation"

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
DISPUTE_OPEN = "ledger.dispute_open"
DISPUTES = "ledger.disputes"
KEYS = "ledger.keys"
USAGE = "ledger.usage"
SUBCLOUD_USAGE = "ledger.subcloud_usage"
RCP = "rcp.report"
"""A frozen epoch of contribution points; the body is an RcpQuery, unsigned: they are public."""

# What mirrors and witnesses call (`bootstrap.log_watch`).
LOG_WELCOME = "log.welcome"
"""Empty body -> MirrorWelcome, for the peers that the configuration names as mirrors."""
LOG_RECORDS = "log.records"
"""RecordsRequest -> RecordsPage (empty: the log is no longer), for the same."""
LOG_COSIGN = "log.cosign"
"""Cosignature -> nothing, for any certified peer: the witness's line speaks for itself."""
LOG_ALARMS = "log.alarms"
"""Empty body -> AlarmNotices (`encode_messages`), for any certified peer."""
