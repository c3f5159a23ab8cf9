"""Whether a service works: its critical paths, asked one by one. No banking in here."""
