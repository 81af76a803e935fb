"""Run by Alembic for each of its commands: uses the connection that `ledger.store.schema` gives."""

from __future__ import annotations

from alembic import context

from ledger.store.schema import VERSION_TABLE

options = context.config.attributes
context.configure(
    connection=options["connection"],
    target_metadata=options.get("metadata"),
    version_table=VERSION_TABLE,
)
# The transaction is the caller's: either everything is upgraded, or nothing.
with context.begin_transaction():
    context.run_migrations()
