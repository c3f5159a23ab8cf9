"""What the kernel knows of a process that gives way: its policy, its niceness, the length of its turns."""

import ctypes
import os
import platform
import struct
import subprocess
import sys

import pytest

# sched_getattr(2) of these machines, and what it fills in, as linux/sched/types.h has it.
GETATTR = {"x86_64": 315, "aarch64": 275}
ATTRIBUTES = struct.Struct("=IIQiIQQQII")

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has scheduling policies")


def told(call: str) -> tuple[int, ...]:
    """What a fresh process that made this call was told by the kernel, its child in its place."""
    program = (
        "import os\nfrom finflow.stack import scheduling\n"
        f"{call}\n"
        "made = os.fork()\n"
        "if made: os.waitpid(made, 0)\n"
        "else: print(os.sched_getscheduler(0), os.nice(0), os.getpid(), flush=True); input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        policy, niceness, pid = map(int, process.stdout.readline().split())
        turn_ns = _turn_ns(pid)
        process.communicate("\n", timeout=30)
    return policy, niceness, turn_ns


def _turn_ns(pid: int) -> int:
    found = ctypes.create_string_buffer(ATTRIBUTES.size)
    if ctypes.CDLL(None).syscall(GETATTR.get(platform.machine(), -1), pid, found, ATTRIBUTES.size, 0) != 0:
        return 0
    return int(ATTRIBUTES.unpack(found.raw)[5])


def test_who_interrupts_nobody_keeps_its_niceness() -> None:
    policy, niceness, _ = told("scheduling.interrupt_nobody()")
    assert (policy, niceness) == (os.SCHED_BATCH, os.nice(0))


def test_who_gives_way_is_nice_and_takes_short_turns_with_all_its_children() -> None:
    policy, niceness, turn_ns = told("scheduling.give_way(3)")
    assert (policy, niceness) == (os.SCHED_BATCH, min(19, os.nice(0) + 3))
    if not turn_ns:
        pytest.skip("this kernel (before 6.12) does not tell the length of a turn")
    assert turn_ns == 100_000


def test_where_turns_cannot_be_chosen_niceness_remains() -> None:
    policy, niceness, _ = told("scheduling._SETATTR = {}; scheduling.give_way(1)")
    assert (policy, niceness) == (os.SCHED_BATCH, min(19, os.nice(0) + 1))
