"""Processes as /proc shows them: who lives, since when, whose child, and how to end one for sure."""

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

_PROC: Final = Path("/proc")
_POLL_S: Final = 0.02
# Fields of /proc/PID/stat after the name in parentheses: state is the first, ppid the second.
_STATE, _PPID, _SESSION, _START, _RESIDENT = 0, 1, 3, 19, 21


class Process(msgspec.Struct, frozen=True):
    """A process that cannot be mistaken for a later one of the same number.

    `started` counts clock ticks between boot and the process's start.
    """

    pid: int
    started: int


def _stat(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return text.rpartition(")")[2].split()


def identify(pid: int) -> Process | None:
    """The process of this number, or None if there is none or only its zombie."""
    fields = _stat(pid)
    if fields is None or fields[_STATE] in "ZX":
        return None
    return Process(pid, int(fields[_START]))


def alive(process: Process) -> bool:
    """Whether this very process runs, not merely one of the same number."""
    return identify(process.pid) == process


def pids() -> list[int]:
    """Every process's number."""
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def children(pid: int) -> list[int]:
    """The numbers of the living children of a process, in order."""
    found = []
    for candidate in pids():
        fields = _stat(candidate)
        if fields and int(fields[_PPID]) == pid and fields[_STATE] not in "ZX":
            found.append(candidate)
    return sorted(found)


def session(leader: int) -> list[Process]:
    """The living processes of the session that this process began, itself too."""
    found = []
    for pid in pids():
        fields = _stat(pid)
        if fields and int(fields[_SESSION]) == leader and fields[_STATE] not in "ZX":
            found.append(Process(pid, int(fields[_START])))
    return found


def parent(pid: int) -> int:
    """The number of the process that started this one, or of who took it over; 0 if there is none."""
    fields = _stat(pid)
    return int(fields[_PPID]) if fields else 0


def resident_bytes() -> dict[int, int]:
    """The memory in use, by the process that began the session which it is used in."""
    found: Counter[int] = Counter()
    for fields in filter(None, map(_stat, pids())):
        found[int(fields[_SESSION])] += int(fields[_RESIDENT]) * os.sysconf("SC_PAGE_SIZE")
    return found


def with_variable(name: str, value: str) -> dict[int, dict[str, str]]:
    """The variables, by process, of every process that was started with this one; ours to look into only."""
    wanted, found = f"{name}={value}".encode(), {}
    for pid in pids():
        try:
            pairs = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in pairs:
            found[pid] = dict(pair.decode(errors="replace").partition("=")[::2] for pair in pairs if pair)
    return found


def mentioning(text: str, besides: int) -> list[int]:
    """The processes that have this folder in their command line or their variables, but for one of them."""
    wanted = re.compile(rb"(?:^|[\0=:])" + re.escape(os.fsencode(text)) + rb"(?:[/\0:]|$)")
    return sorted(pid for pid in pids() if pid != besides and _mentions(pid, wanted))


def _mentions(pid: int, wanted: re.Pattern[bytes]) -> bool:
    for name in ("cmdline", "environ"):
        try:
            if wanted.search((_PROC / str(pid) / name).read_bytes()):
                return True
        except OSError:
            continue
    return False


def working_in(folder: Path, program: str) -> list[Process]:
    """The processes of this program whose working directory is the folder."""
    # /proc names the folder itself, whatever links led there.
    real = folder.resolve()
    return [process for pid in pids() if _works_in(pid, real, program) and (process := identify(pid))]


def _works_in(pid: int, folder: Path, program: str) -> bool:
    # /proc says "(deleted)" behind a folder or program that was removed under a running process.
    try:
        name = (_PROC / str(pid) / "exe").readlink().name.removesuffix(" (deleted)")
        return name == program and (_PROC / str(pid) / "cwd").readlink() == folder
    except OSError:
        return False


def send(process: Process, number: signal.Signals) -> None:
    """Sends the signal, unless the process is gone already."""
    if alive(process):
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return


async def wait_gone(processes: Collection[Process], timeout_s: float) -> bool:
    """Waits until none of them runs; False if some still do after the time."""
    deadline = monotonic() + timeout_s
    while any(alive(process) for process in processes):
        if monotonic() >= deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True
