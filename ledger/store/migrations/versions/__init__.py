"""The revisions themselves; Alembic loads them by file (`ledger.store.schema`)."""
