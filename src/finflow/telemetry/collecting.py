"""One picture of what all processes of a folder count: those that run, and those that ran.

Nothing is locked while numbers are read. A process's end may move its numbers from its own file into the
retained one in the middle of a reading; then the retained file was replaced, and the reading starts again.
"""

import logging
import secrets
import zlib
from bisect import bisect_left
from collections.abc import Iterator
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
_SERIES_AT_ONCE: Final = 200


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
        # Series of one number that are added up, the most frequent kind, apart from all others.
        self.single: list[tuple[list[float], int]] = []
        self.other: list[tuple[MergedFamily, Merged, Declaration, int]] = []
        self.born: list[tuple[Merged, float]] = []
        self.touched: list[tuple[MergedFamily, Merged]] = []
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
        self._kept: list[tuple[MergedFamily, Merged, retained.Kept]] = []

    def collect(self) -> Iterator[list[MergedFamily]]:
        """The families, each with its present series; what is yielded before the last is half-done.

        The pauses between are for the caller's other work; a reading itself has none.
        """
        yield from self._read()
        for family in self._families.values():
            family.present = []
        seen: set[int] = set()
        for family, series, kept in self._kept:
            self._put(family, series, kept.numbers, kept.born_s, seen)
        yield []
        for source in self._sources.values():
            self._add(source, seen)
            yield []
        yield [family for family in self._families.values() if family.present]

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
            self._sources, self._families, self._kept = {}, {}, []
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
            if family is not None:
                self._kept += [(family, family.at(series.values), series) for series in each.series]

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
        if family is None:
            return
        series = family.at(source.counted.labelled(declaration, placed))
        source.touched.append((family, series))
        source.born.append((series, placed.born_s))
        if family.width == 1 and declaration.merge == "sum":
            source.single.append((series.numbers, placed.slot))
        else:
            source.other.append((family, series, declaration, placed.slot))

    def _family(self, declaration: Declaration) -> MergedFamily | None:
        family = self._families.get(declaration.name)
        if family is None:
            family = self._families[declaration.name] = MergedFamily(declaration)
        # Another release may have meant something else by the name; one name cannot show both.
        return family if compatible(family.declaration, declaration) else None

    # --- adding up ---

    def _put(
        self, family: MergedFamily, series: Merged, numbers: list[float], born_s: float, seen: set[int]
    ) -> None:
        series.numbers[:] = numbers
        series.born_s = born_s
        seen.add(id(series))
        family.present.append(series)

    def _add(self, source: _Source, seen: set[int]) -> None:
        fresh = set()
        for family, series in source.touched:
            if id(series) not in seen:
                seen.add(id(series))
                fresh.add(id(series))
                series.numbers[:] = [0.0] * family.width
                series.exemplars = {}
                series.born_s = float("inf")
                family.present.append(series)
        numbers = source.numbers
        for place, slot in source.single:
            place[0] += numbers[slot]
        for series, born_s in source.born:
            series.born_s = min(series.born_s, born_s)
        for family, series, declaration, slot in source.other:
            self._add_other(source, family, series, declaration, slot, id(series) in fresh)

    def _add_other(
        self, source: _Source, family: MergedFamily, series: Merged, declaration: Declaration, slot: int,
        first: bool,
    ) -> None:  # fmt: skip
        own = source.numbers[slot : slot + numbers_of(declaration)]
        if declaration.kind != "histogram":
            series.numbers[0] = combine(declaration.merge, first, series.numbers[0], own[0])
            return
        moved = rebucketed(own, declaration.edges, family.declaration.edges)
        series.numbers[:] = [left + right for left, right in zip(series.numbers, moved, strict=True)]
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
