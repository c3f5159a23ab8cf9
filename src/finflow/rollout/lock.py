"""One controller a service: a lock that the kernel gives back when its holder dies."""

import fcntl
import os
from pathlib import Path

from finflow.kernel.errors import FinFlowError


class ServiceLock:
    """Held from take() until give() or the end of the process, however that comes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        self._handle = -1

    def take(self) -> bool:
        """Whether we have it now; False if another process holds it."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FinFlowError("data_unusable", f"{self._path}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._handle = handle
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        return True

    def held(self) -> bool:
        """Whether the lock is still ours: the file that we hold is the one that others would ask for."""
        try:
            return os.fstat(self._handle).st_ino == self._path.stat().st_ino
        except OSError:
            return False

    def give(self) -> None:
        """Others may have it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def holder(folder: Path) -> int | None:
    """The number of the process that controls the service now, or None."""
    path = folder / "lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = path.read_text().strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(handle)
    return None
