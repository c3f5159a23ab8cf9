"""Ends what a crash left running over a data folder, so that a new server may have it."""

import signal
from pathlib import Path
from typing import Final

from finflow.kernel.errors import FinFlowError
from finflow.stack.processes import Process, send, wait_gone, working_in

_PATIENCE_S: Final = 20.0


async def end_orphans(data: Path) -> int:
    """Stops every PostgreSQL process over this data and returns how many there were.

    The caller holds the data folder's lock, so none of them is anybody's. A postmaster gets the time for
    a fast shutdown; backends whose postmaster was killed see that by themselves; the rest is killed, from
    which the next start recovers as from a power cut. Raises postgres_failed if some stay even then.
    """
    found = working_in(data, "postgres")
    if not found:
        return 0
    for process in _postmaster(data, found):
        send(process, signal.SIGINT)
    if await wait_gone(found, _PATIENCE_S):
        return len(found)
    for number in (signal.SIGQUIT, signal.SIGKILL):
        for process in found:
            send(process, number)
        if await wait_gone(found, _PATIENCE_S / 4):
            return len(found)
    raise FinFlowError("postgres_failed", f"Processes of an earlier server do not end: {found}.")


def _postmaster(data: Path, found: list[Process]) -> list[Process]:
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return []
    return [process for process in found if process.pid == pid]
