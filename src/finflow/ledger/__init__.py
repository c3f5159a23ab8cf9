"""The double-entry ledger: accounts, transactions, entries, balances; one serial log per ledger."""
