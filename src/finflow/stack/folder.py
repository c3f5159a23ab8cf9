"""The data folder: what lies where in it, who may enter it, and who holds it now.

DATA/postgres/    PostgreSQL's own data
DATA/logs/        postgres.log, api.log, up.log
DATA/ingress/     finflow/: the router in front of the workers, its split and its log
DATA/state.json   what runs: the process of `finflow up`, its URLs, its children
DATA/lock         held by `finflow up` as long as it runs
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.stack.processes import Process, alive

SOCKET_NAME: Final = ".s.PGSQL.5432"
# sockaddr_un.sun_path has 108 bytes on Linux, the last one a zero.
_SUN_PATH_MAX: Final = 107
# The server's list of socket folders has its own quoting, and URLs have theirs: others go elsewhere.
_PLAIN: Final = re.compile(r"[A-Za-z0-9/._\-]+")
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - whose file lies there is looked at
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class State(msgspec.Struct, frozen=True):
    """What `finflow up` says about itself in state.json."""

    up: Process
    url: str
    database_url: str
    postgres: Process | None = None
    workers: list[Process] = []
    issuer: str | None = None
    keys: str | None = None
    ingress: Process | None = None
    ingress_kind: str | None = None
    workers_url: str | None = None


class DataFolder:
    """The paths of one data folder, and its lock while it is held."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root.expanduser()))  # noqa: PTH100 - resolve() would follow links
        self.postgres = self.root / "postgres"
        self.logs = self.root / "logs"
        self.state_file = self.root / "state.json"
        self._lock: int | None = None

    def create(self) -> None:
        """Makes the folder and its logs, private to their owner. Raises data_unusable or database_full."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise folder_error(error, self.root) from error

    def lock(self) -> bool:
        """Takes the folder for this process until unlock() or its end; False if another process has it."""
        try:
            handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise folder_error(error, self.root) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._lock = handle
        return True

    def unlock(self) -> None:
        """Gives the folder back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_state(self, state: State) -> None:
        """Replaces state.json as a whole, so that a reader never sees half of it."""
        fresh = self.state_file.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
            fresh.replace(self.state_file)
        except OSError as error:
            raise folder_error(error, self.root) from error

    def read_state(self) -> State | None:
        """What runs on this folder, or None if nothing does."""
        try:
            state = msgspec.json.decode(self.state_file.read_bytes(), type=State)
        except (OSError, msgspec.DecodeError):
            return None
        return state if alive(state.up) else None

    def clear_state(self) -> None:
        """Says that nothing runs."""
        self.state_file.unlink(missing_ok=True)

    def socket_folder(self) -> Path:
        """Where the server's socket lies: in the data folder if its path is short and plain enough."""
        path = os.fsencode(self.root / SOCKET_NAME)
        if len(path) <= _SUN_PATH_MAX and _PLAIN.fullmatch(str(self.root)):
            return self.root
        return _short_folder(self.root)

    def memory_file(self) -> Path:
        """Where what the workers share in memory lies; in the data folder only if memory has no place.

        Pages of a file on a disk can make whoever writes them wait for the disk.
        """
        path = _MEMORY / f"finflow-{os.geteuid()}-{_key(self.root)}.limits"
        # Anybody may write there: under our name may lie what we could not remove.
        ours = not os.path.lexists(path) or path.lstat().st_uid == os.geteuid()
        return path if ours and os.access(_MEMORY, os.W_OK) else self.root / "memory"

    def drop_socket_folder(self) -> None:
        """Removes the folder that was made for the socket alone, once the socket is gone."""
        folder = self.socket_folder()
        if folder != self.root:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _short_folder(root: Path) -> Path:
    """A private folder of ours with a short name, the same one for the same data folder."""
    folder = Path(_temporary()) / f"finflow-{os.geteuid()}-{_key(root)}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    # Anybody may write to /tmp, so a folder that waits there under our name may be somebody else's.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise FinFlowError("data_unusable", f"{folder} is not a private folder of this user.")
    return folder


def _key(root: Path) -> str:
    return hashlib.sha256(os.fsencode(root)).hexdigest()[:16]


def _temporary() -> str:
    """The first folder for sockets whose path leaves room for ours."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    for candidate in (runtime, tempfile.gettempdir(), "/tmp"):  # noqa: S108 - the fallback, checked above
        if (
            candidate
            and _PLAIN.fullmatch(candidate)
            and len(candidate) < 50
            and os.access(candidate, os.W_OK)
        ):
            return candidate
    raise FinFlowError("data_unusable", "No folder for the database's socket has a path short enough.")


def folder_error(error: OSError, folder: Path) -> FinFlowError:
    """The catalogue's error for what the file system says."""
    reason = f"{folder}: {os.strerror(error.errno or 0)}"
    return FinFlowError("database_full" if error.errno in _FULL else "data_unusable", reason)
