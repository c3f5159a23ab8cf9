"""The linter of schema changes: squawk's rules and ours, which know phases and data statements."""
