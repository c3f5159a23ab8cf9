"""How the kernel schedules processes of ours that are never alone on a processor. See docs/adr/0028."""

import ctypes
import os
import platform
import struct
from contextlib import suppress
from typing import Final

# Of sched_setattr(2), which no library of ours knows: its number, and what it takes. Size, policy, flags,
# niceness, priority, turn in nanoseconds, then what is for deadlines and clamps.
_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQII")
# The shortest that Linux grants.
_TURN_NS: Final = 100_000


def interrupt_nobody() -> None:
    """Have threads of this process, and of those it starts, wait for their turn when they wake up.

    A worker has a thread for connections and one for requests, and each message between them would take the
    processor from the other one, or from PostgreSQL, to do a few microseconds' work. An idle processor is
    taken at once either way, and what anybody gets in the long run stays the same.
    """
    with suppress(AttributeError, OSError):  # not Linux, or forbidden: it is slower then
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def give_way(niceness: int) -> None:
    """Have this process, and those it starts, run in what others leave, and in short turns.

    Who wakes up beside a process of whatever niceness waits for the end of its turn, by default some
    milliseconds. Where turns have no length to choose (before Linux 6.12), niceness alone remains.
    """
    os.nice(niceness)
    interrupt_nobody()
    number = _SETATTR.get(platform.machine())
    if number is not None and hasattr(os, "SCHED_BATCH"):
        wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_BATCH, 0, os.nice(0), 0, _TURN_NS, 0, 0, 0, 0)
        # Where it fails the niceness stands, so nobody asks.
        ctypes.CDLL(None).syscall(number, 0, wanted, 0)
