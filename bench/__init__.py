"""Benchmarks: one file per promise of the README; each measures its own limit in the same run."""
