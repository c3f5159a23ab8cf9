"""Realistic load from a seed, as a file that `finflow import` reads with examples/generated.toml."""
