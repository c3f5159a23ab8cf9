"""Releases: environments that are built once, never changed, and known by the digest of what is in them."""
