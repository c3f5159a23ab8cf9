"""One picture of what all processes of a folder count: those that run, and those that ran.

Nothing is locked while numbers are read. A process's end may move its numbers from its own file into the
retained one in the middle of a reading; then the retained file was replaced, and the reading starts again.
"""

import logging
import secrets
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from operator import add
from pathlib import Path
from typing import Final

import msgspec

from finflow.telemetry import retained
from finflow.telemetry.merging import (
    Exemplar,
    Merged,
    MergedFamily,
    combine,
    compatible,
    exemplar_slot,
    numbers_of,
    rebucketed,
)
from finflow.telemetry.metrics import EXEMPLAR, Declaration, Placed, Registry
from finflow.telemetry.retained import Counted
from finflow.telemetry.slots import BlockReader, writer_lives

log = logging.getLogger(__name__)

SUFFIX: Final = ".block"
_READ_AGAIN: Final = 8
# Series between two pauses.
_SERIES_AT_ONCE: Final = 50
_NUMBERS_AT_ONCE: Final = 2_000


def block_path(folder: Path, pid: int) -> Path:
    """A name for a process's file that no other process ever had."""
    return folder / f"{pid}-{secrets.token_hex(8)}{SUFFIX}"


def block_files(folder: Path) -> list[Path]:
    """The files of processes that run, and of those that ended since somebody last looked."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def fold_dead(folder: Path) -> None:
    """Move what ended processes counted into the retained file."""
    dead = [path for path in block_files(folder) if not _lives(path)]
    if dead:
        retained.fold(folder, dead)


class _Source:
    """One process's block: where each of its series goes."""

    def __init__(self, reader: BlockReader) -> None:
        self.counted = Counted(reader)
        # Series of one number that are added up, the most frequent kind, apart from all others: those that
        # this process is the first to count, with what ended processes counted, and the rest.
        self.first: list[tuple[list[float], float, int]] = []
        self.again: list[tuple[list[float], int]] = []
        self.other: list[tuple[MergedFamily, Merged, Declaration, int, bool]] = []
        self.numbers: list[float] = []

    def read(self) -> None:
        self.numbers = self.counted.reader.numbers(self.counted.slots_used)


class Collector:
    """Reads the folder's files; or, without a folder, what this process alone counts."""

    def __init__(self, folder: Path | None, registry: Registry | None = None) -> None:
        self._folder = folder
        self._registry = registry
        self._families: dict[str, MergedFamily] = {}
        self._sources: dict[str, _Source] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._folded: set[str] = set()

    def collect(self) -> Iterator[list[MergedFamily]]:
        """The families, each with its present series; what is yielded before the last is half-done.

        The pauses between are for the caller's other work; a reading itself has none.
        """
        yield from self._read()
        for source in self._sources.values():
            yield from _add(source)
        yield [family for family in self._families.values() if family.series]

    # --- reading ---

    def _read(self) -> Iterator[list[MergedFamily]]:
        if self._folder is None:
            assert self._registry is not None, "a collector needs a folder or a registry"
            if not self._sources:
                self._sources["own"] = _Source(self._registry.block.reader())
            yield from self._follow()
            return
        fold_dead(self._folder)
        for _ in range(_READ_AGAIN):
            before = retained.stamp(self._folder)
            self._refresh(self._folder, before)
            yield from self._follow()
            if retained.stamp(self._folder) == before:
                return
        log.warning("metrics change faster than they can be read")

    def _refresh(self, folder: Path, stamp: tuple[int, int, int]) -> None:
        """Open what is new. After a fold everything is read anew, so that nothing of the past piles up."""
        files = {path.name: path for path in block_files(folder)}
        if stamp != self._stamp or self._sources.keys() - files.keys():
            for source in self._sources.values():
                source.counted.reader.close()
            self._sources, self._families = {}, {}
            kept = retained.read(folder)
            self._stamp = stamp
            self._folded = set(kept.folded)
            self._adopt(kept)
        for name in files.keys() - self._sources.keys() - self._folded:
            try:
                self._sources[name] = _Source(BlockReader.open(files[name]))
            except (OSError, ValueError) as error:
                log.warning("metrics cannot be read", extra={"file": name, "error": repr(error)})

    def _adopt(self, kept: retained.Retained) -> None:
        for each in kept.families:
            family = self._family(each.declaration)
            if family is None:
                continue
            for found in each.series:
                series = family.at(found.values, found.born_s)
                series.base, series.numbers = found.numbers, list(found.numbers)

    def _follow(self) -> Iterator[list[MergedFamily]]:
        """Read the new records of every process, then the numbers, one process right after the other."""
        for source in self._sources.values():
            yield from self._place(source)
        for source in self._sources.values():
            source.read()

    def _place(self, source: _Source) -> Iterator[list[MergedFamily]]:
        try:
            for count, (declaration, placed) in enumerate(source.counted.new_series()):
                self._connect(source, declaration, placed)
                if count % _SERIES_AT_ONCE == 0:
                    yield []
        except (msgspec.MsgspecError, KeyError) as error:
            log.warning("records of metrics cannot be read", extra={"error": repr(error)})

    def _connect(self, source: _Source, declaration: Declaration, placed: Placed) -> None:
        family = self._family(declaration)
        # What lies beyond its block was written by something that is not this.
        if family is None or placed.slot + declaration.width > source.counted.reader.slots:
            return
        series = family.at(source.counted.labelled(declaration, placed), placed.born_s)
        if family.width > 1 or declaration.merge != "sum":
            source.other.append((family, series, declaration, placed.slot, not series.claimed))
        elif series.claimed:
            source.again.append((series.numbers, placed.slot))
        else:
            source.first.append((series.numbers, series.base[0], placed.slot))
        series.claimed = True

    def _family(self, declaration: Declaration) -> MergedFamily | None:
        family = self._families.get(declaration.name)
        if family is None:
            family = self._families[declaration.name] = MergedFamily(declaration)
        # Another release may have meant something else by the name; one name cannot show both.
        return family if compatible(family.declaration, declaration) else None


