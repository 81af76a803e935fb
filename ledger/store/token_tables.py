"""Owns the table of callers' tokens: how often each was used (`ledger.subcloud_rules`)."""

from __future__ import annotations

from sqlmodel import SQLModel

from ledger.store.tables import _big, _table, _text


class TokenUseRow(SQLModel, table=True):
    """The uses of one token. `namespace` (a path): who used it first; empty: nobody did yet."""

    __tablename__ = "ledger_caller_tokens"
    name: str = _text(primary_key=True)
    namespace: str = _text()
    uses: int = _big()


TOKEN_USES = _table(TokenUseRow)
