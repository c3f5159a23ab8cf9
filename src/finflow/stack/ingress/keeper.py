"""Keeps a log that comes in on the standard input: whole lines into a file of bounded size, older beside it.

Run as a program by its path, with the file's name, its greatest size and how many older ones stay. It imports
nothing of ours, so that a pipe's far end costs a few megabytes; it ends when the last writer has.
"""

import os
import sys
import time
from pathlib import Path

_READ_BYTES = 1 << 16


def main() -> None:
    path, most, kept = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    handle, rest = _opened(path), b""
    while piece := os.read(0, _READ_BYTES):
        lines, newline, rest = (rest + piece).rpartition(b"\n")
        # A line without end is none of a log's.
        rest = rest[-_READ_BYTES:]
        try:
            if os.fstat(handle).st_size >= most:
                handle = _rotated(path, handle, kept)
            os.write(handle, lines + newline)
        except OSError:
            # A full disk costs lines of the log, never a request.
            time.sleep(0.1)


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _rotated(path: Path, handle: int, kept: int) -> int:
    path.rename(path.with_stem(f"{path.stem}-{time.time_ns()}"))
    os.close(handle)
    older = sorted(path.parent.glob(f"{path.stem}-*{path.suffix}"))
    for each in older[:-kept]:
        each.unlink(missing_ok=True)
    return _opened(path)


if __name__ == "__main__":
    main()
