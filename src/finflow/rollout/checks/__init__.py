"""Checks that a rollout asks before a step: scans, approvals, freeze windows, programs."""
