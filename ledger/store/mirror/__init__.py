"""A mirror's copy of a ledger: records in, checked, written, shown."""
