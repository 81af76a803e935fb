"""The bootstrap role: admission, network configuration, accounts and the ledger service."""
