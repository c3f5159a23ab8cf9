"""Buckets that all workers of a host share: a small file in memory, mapped by each of them.

A bucket is a key and the moment at which it is full again (see model.py), in one of SETS sets of WAYS
places, as in a processor's cache. One byte of the file per set is locked while a bucket is looked at. The
kernel drops the locks of a process that is killed, and a moment is one aligned machine word, so what is
left behind is the state before or after, never half of it. A place whose moment has passed is free: giving
it to another key loses nothing.
"""

import fcntl
import mmap
import os
import stat
from pathlib import Path
from time import monotonic_ns, sleep
from typing import Final

from finflow.kernel.errors import FinFlowError
from finflow.limits.model import Verdict, decide

SETS: Final = 1024
WAYS: Final = 8
SIZE_BYTES: Final = SETS * WAYS * 16
# A lock is held for microseconds, or for as long as its holder is kept off its core. Whoever was stopped
# while holding one (SIGSTOP) must not stop the others: after about 20 ms they go on without, for a second.
_TRIES_AT_ONCE: Final = 16
_TRIES: Final = 116
_PAUSE_S: Final = 0.0002
_STUCK_NS: Final = 1_000_000_000
_SPREAD: Final = 0x9E3779B97F4A7C15
_WORD: Final = (1 << 64) - 1


class Buckets:
    """Buckets by key. Keys are whole numbers of 63 bits, but not 0.

    `path` None: memory of this process alone. A file that is not there is made. Raises data_unusable for one
    that is not ours alone.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else _opened(path)
        self._memory = mmap.mmap(-1 if self._file is None else self._file, SIZE_BYTES)
        self._words = memoryview(self._memory).cast("q")
        # Where keys were seen last: each place is looked at again, under the lock.
        self._seen: dict[int, int] = {}
        # Sets whose lock was not to be had, and until when nobody waits for it again.
        self._stuck: dict[int, int] = {}

    def take(self, key: int, interval_ns: int, burst: int, cost: int = 1) -> Verdict:
        """Take `cost` requests out of the bucket of `key`, or none of them; a cost of 0 only looks."""
        chosen = (key * _SPREAD & _WORD) >> 54
        locked = self._file is not None and self._lock(self._file, chosen)
        try:
            now_ns = monotonic_ns()
            words, place = self._words, self._seen.get(key, 0)
            if words[place] != key:
                place = self._place(key, chosen * WAYS * 2)
            verdict = decide(words[place + 1], now_ns, interval_ns, burst, cost)
            words[place + 1] = verdict.full_at_ns
            return verdict
        finally:
            if locked:
                fcntl.lockf(self._file or -1, fcntl.LOCK_UN, 1, chosen)

    def close(self) -> None:
        """Give the memory back; the file stays for the others."""
        self._words.release()
        self._memory.close()
        if self._file is not None:
            os.close(self._file)

    def _lock(self, file: int, chosen: int) -> bool:
        """Lock a set for a moment; False if it cannot be had: a request too many is the lesser evil."""
        for attempt in range(_TRIES if self._stuck.get(chosen, 0) < monotonic_ns() else 1):
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, chosen)
            except BlockingIOError:
                # The holder may be waiting for this very core.
                sleep(0 if attempt < _TRIES_AT_ONCE else _PAUSE_S)
            else:
                return True
        self._stuck[chosen] = monotonic_ns() + _STUCK_NS
        return False

    def _place(self, key: int, first: int) -> int:
        """Where the key's bucket is, or is from now on: of a full set, in the place that forgets least."""
        places = self._words[first : first + 2 * WAYS].tolist()
        keys, moments = places[::2], places[1::2]
        found = key in keys
        place = first + 2 * (keys.index(key) if found else moments.index(min(moments)))
        if not found:
            self._words[place], self._words[place + 1] = key, 0
        if len(self._seen) >= SETS * WAYS:
            self._seen.clear()
        self._seen[key] = place
        return place


def _opened(path: Path) -> int:
    """The file, made if it is not there: all zeros, which is full buckets and no keys."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise FinFlowError("data_unusable", f"{path}: {os.strerror(error.errno or 0)}") from error
    status = os.fstat(file)
    # Memory for everybody has a folder for everybody: what waits there under our name may be another's.
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        os.close(file)
        raise FinFlowError("data_unusable", f"{path} is not a private file of this user.")
    os.posix_fallocate(file, 0, SIZE_BYTES)
    return file
