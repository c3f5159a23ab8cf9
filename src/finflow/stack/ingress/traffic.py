"""A router's log of requests, read as it grows and is rotated: who was served by which side, and how."""

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ports import Served
from finflow.rollout.verdicts import Side

_READ_BYTES: Final = 1 << 20
_LINE_MAX_BYTES: Final = 4096
# What one look takes in at most; the rest comes with the next.
_LOOK_MAX: Final = 200_000
# As nginx and Caddy call it.
_CLIENT_GONE: Final = 499


class _Line(msgspec.Struct, frozen=True):
    """What either router writes of a request: at its end, in seconds."""

    ts: float
    side: Side
    status: int
    duration: float
    customer_a: str = ""
    customer_b: str = ""


class Place(msgspec.Struct, frozen=True):
    """How far a log was read: which file, whatever its name is by now, and how much of it.

    A file that is dropped leaves its number to the next one, so the first line is remembered, too.
    """

    inode: int = 0
    offset: int = 0
    first: int = 0


class Totals(msgspec.Struct, frozen=True):
    """The requests of either side up to a place in the log."""

    place: Place
    baseline: int = 0
    candidate: int = 0


_lines: Final = msgspec.json.Decoder(_Line)


def served_from(folder: Path, name: str, place: Place) -> Iterator[tuple[Served, Place]]:
    """Every whole line behind a place, with the place behind it; files in the order in which they were begun.

    Where the file of the place was dropped meanwhile, it goes on with the oldest that is left. A line that
    is not one of ours, as after a full disk, is passed over.
    """
    files = _files(folder, name)
    known = [number for number, (path, inode) in enumerate(files) if _is_at(place, path, inode)]
    for number, (path, inode) in enumerate(files[known[0] if known else 0 :]):
        first = _first_of(path)
        for line, end in _whole_lines(path, inode, place.offset if known and number == 0 else 0):
            found = _parsed(line)
            if found is not None:
                yield found, Place(inode, end, first)


def _is_at(place: Place, path: Path, inode: int) -> bool:
    return inode == place.inode and (place.offset == 0 or _first_of(path) == place.first)


def _first_of(path: Path) -> int:
    """What tells a log from a later one with the same number: a checksum of its first line."""
    try:
        with path.open("rb") as file:
            return zlib.crc32(file.readline(_LINE_MAX_BYTES))
    except OSError:
        return 0


def end_of(folder: Path, name: str) -> Place:
    """The place behind everything that was written until now."""
    path = folder / name
    try:
        status = path.stat()
    except OSError:
        return Place()
    return Place(status.st_ino, status.st_size, _first_of(path))


def _files(folder: Path, name: str) -> list[tuple[Path, int]]:
    """The log and what it was rotated into, the oldest first."""
    found = []
    for path in folder.glob(f"{Path(name).stem}*{Path(name).suffix}"):
        try:
            status = path.stat()
        except OSError:
            continue
        # The one that is being written comes last, however little time has passed between two.
        found.append(((path.name == name, status.st_mtime_ns, path.name), path, status.st_ino))
    return [(path, inode) for _, path, inode in sorted(found)]


def _whole_lines(path: Path, inode: int, offset: int) -> Iterator[tuple[bytes, int]]:
    try:
        with path.open("rb") as file:
            # Between the listing and here, the name may have passed to another file.
            if os.fstat(file.fileno()).st_ino != inode:
                return
            file.seek(offset)
            while piece := file.read(_READ_BYTES):
                whole, newline, rest = piece.rpartition(b"\n")
                if not newline:
                    return
                for line in whole.split(b"\n"):
                    offset += len(line) + 1
                    yield line, offset
                file.seek(-len(rest), os.SEEK_CUR)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FinFlowError("source_unreachable", f"{path}: {error.strerror}") from error


def _parsed(line: bytes) -> Served | None:
    try:
        found = _lines.decode(line)
    except msgspec.DecodeError:
        return None
    # HAProxy writes a dash where there is nothing, and -1 where the client was gone before the answer.
    customer = (found.customer_a + found.customer_b).replace("-", "")
    status = found.status if found.status > 0 else _CLIENT_GONE
    return Served(found.ts, found.side, customer, status, max(0.0, found.duration))


class TrafficFile:
    """A TrafficLog over the file. How far it was read stands in the folder, for the next controller.

    Whoever looks at a log for the first time begins now; `forget` begins now again.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._cursor = folder / "traffic.place"

    def forget(self) -> None:
        """Pass over everything that was answered until now, as at the beginning of a rollout."""
        self._keep(end_of(self._folder, self._name))

    async def fresh(self) -> Sequence[Served]:
        place = self._place() or end_of(self._folder, self._name)
        found: list[Served] = []
        for served, behind in served_from(self._folder, self._name, place):
            found.append(served)
            place = behind
            if len(found) >= _LOOK_MAX:
                break
        self._keep(place)
        return found

    def _place(self) -> Place | None:
        try:
            return msgspec.json.decode(self._cursor.read_bytes(), type=Place)
        except (OSError, msgspec.DecodeError):
            return None

    def _keep(self, place: Place) -> None:
        try:
            _replace(self._cursor, place)
        except OSError as error:
            raise FinFlowError("source_unreachable", f"{self._cursor}: {error.strerror}") from error


class Tally:
    """The requests of either side since the router was first started, counted on from the last count."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._kept = folder / "traffic.totals"

    def counted(self) -> Mapping[Side, int]:
        totals = self._totals()
        place, counts = totals.place, {Side.BASELINE: totals.baseline, Side.CANDIDATE: totals.candidate}
        for served, behind in served_from(self._folder, self._name, totals.place):
            counts[served.side] += 1
            place = behind
        if place != totals.place:
            _replace(self._kept, Totals(place, counts[Side.BASELINE], counts[Side.CANDIDATE]))
        return counts

    def _totals(self) -> Totals:
        try:
            return msgspec.json.decode(self._kept.read_bytes(), type=Totals)
        except (OSError, msgspec.DecodeError):
            return Totals(Place())


def _replace(path: Path, value: msgspec.Struct) -> None:
    """Written as a whole, so that nobody reads half of it; a power cut may bring the one before back."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.write_bytes(msgspec.json.encode(value))
    fresh.chmod(0o600)
    fresh.replace(path)