def _add(source: _Source) -> Iterator[list[MergedFamily]]:
    """Add what one process counts to what those before it count."""
    numbers = source.numbers
    for start in range(0, len(source.first), _NUMBERS_AT_ONCE):
        for place, base, slot in source.first[start : start + _NUMBERS_AT_ONCE]:
            place[0] = base + numbers[slot]
        yield []
    for start in range(0, len(source.again), _NUMBERS_AT_ONCE):
        for place, slot in source.again[start : start + _NUMBERS_AT_ONCE]:
            place[0] += numbers[slot]
        yield []
    for count, each in enumerate(source.other):
        _add_other(source, *each)
        if count % _SERIES_AT_ONCE == 0:
            yield []


def _add_other(
    source: _Source, family: MergedFamily, series: Merged, declaration: Declaration, slot: int, first: bool
) -> None:
    own = source.numbers[slot : slot + numbers_of(declaration)]
    if declaration.kind != "histogram":
        series.numbers[0] = combine(declaration.merge, first, series.numbers[0], own[0])
        return
    moved = rebucketed(own, declaration.edges, family.declaration.edges)
    series.numbers[:] = map(add, series.base if first else series.numbers, moved)
    if first:
        series.exemplars = {}
    if declaration.exemplars:
        for bucket, count in enumerate(own[:-1]):
            if count:
                found = _exemplar(source.counted.reader, declaration, slot, bucket)
                _keep_newest(series, family.declaration.edges, found)


def _lives(path: Path) -> bool:
    try:
        return writer_lives(path)
    except FileNotFoundError:
        return True


def _keep_newest(series: Merged, edges: tuple[float, ...], found: Exemplar | None) -> None:
    if found is None:
        return
    bucket = bisect_left(edges, found.value)
    known = series.exemplars.get(bucket)
    if known is None or known.at_s < found.at_s:
        series.exemplars[bucket] = found


def _exemplar(reader: BlockReader, declaration: Declaration, slot: int, bucket: int) -> Exemplar | None:
    """The exemplar of a bucket; None where there is none, or where it is being written right now."""
    content = reader.content(exemplar_slot(declaration, slot, bucket), EXEMPLAR.size)
    trace_id, span_id, value, at_s, checksum = EXEMPLAR.unpack(content)
    if not at_s or zlib.crc32(content[:-4]) != checksum:
        return None
    return Exemplar(trace_id.hex(), span_id.hex(), value, at_s)
