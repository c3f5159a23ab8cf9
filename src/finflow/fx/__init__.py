"""Foreign exchange: rates, quotes, and conversions through position accounts."""
