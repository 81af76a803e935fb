"""The SQL side of the ledger: tables, group commits, reading, checking."""
