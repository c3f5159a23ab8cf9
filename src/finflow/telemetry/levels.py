"""The log level, changed while everything runs: a file in the data folder that every process looks at.

DATA/log-level holds one word. Who may write into the data folder may change the level: the folder is its
owner's alone. A file that says nothing sensible, is not a plain file, or belongs to somebody else than the
folder's owner or root counts as none, and the configured level stands.
"""

import logging
import os
import stat
import threading
from pathlib import Path
from typing import Final

from finflow.telemetry import logs

log = logging.getLogger(__name__)

FILE_NAME: Final = "log-level"
EVERY_S: Final = 1.0
_MAX_BYTES: Final = 64
_SEVERITY: Final = dict.fromkeys(logs.LEVELS, logging.WARNING) | {"error": logging.ERROR}


def wanted(folder: Path) -> str | None:
    """The level that the folder's file asks for, or None."""
    try:
        handle = os.open(folder / FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(handle)
        ours = found.st_uid in (0, os.geteuid()) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISREG(found.st_mode) or not ours:
            return None
        text = os.read(handle, _MAX_BYTES).decode("ascii", "replace").strip()
    finally:
        os.close(handle)
    return text if text in logs.LEVELS else None


def ask(folder: Path, level: str) -> None:
    """Ask every process of the folder to log at this level. Raises OSError."""
    draft = folder / f".{FILE_NAME}.{os.getpid()}"
    # Never a half-written word: the file appears whole under its name.
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(level + "\n")
    draft.replace(folder / FILE_NAME)


def withdraw(folder: Path) -> None:
    """Ask for nothing any more: the configured level holds again. Raises OSError."""
    (folder / FILE_NAME).unlink(missing_ok=True)


def watch(folder: Path, configured: str, every_s: float = EVERY_S) -> threading.Event:
    """Follow the folder's file in a thread that ends with the process, or when the event is set."""
    done = threading.Event()
    follower = threading.Thread(
        target=_follow, args=(folder, configured, every_s, done), name="log-level", daemon=True
    )
    follower.start()
    return done


def _follow(folder: Path, configured: str, every_s: float, done: threading.Event) -> None:
    present = configured
    while True:
        level = wanted(folder) or configured
        if level != present:
            present = level
            logs.set_level(level)
            # Said at every level that somebody may have chosen.
            log.log(_SEVERITY[level], "log level is %s now", level)
        if done.wait(every_s):
            return
