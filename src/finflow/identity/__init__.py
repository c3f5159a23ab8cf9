"""Who asks: tokens and the keys that sign them, clients and their assertions, other trusted issuers."""
