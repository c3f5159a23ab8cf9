"""HTTP and JSON: thin handlers that decode, ask the ledger, and encode."""
