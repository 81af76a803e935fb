"""Owns what makes a table immutable: triggers by which the database itself refuses changes."""

from __future__ import annotations

from sqlalchemy import Connection, text


def make_immutable(connection: Connection, *table_names: str) -> None:
    """Refuse UPDATE and DELETE (on PostgreSQL TRUNCATE too) on these tables from now on."""
    if connection.dialect.name == "sqlite":
        for name in table_names:
            for action in ("UPDATE", "DELETE"):
                connection.execute(
                    text(
                        f"CREATE TRIGGER {name}_no_{action.lower()} BEFORE {action} ON {name} "
                        f"BEGIN SELECT RAISE(ABORT, '{name} is immutable'); END"
                    )
                )
        return
    connection.execute(
        text(
            "CREATE OR REPLACE FUNCTION ledger_is_immutable() RETURNS trigger AS $$ BEGIN "
            "RAISE EXCEPTION '% is immutable', TG_TABLE_NAME; END $$ LANGUAGE plpgsql"
        )
    )
    for name in table_names:
        connection.execute(
            text(
                f"CREATE TRIGGER {name}_immutable BEFORE UPDATE OR DELETE OR TRUNCATE "
                f"ON {name} FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_immutable()"
            )
        )
