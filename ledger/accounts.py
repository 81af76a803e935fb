"""Owns the names of ledger accounts. Pure.

| name                         | whose                                     | sign of its balance |
|------------------------------|-------------------------------------------|---------------------|
| `mint`                       | where all credit comes from               | negative            |
| `namespace:<account>/<name>` | what a namespace can spend                | never negative      |
| `held:<account>/<name>`      | what is held for its running jobs         | never negative      |
| `earnings:<account>`         | what an account's nodes earned            | positive            |
| `fees:<account>`             | what an account's gateways earned         | positive            |
| `owner:<account>`            | what an account's subclouds earned        | positive            |
| `stake:<subcloud>`           | what is set aside for a subcloud          | never negative      |
| `treasury`                   | the network's fees                        | positive            |

The sum over all of them is zero at every moment.
"""

from __future__ import annotations

from p2p.types import AccountId

MINT = "mint"
TREASURY = "treasury"
NO_OWNER = AccountId("")
"""Of the jobs of the global pool."""


def namespace_path(account_id: AccountId, name: str) -> str:
    """Give the path that names a namespace everywhere in the ledger: `<account>/<name>`."""
    return f"{account_id}/{name}"


def available_account(path: str) -> str:
    """Name the ledger account with what a namespace can spend."""
    return f"namespace:{path}"


def held_account(path: str) -> str:
    """Name the ledger account with what is held of a namespace."""
    return f"held:{path}"


def earnings_account(account_id: AccountId) -> str:
    """Name the ledger account with what an account's nodes earned."""
    return f"earnings:{account_id}"


def fees_account(account_id: AccountId) -> str:
    """Name the ledger account with what an account's gateways earned."""
    return f"fees:{account_id}"


def owner_account(account_id: AccountId) -> str:
    """Name the ledger account with the owner's shares of jobs in an account's subclouds.

    Apart from a gateway's fees: one charge may pay one account both.
    """
    return f"owner:{account_id}"


def stake_account(subcloud_id: str) -> str:
    """Name the ledger account with what is set aside for a subcloud."""
    return f"stake:{subcloud_id}"


def operator_accounts(account_id: AccountId) -> tuple[str, str, str]:
    """Name all ledger accounts by which charges pay an account."""
    return earnings_account(account_id), fees_account(account_id), owner_account(account_id)


def is_operators(account: str) -> bool:
    """Tell whether charges are paid to a ledger account (a node's, a gateway's, a subcloud owner's,
    the network's)."""
    return account == TREASURY or account.startswith(("earnings:", "fees:", "owner:"))
