"""Ends what a crash left running over a data folder, so that a new server may have it."""

import os
import signal
from pathlib import Path
from typing import Final

from finflow.kernel.errors import FinFlowError
from finflow.stack.folder import SOCKET_NAME, DataFolder
from finflow.stack.processes import send, wait_gone, working_in

_FAST_SHUTDOWN_S: Final = 30.0
_PATIENCE_S: Final = 3.0


async def end_orphans(folder: DataFolder) -> int:
    """Stops every PostgreSQL process over the folder's data and returns how many there were.

    The caller holds the data folder's lock, so none of them is anybody's. A postmaster gets the time for
    a fast shutdown; backends whose postmaster was killed see that by themselves; the rest is killed, from
    which the next start recovers as from a power cut. Raises postgres_failed if some stay even then.
    """
    data = folder.postgres
    found = working_in(data, "postgres")
    first = _pid_in(data / "postmaster.pid")
    postmaster = [process for process in found if process.pid == first]
    for process in postmaster:
        send(process, signal.SIGINT)
    gone = await wait_gone(found, _FAST_SHUTDOWN_S if postmaster else _PATIENCE_S)
    for number in (signal.SIGQUIT, signal.SIGKILL):
        if not gone:
            for process in found:
                send(process, number)
            gone = await wait_gone(found, _PATIENCE_S)
    if not gone:
        raise FinFlowError("postgres_failed", f"Processes of an earlier server do not end: {found}.")
    _drop_stale_lock(data / "postmaster.pid")
    _drop_stale_lock(folder.socket_folder() / f"{SOCKET_NAME}.lock")
    return len(found)


def _drop_stale_lock(path: Path) -> None:
    """Removes a lock file whose number fools the next server into refusing to start.

    PostgreSQL asks with kill(pid, 0), which also answers yes for a zombie that nobody has reaped yet and
    for another program that was given the number since. We know that no server runs over this data.
    """
    pid = _pid_in(path)
    if pid is None:
        return
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return
    except PermissionError:
        pass
    path.unlink(missing_ok=True)


def _pid_in(path: Path) -> int | None:
    try:
        return int(path.read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None
