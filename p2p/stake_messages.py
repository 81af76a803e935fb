"""Owns the messages by which an account sets credits aside for a subcloud, and takes them back.

Where the network's configuration asks for a stake, a subcloud is published only while its founder
has that much set aside for it. The credits stay the namespace's own: nobody can spend them, and
they come back when the subcloud has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Range, message
from p2p.job_messages import Id
from p2p.ledger_messages import Account, Name
from p2p.limits import AMOUNT_MICROCREDITS_MAX, NAME_CHARACTERS_MAX
from p2p.signing import Document


@message(139)
@dataclass(frozen=True, slots=True)
class SubcloudStake(Document):
    """Sets credits of a namespace aside for a subcloud. Signed by a key of the account that founds
    it (to which the subcloud's ID commits)."""

    PURPOSE: ClassVar[str] = "subcloud-stake"
    stake_id: Id
    account_id: Account
    namespace: Name
    subcloud_id: Annotated[str, Limit(NAME_CHARACTERS_MAX)]
    amount: Annotated[int, Range(1, AMOUNT_MICROCREDITS_MAX)]
    issued_ms: int


@message(148)
@dataclass(frozen=True, slots=True)
class SubcloudUnstake(Document):
    """Takes a subcloud's stake back into the namespace that it came from. Signed as the stake."""

    PURPOSE: ClassVar[str] = "subcloud-unstake"
    return_id: Id
    account_id: Account
    namespace: Name
    subcloud_id: Annotated[str, Limit(NAME_CHARACTERS_MAX)]
    issued_ms: int
