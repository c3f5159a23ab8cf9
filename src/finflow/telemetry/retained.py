"""What processes counted that have ended: one file per folder, replaced as a whole.

Whoever finds the file of a dead process adds its counters and histograms here and removes it. The names of
the files that were added stand in the retained file itself, so that being killed between the two steps
counts nothing twice. Its size is bounded: so many releases, so many series of a family.
"""

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from finflow.telemetry.merging import numbers_of, rebucketed
from finflow.telemetry.metrics import Declaration, Declared, Entry, Origin, Placed, overflow_of
from finflow.telemetry.slots import BlockReader

log = logging.getLogger(__name__)

RELEASES_KEPT: Final = 8
SERIES_KEPT: Final = 10_000
FILE: Final = "retained.msgpack"
_LOCK: Final = "fold.lock"
_ENTRIES: Final = msgspec.msgpack.Decoder(Entry)


class Kept(msgspec.Struct, array_like=True):
    """One series: its label values, the release last where the family has one, and its numbers."""

    values: tuple[str, ...]
    born_s: float
    numbers: list[float]


class KeptFamily(msgspec.Struct, array_like=True):
    """A family and what is kept of it."""

    declaration: Declaration
    series: list[Kept]


class Retained(msgspec.Struct):
    """The whole file. `generation` grows with each change; `folded` are files that count no more."""

    generation: int = 0
    folded: list[str] = []
    releases: list[str] = []
    families: list[KeptFamily] = []


class Counted:
    """The records of one process's block, read as far as they go."""

    def __init__(self, reader: BlockReader) -> None:
        self.reader = reader
        self.release = ""
        self.declarations: dict[int, Declaration] = {}
        self.slots_used = 0

    def new_series(self) -> Iterator[tuple[Declaration, Placed]]:
        """The series that were placed since the last time. A file's first record says who counts."""
        for body in self.reader.new_records():
            entry = _ENTRIES.decode(body)
            if isinstance(entry, Origin):
                self.release = entry.release
            elif isinstance(entry, Declared):
                self.declarations[entry.number] = entry.declaration
            else:
                declaration = self.declarations[entry.family]
                self.slots_used = max(self.slots_used, entry.slot + declaration.width)
                yield declaration, entry

    def labelled(self, declaration: Declaration, placed: Placed) -> tuple[str, ...]:
        """Its label values, with the release where the family has one."""
        return (*placed.values, self.release) if declaration.released else placed.values


def read(folder: Path) -> Retained:
    """What is kept; nothing where there is nothing, or where it cannot be read."""
    try:
        return msgspec.msgpack.decode((folder / FILE).read_bytes(), type=Retained)
    except FileNotFoundError:
        return Retained()
    except msgspec.MsgspecError as error:
        log.warning("retained metrics cannot be read; they begin anew", extra={"error": repr(error)})
        return Retained()


def stamp(folder: Path) -> tuple[int, int, int]:
    """Changes whenever the file is replaced."""
    try:
        status = (folder / FILE).stat()
    except FileNotFoundError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)


@contextmanager
def folding(folder: Path) -> Iterator[bool]:
    """The right to change the retained file, if nobody else has it: then True. Never waits."""
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def fold(folder: Path, dead: Sequence[Path]) -> None:
    """Add what these files count, and remove them; leaves it to another process that is at it already."""
    with folding(folder) as ours:
        if not ours:
            return
        kept = read(folder)
        fresh = [path for path in dead if path.name not in kept.folded and path.exists()]
        for path in fresh:
            _add(kept, path)
        if fresh:
            # Names of files that are gone need not be remembered.
            kept.folded = [name for name in kept.folded if (folder / name).exists()]
            kept.folded += [path.name for path in fresh]
            kept.generation += 1
            _write(folder, kept)
        for path in dead:
            path.unlink(missing_ok=True)


def _write(folder: Path, kept: Retained) -> None:
    fresh = folder / f"{FILE}.new"
    fresh.write_bytes(msgspec.msgpack.encode(kept))
    fresh.replace(folder / FILE)


def _add(kept: Retained, path: Path) -> None:
    try:
        found = _read(path)
    except (OSError, ValueError, msgspec.MsgspecError, KeyError) as error:
        log.warning(
            "metrics of an ended process cannot be read", extra={"file": path.name, "error": repr(error)}
        )
        return
    release, series = found
    _remember_release(kept, release)
    index = _Index(kept)
    for declaration, values, born_s, numbers in series:
        index.add(declaration, values, born_s, numbers)


def _read(path: Path) -> tuple[str, list[tuple[Declaration, tuple[str, ...], float, list[float]]]]:
    """The release of an ended process, and its counters and histograms. Raises what a broken file gives."""
    counted = Counted(BlockReader.open(path))
    placed = list(counted.new_series())
    numbers = counted.reader.numbers(counted.slots_used)
    counted.reader.close()
    found = []
    for declaration, each in placed:
        if declaration.kind in ("counter", "histogram"):
            own = numbers[each.slot : each.slot + numbers_of(declaration)]
            if len(own) < numbers_of(declaration):
                raise ValueError("a series lies beyond the block")
            found.append((declaration, counted.labelled(declaration, each), each.born_s, own))
    return counted.release, found


def _remember_release(kept: Retained, release: str) -> None:
    """The release counts as the newest; series of those that are too old are dropped."""
    kept.releases = [*(each for each in kept.releases if each != release), release][-RELEASES_KEPT:]
    for family in kept.families:
        if family.declaration.released:
            family.series = [each for each in family.series if each.values[-1] in kept.releases]


class _Index:
    """The kept series by name and label values."""

    def __init__(self, kept: Retained) -> None:
        self._kept = kept
        self._families = {family.declaration.name: family for family in kept.families}
        self._series = {
            (family.declaration.name, each.values): each for family in kept.families for each in family.series
        }

    def add(
        self, declaration: Declaration, values: tuple[str, ...], born_s: float, numbers: list[float]
    ) -> None:
        family = self._family(declaration)
        found = self._series.get((declaration.name, values))
        if found is None and len(family.series) >= SERIES_KEPT:
            values = overflow_of(declaration, values)
            found = self._series.get((declaration.name, values))
        if found is None:
            found = Kept(values, born_s, [0.0] * len(numbers))
            self._series[declaration.name, values] = found
            family.series.append(found)
        found.born_s = min(found.born_s, born_s)
        found.numbers = [left + right for left, right in zip(found.numbers, numbers, strict=True)]

    def _family(self, declaration: Declaration) -> KeptFamily:
        """The family as the newest process declares it; what is kept under other edges is moved to these."""
        family = self._families.get(declaration.name)
        if family is None or _differ(family.declaration, declaration):
            fresh = KeptFamily(declaration, [])
            if family is not None:
                self._kept.families.remove(family)
                self._series = {key: each for key, each in self._series.items() if key[0] != declaration.name}
            self._kept.families.append(fresh)
            family = self._families[declaration.name] = fresh
        elif family.declaration.edges != declaration.edges:
            for each in family.series:
                each.numbers = rebucketed(each.numbers, family.declaration.edges, declaration.edges)
            family.declaration = declaration
        return family


def _differ(one: Declaration, other: Declaration) -> bool:
    """Whether two declarations of one name cannot be counted together."""
    return (one.kind, one.labels, one.released) != (other.kind, other.labels, other.released)
