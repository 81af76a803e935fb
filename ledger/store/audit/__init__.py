"""The audit of a whole ledger, and the replay that a mirror follows by."""
