"""The decision log: one file of JSON lines a rollout, each line holding the hash of the line before.

A line is on the disk before anything follows from it. The hash of a line stands at its beginning and covers
the bytes behind it; `prev` is the hash of the line before, also over the border of two files. So an edit, a
removal, an insertion and another order are found by `verify`. What a chain alone cannot show, lines cut off
at its end, is shown by the file `head`, and by every notice that was sent, which carries the hash.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from finflow.kernel.clock import system_clock, to_datetime
from finflow.kernel.errors import FinFlowError
from finflow.rollout.events import Entry, Event, Recovered

GENESIS: Final = "0" * 64
_PREFIX: Final = b'{"hash":"'
_BODY_AT: Final = len(_PREFIX) + 64 + len(b'",')
_MAX_LINE: Final = 4 << 20
_decoder: Final = msgspec.json.Decoder(Entry)


def hash_of(line: bytes) -> str:
    """What the hash of a line must be."""
    return hashlib.sha256(line[_BODY_AT:]).hexdigest()


def line_of(entry: Entry) -> bytes:
    """An entry as it stands in the file, with its newline."""
    body = msgspec.json.encode(entry)[1:]
    return _PREFIX + hashlib.sha256(body).hexdigest().encode() + b'",' + body + b"\n"


def claimed_hash(line: bytes) -> str:
    """What a line says its hash is."""
    return line[len(_PREFIX) : len(_PREFIX) + 64].decode(errors="replace")


def now() -> str:
    """The present as it stands in a log."""
    return to_datetime(system_clock()).isoformat(timespec="microseconds").replace("+00:00", "Z")


def files(folder: Path) -> list[Path]:
    """The files of a service's rollouts, oldest first."""
    return sorted(folder.glob("[0-9]*.jsonl")) if folder.is_dir() else []


