"""The history of the ledger's tables: one Alembic revision for each feature that changed them.

`versions/m<number>_<name>.py`, each naming its predecessor; what is published is never edited. A
change of `ledger.store.*tables` is followed by `python tools/make_migration.py <name>`, which
writes the next revision; a test compares the tables with the revisions on both databases.
"""
