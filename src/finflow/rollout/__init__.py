"""Rollouts: a service moves from a baseline to a candidate, judged at every step. No banking in here."""
