"""Settlement tried end to end on a clone of production, and compared with the ledger that was expected."""
