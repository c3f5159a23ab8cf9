"""Bank history from files into a ledger: the mapping, the order of a day, the transactions, the check."""
