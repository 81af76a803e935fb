"""Owns reading and writing the uses of callers' tokens for a group of operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, delete

from ledger.book import Book
from ledger.hold_context import token_name
from ledger.operations import Operation, PlaceHold
from ledger.records import TokenUse
from ledger.store.statements import select_rows
from ledger.store.token_tables import TOKEN_USES

_PLACES = {"sqlite": "?", "postgresql": "%s"}


def load_token_uses(connection: Connection, operations: Iterable[Operation], book: Book) -> None:
    """Read and lock the rows of the tokens that holds show (after everything else is locked).

    A token that has no row yet gets one first, so that there is something to lock
    (`write_token_uses` takes it away again if the token was not used).
    """
    names = {
        token_name(operation.context.token)
        for operation in operations
        if isinstance(operation, PlaceHold) and operation.context.token is not None
    }
    if not names:
        return
    _load(connection, names, book)
    if missing := names - book.token_uses.keys():
        _insert(connection, [(name, "", 0) for name in sorted(missing)], "DO NOTHING")
        _load(connection, missing, book)
        book.locked_tokens |= {name for name in missing if not book.token_uses[name].uses}


def write_token_uses(connection: Connection, book: Book) -> None:
    """Write what changed of rows that were locked (or of a copy that nobody else writes to).

    Rows that were only made to be locked go away again: delegates sign as many tokens as they like,
    and a hold that is refused must leave nothing behind.
    """
    if changed := [book.token_uses[name] for name in sorted(book.changed_token_uses)]:
        rows = [(use.name, use.namespace, use.uses) for use in changed]
        conflict = "DO UPDATE SET namespace = excluded.namespace, uses = excluded.uses"
        _insert(connection, rows, conflict)
    if unused := book.locked_tokens - book.changed_token_uses:
        table = TOKEN_USES.c
        connection.execute(
            delete(TOKEN_USES).where(table.name.in_(sorted(unused)), table.uses == 0)
        )


def _load(connection: Connection, names: Iterable[str], book: Book) -> None:
    for row in select_rows(connection, TOKEN_USES, "name", sorted(names), lock=True):
        book.token_uses[row[0]] = TokenUse(*row)


def _insert(connection: Connection, rows: Sequence[tuple[str, str, int]], conflict: str) -> None:
    place = _PLACES[connection.dialect.name]
    statement = (
        f"INSERT INTO {TOKEN_USES.name} (name, namespace, uses) "  # noqa: S608 - ours
        f"VALUES ({place}, {place}, {place}) ON CONFLICT (name) {conflict}"
    )
    connection.exec_driver_sql(statement, list(rows))
