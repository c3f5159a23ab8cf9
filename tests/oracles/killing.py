"""Ending processes as a power cut would."""

import contextlib
import os
import signal

from finflow.stack.processes import children


def kill_family(pid: int) -> int:
    """Kill -9 a process and its children; how many these were. Some die with it before their turn comes."""
    family = [pid, *children(pid)]
    for each in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    return len(family) - 1