def read(path: Path) -> list[Entry]:
    """Every whole line of one rollout; what a writer has not finished is not read. Raises log_broken."""
    found = []
    for number, line in enumerate(_lines(path), 1):
        try:
            found.append(_decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FinFlowError("log_broken", f"{path.name}:{number}: {error}") from error
    return found


def _lines(path: Path) -> Iterator[bytes]:
    """The lines that end with a newline: a writer that died has left half of one at the end."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FinFlowError("data_unusable", f"{path}: {error.strerror}") from error
    yield from data.split(b"\n")[:-1]


class DecisionLog:
    """The writer of one service's log. Only the holder of the service's lock may have one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handle = -1
        self._size = 0
        self._path = folder
        self._seq, self._hash = 0, GENESIS
        self.entries: list[Entry] = []

    @property
    def head(self) -> str:
        """The hash of the last line."""
        return self._hash

    def open(self) -> None:
        """Goes on behind the last whole line; half a line is set aside, and the log says so."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = files(self._folder)
        if found and not read(found[-1]) and len(found) > 1:
            # A rollout whose first line was never finished never began.
            found.pop().replace(self._folder / f"{found[-1].stem}.torn-first")
        if not found:
            return
        self._attach(found[-1])

    def _attach(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.entries = read(path)
        lines = list(_lines(path))
        self._refuse_faults(lines)
        self._size = sum(len(line) + 1 for line in lines)
        if lines:
            self._seq, self._hash = self.entries[-1].seq, claimed_hash(lines[-1])
        self._set_aside()

    def _refuse_faults(self, lines: list[bytes]) -> None:
        """Nothing is decided on a log that somebody has changed."""
        seq, prev = (self.entries[0].seq - 1, self.entries[0].prev) if self.entries else (0, GENESIS)
        for number, line in enumerate(lines, 1):
            for words in _line_faults(line, seq, prev):
                raise FinFlowError("log_broken", f"{self._path.name}:{number}: {words}")
            seq, prev = _after(line, seq)

    def _set_aside(self) -> None:
        torn = os.fstat(self._handle).st_size - self._size
        if torn == 0:
            return
        kept = self._path.with_suffix(f".torn-{self._seq + 1}")
        kept.write_bytes(self._path.read_bytes()[self._size :])
        os.ftruncate(self._handle, self._size)
        os.fsync(self._handle)
        if self.entries:
            self.append("controller", Recovered(torn, kept.name))

    def begin(self, who: str, told: Event) -> Entry:
        """A new file for a new rollout, with its first line."""
        self.close()
        number = int(files(self._folder)[-1].stem) + 1 if files(self._folder) else 1
        self._attach(self._folder / f"{number:06d}.jsonl")
        entry = self.append(who, told)
        _sync_folder(self._folder)
        return entry

    def owned(self) -> bool:
        """Whether nobody but us has written: a controller that lost its lock finds it out here."""
        try:
            here, there = os.fstat(self._handle), self._path.stat()
        except OSError:
            return False
        return here.st_size == self._size and here.st_ino == there.st_ino

    def append(self, who: str, told: Event) -> Entry:
        """One more line, on the disk when this returns. Raises rollout_fenced and log_unwritable."""
        if not self.owned():
            raise FinFlowError("rollout_fenced", f"Somebody else has written to {self._path.name}.")
        entry = Entry(self._seq + 1, self._hash, now(), who, told)
        line = line_of(entry)
        assert len(line) < _MAX_LINE, "a line of the decision log is a few numbers"
        self._write(line)
        self._size += len(line)
        self._seq, self._hash = entry.seq, claimed_hash(line)
        self.entries.append(entry)
        self._remember_head()
        return entry

    def _write(self, line: bytes) -> None:
        try:
            if os.write(self._handle, line) != len(line):
                raise OSError(28, "only a part of the line fits")
            os.fsync(self._handle)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._size)
            raise FinFlowError("log_unwritable", f"{self._path}: {error.strerror}") from error

    def _remember_head(self) -> None:
        """After the line is on the disk, so that the head is never ahead of the log."""
        with contextlib.suppress(OSError):
            (self._folder / "head").write_text(f"{self._seq} {self._hash}\n")

    def close(self) -> None:
        """Writes nothing more."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Verified(msgspec.Struct, frozen=True):
    """What came of reading a whole chain: how long it is, its last hash, and every line that is wrong."""

    lines: int
    head: str
    faults: list[str]
    torn: bool = False


def verify(folder: Path) -> Verified:
    """Reads every line of every rollout of a service."""
    faults: list[str] = []
    seq, prev, torn = 0, GENESIS, False
    for path in files(folder):
        torn = not path.read_bytes().endswith(b"\n")
        for number, line in enumerate(_lines(path), 1):
            faults += [f"{path.name}:{number}: {words}" for words in _line_faults(line, seq, prev)]
            seq, prev = _after(line, seq)
    faults += _head_faults(folder, seq, prev)
    return Verified(seq, prev, faults, torn)


def _line_faults(line: bytes, seq: int, prev: str) -> Iterator[str]:
    if not line.startswith(_PREFIX) or claimed_hash(line) != hash_of(line):
        yield "the line was changed: its hash is not that of its bytes"
        return
    try:
        entry = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        yield f"the line cannot be read: {error}"
        return
    if entry.seq != seq + 1:
        yield f"line {entry.seq} follows line {seq}: lines were removed, repeated or moved"
    elif entry.prev != prev:
        yield "the line does not hold the hash of the line before: one of the two was replaced"


def _after(line: bytes, seq: int) -> tuple[int, str]:
    """Where the chain stands behind a line, as far as the line can be believed; one fault is told once."""
    try:
        return _decoder.decode(line).seq, claimed_hash(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return seq + 1, claimed_hash(line)


def _head_faults(folder: Path, seq: int, last: str) -> Iterator[str]:
    try:
        remembered, digest = (folder / "head").read_text().split()
        known = int(remembered)
    except (OSError, ValueError):
        return
    if known > seq:
        yield f"head: line {known} was written, and the log ends with line {seq}: lines were cut off"
    elif known == seq and digest != last:
        yield f"head: line {seq} was written with another hash: the line was replaced"
