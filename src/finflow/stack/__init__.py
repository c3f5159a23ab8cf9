"""Where it runs: an embedded PostgreSQL, API worker processes, and the data folder they share."""
