"""Money, ids, clock, errors: values that every room shares. Standard library and msgspec only."""
