"""Fleets: the processes of one release, kept running by a supervisor that needs nobody."""
