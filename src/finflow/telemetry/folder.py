"""Where the blocks of values lie: in memory while processes run, in the data folder while none does.

A file on a disk is written back by the kernel, and a store to a page under way there may wait for the disk;
in /dev/shm none ever does. What is retained moves to the data folder when the last process ends, and back.
"""

import hashlib
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from finflow.telemetry import retained
from finflow.telemetry.collecting import block_files, block_path, fold_dead
from finflow.telemetry.metrics import Registry
from finflow.telemetry.slots import writer_lives

log = logging.getLogger(__name__)

_OWNER: Final = "data-folder"
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder of ours in it is checked to be ours


def folder_for(data: Path, configured: Path | None = None) -> Path:
    """The configured folder; else one in memory that belongs to this data folder; else one in it."""
    if configured is not None:
        return configured
    if not os.access(_MEMORY, os.W_OK):
        return at_rest(data)
    key = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    return _MEMORY / f"finflow-{os.geteuid()}-{key}"


def at_rest(data: Path) -> Path:
    """Where metrics are kept while nothing runs."""
    return data / "metrics"


def attach(registry: Registry, folder: Path, release: str) -> bool:
    """Let other processes read what this registry counts; without room, say so and count on alone."""
    try:
        make(folder)
        fold_dead(folder)
        _sweep(folder)
        registry.attach(block_path(folder, os.getpid()), release, os.getpid())
    except OSError as error:
        log.warning(
            "metrics of this process are its own alone", extra={"folder": str(folder), "error": repr(error)}
        )
        return False
    return True


def make(folder: Path) -> None:
    """The folder, private to this user. Raises PermissionError where another user's waits under its name."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} is not a folder that this user alone writes to")


def _sweep(folder: Path) -> None:
    """Remove what was begun by processes that were killed at it."""
    with retained.folding(folder) as ours:
        for path in folder.glob("*.new") if ours else ():
            pid = path.name.partition("-")[0]
            if pid.isdigit() and not Path("/proc", pid).exists():
                path.unlink(missing_ok=True)


@contextmanager
def kept(folder: Path, data: Path) -> Iterator[None]:
    """Bring what is at rest into the folder, and back at the end, when all other processes have ended."""
    rest = at_rest(data)
    try:
        _sweep_memory()
        make(folder)
        (folder / _OWNER).write_text(str(data))
        _move(rest, folder)
    except OSError as error:
        log.warning("metrics begin anew", extra={"folder": str(folder), "error": repr(error)})
    yield
    try:
        fold_dead(folder)
        if folder != rest and not block_files(folder):
            make(rest)
            _move(folder, rest)
            shutil.rmtree(folder)
    except OSError as error:
        log.warning("metrics stay where they are", extra={"folder": str(folder), "error": repr(error)})


def _sweep_memory() -> None:
    """Remove what a killed FinFlow left in memory whose data folder is gone: nobody will come back for it."""
    for folder in _MEMORY.glob(f"finflow-{os.geteuid()}-*"):
        try:
            owner = Path((folder / _OWNER).read_text())
            if not owner.exists() and not any(writer_lives(path) for path in block_files(folder)):
                shutil.rmtree(folder)
        except OSError:
            # Somebody is at it right now, or it says nothing about itself.
            continue


def _move(source: Path, target: Path) -> None:
    found, wanted = source / retained.FILE, target / retained.FILE
    if source != target and found.exists() and not wanted.exists():
        shutil.copyfile(found, wanted)
        found.unlink()
