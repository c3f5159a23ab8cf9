"""Settlement: payment messages, calendars and cut-offs, netting, cycles, reconciliation."""
