"""Counters, gauges and histograms whose numbers stand in slots that other processes read.

A family is declared once, a label set is bound once, and what is bound is kept where it is used:

    REFUSALS = REGISTRY.counter("finflow_refusals", "Commands refused.", labels=("code",))
    unbalanced = REFUSALS.bind("unbalanced")    # born at 0, now
    unbalanced.inc()

An increment is a load, an addition and a store, about 0.1 us; only one thread of the process may write.
Where a label's values come from outside, `limit` bounds them: label sets beyond it share one, named
`_other` in that label, and the counter finflow_metrics_overflow counts what went there.
"""

import struct
import time
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from finflow.telemetry.slots import RECORD_BYTES, SLOTS, Block, BlockFile

encode = msgspec.msgpack.encode
OTHER: Final = "_other"
MAX_LABEL_CHARACTERS: Final = 200
# Trace id, span id, value, seconds since 1970, checksum of these.
EXEMPLAR: Final = struct.Struct("<16s8sddI")
EXEMPLAR_SLOTS: Final = 6

Kind = Literal["counter", "gauge", "histogram", "info"]
Merge = Literal["sum", "max", "min"]


class Declaration(msgspec.Struct, frozen=True, array_like=True):
    """What a family is. `merge` says how the gauges of several processes become one."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    unit: str
    edges: tuple[float, ...]
    merge: Merge
    # Whether the release of the process that counts becomes a label.
    released: bool
    # Whether each bucket keeps the trace that was last seen in it.
    exemplars: bool
    # Which labels take their values from outside, by their place.
    open_at: tuple[int, ...]

    @property
    def width(self) -> int:
        """Slots of one series: the number; or a histogram's buckets, its sum, and their exemplars."""
        if self.kind != "histogram":
            return 1
        buckets = len(self.edges) + 1
        return buckets + 1 + (buckets * EXEMPLAR_SLOTS if self.exemplars else 0)


class Placed(msgspec.Struct, frozen=True, array_like=True, tag="series"):
    """A label set of a family: where its numbers begin, and when it was born (seconds since 1970)."""

    family: int
    slot: int
    born_s: float
    values: tuple[str, ...]


def overflow_of(declaration: Declaration, values: tuple[str, ...]) -> tuple[str, ...]:
    """The label values that are shared by those for which there is no room."""
    return tuple(OTHER if place in declaration.open_at else value for place, value in enumerate(values))


class Declared(msgspec.Struct, frozen=True, array_like=True, tag="family"):
    """A family, by its number in the block."""

    number: int
    declaration: Declaration


class Origin(msgspec.Struct, frozen=True, array_like=True, tag="origin"):
    """Which process counts here."""

    release: str
    pid: int


Entry = Declared | Placed | Origin


class Counter:
    """Only rises."""

    __slots__ = ("_slot", "_values")

    def __init__(self, block: Block, slot: int, declaration: Declaration) -> None:
        self._slot = slot
        self._values = block.values

    def move(self, block: Block) -> None:
        """Count in other memory from now on."""
        self._values = block.values

    def inc(self) -> None:
        """One more."""
        self._values[self._slot] += 1.0

    def add(self, amount: float) -> None:
        """So many more; never less than zero."""
        assert amount >= 0, "a counter only rises"
        self._values[self._slot] += amount

    @property
    def value(self) -> float:
        """What this process counted."""
        return self._values[self._slot]


class Gauge(Counter):
    """Rises and falls."""

    __slots__ = ()

    def add(self, amount: float) -> None:
        """So many more, or less."""
        self._values[self._slot] += amount

    def set(self, value: float) -> None:
        """It is this now."""
        self._values[self._slot] = value


class Histogram:
    """Counts observations by the first edge that they do not exceed; sums them up."""

    __slots__ = ("_block", "_edges", "_exemplars_at", "_slot", "_sum_at", "_values")

    def __init__(self, block: Block, slot: int, declaration: Declaration) -> None:
        self._edges = declaration.edges
        self._slot = slot
        self._sum_at = slot + len(self._edges) + 1
        self._exemplars_at = self._sum_at + 1
        self.move(block)

    def move(self, block: Block) -> None:
        """Count in other memory from now on."""
        self._block = block
        self._values = block.values

    def observe(self, value: float) -> None:
        """One observation; a duration comes from a clock that does not step."""
        values = self._values
        values[self._slot + bisect_left(self._edges, value)] += 1.0
        values[self._sum_at] += value

    def observe_each(self, values: Iterable[float]) -> None:
        """Many observations in one step; what is below zero counts as zero. Those in order cost least."""
        numbers, edges, ordered, seen = self._values, self._edges, sorted(values), 0
        while seen < len(ordered):
            bucket = bisect_left(edges, ordered[seen])
            end = bisect_right(ordered, edges[bucket]) if bucket < len(edges) else len(ordered)
            numbers[self._slot + bucket] += end - seen
            seen = end
        numbers[self._sum_at] += sum(ordered[bisect_right(ordered, 0.0) :])

    def observe_counted(self, value: float, first: Counter, second: Counter) -> None:
        """One observation, and one more of two counters, in one step: what a request is counted as."""
        values = self._values
        values[self._slot + bisect_left(self._edges, value)] += 1.0
        values[self._sum_at] += value
        first._values[first._slot] += 1.0
        second._values[second._slot] += 1.0

    def exemplify(self, value: float, trace_id: bytes, span_id: bytes, at_s: float) -> None:
        """Name the trace of an observation that was counted already."""
        content = EXEMPLAR.pack(trace_id, span_id, value, at_s, 0)[:-4]
        bucket = bisect_left(self._edges, value)
        slot = self._exemplars_at + bucket * EXEMPLAR_SLOTS
        self._block.write(slot, content + zlib.crc32(content).to_bytes(4, "little"))

    @property
    def count(self) -> float:
        """How many observations this process made."""
        return sum(self._values[self._slot : self._sum_at])

    @property
    def sum(self) -> float:
        """What they come to."""
        return self._values[self._sum_at]


Bound = TypeVar("Bound", bound=Counter | Histogram)
Make = Callable[[Block, int, Declaration], Bound]


class Family(Generic[Bound]):
    """One name, its label sets, each bound to slots of its own."""

    def __init__(
        self, registry: "Registry", declaration: Declaration, make: "Make[Bound]", limit: int
    ) -> None:
        self.declaration = declaration
        self._registry = registry
        self._make = make
        self._limit = limit
        self._bound: dict[tuple[str, ...], Bound] = {}
        self._opened = 0

    def bind(self, *values: str) -> Bound:
        """The series of these label values, in the order of the labels; made if it is new."""
        found = self._bound.get(values)
        return found if found is not None else self._make_bound(values)

    def __len__(self) -> int:
        return len(self._bound)

    def move(self, block: Block) -> None:
        """Count in other memory from now on."""
        for bound in self._bound.values():
            bound.move(block)

    def _make_bound(self, values: tuple[str, ...]) -> Bound:
        assert len(values) == len(self.declaration.labels), f"{self.declaration.name} has other labels"
        values = tuple(value[:MAX_LABEL_CHARACTERS] for value in values)
        overflown = overflow_of(self.declaration, values)
        if self.declaration.open_at and values != overflown:
            if self._opened >= self._limit:
                return self._overflow(overflown)
            self._opened += 1
        return self._bound.get(values) or self._placed(values) or self._overflow(overflown)

    def _overflow(self, values: tuple[str, ...]) -> Bound:
        """The label set that all share for which there is no room."""
        self._registry.overflowed(self.declaration.name)
        found = self._bound.get(values) or self._placed(values)
        return found if found is not None else self._registry.lost(self._make, self.declaration)

    def _placed(self, values: tuple[str, ...]) -> Bound | None:
        slot = self._registry.place(self.declaration, values)
        if slot is None:
            return None
        bound = self._bound[values] = self._make(self._registry.block, slot, self.declaration)
        return bound


class Registry:
    """The families of one process and the memory that their numbers stand in."""

    def __init__(
        self, slots: int = SLOTS, record_bytes: int = RECORD_BYTES, wall_s: Callable[[], float] = time.time
    ) -> None:
        self._wall_s = wall_s
        self.block = Block.anonymous(wall_s(), slots, record_bytes)
        self.file: BlockFile | None = None
        self._families: dict[str, Family[Any]] = {}
        self._numbers: dict[str, int] = {}
        self._open_names: set[str] = set()
        self._next_slot = 0
        # What finds no room at all is counted here, and nowhere shown.
        self._sink = Block.anonymous(0.0, 512, 0)
        self._overflows = self.counter(
            "finflow_metrics_overflow",
            "Updates that went to a label set shared by those without room.",
            ("metric",),
        )
        self._overflows.bind(OTHER)

    # --- declaring ---

    def counter(
        self, name: str, meaning: str, labels: tuple[str, ...] = (), *,
        unit: str = "", released: bool = False,
        open_labels: Sequence[str] = (), limit: int = 0,
    ) -> "Family[Counter]":  # fmt: skip
        """A family of counters; its name is without `_total`, which the exposition adds."""
        declaration = Declaration(
            name, "counter", meaning, labels, unit, (), "sum", released, False, _places(labels, open_labels)
        )
        return self._declared(Family(self, declaration, Counter, limit))

    def gauge(
        self, name: str, meaning: str, labels: tuple[str, ...] = (), *,
        unit: str = "", released: bool = False,
        merge: Merge = "sum", kind: Kind = "gauge",
    ) -> "Family[Gauge]":  # fmt: skip
        """A family of gauges; those of a process that ended are gone."""
        declaration = Declaration(name, kind, meaning, labels, unit, (), merge, released, False, ())
        return self._declared(Family(self, declaration, Gauge, 0))

    def histogram(
        self, name: str, meaning: str, edges: Sequence[float], labels: tuple[str, ...] = (), *,
        unit: str = "", released: bool = False, exemplars: bool = False,
    ) -> "Family[Histogram]":  # fmt: skip
        """A family of histograms; an observation equal to an edge counts below it."""
        assert list(edges) == sorted(set(edges)), f"the edges of {name} do not rise"
        declaration = Declaration(
            name, "histogram", meaning, labels, unit, tuple(map(float, edges)), "sum", released, exemplars, ()
        )
        return self._declared(Family(self, declaration, Histogram, 0))

    def _declared(self, family: "Family[Bound]") -> "Family[Bound]":
        name = family.declaration.name
        assert name not in self._families, f"{name} is declared twice"
        self._numbers[name] = len(self._families)
        self._families[name] = family
        if family.declaration.open_at:
            # Born at 0 while there is room for it.
            self._open_names.add(name)
            self._overflows.bind(name)
        self.block.append(encode(Declared(self._numbers[name], family.declaration)))
        return family

    @property
    def declarations(self) -> list[Declaration]:
        """Every family, in the order in which it was declared."""
        return [family.declaration for family in self._families.values()]

    # --- placing ---

    def place(self, declaration: Declaration, values: tuple[str, ...]) -> int | None:
        """The first slot of a new series; None if the block is full."""
        slot = self._next_slot
        if slot + declaration.width > self.block.slots:
            return None
        series = Placed(self._numbers[declaration.name], slot, self._wall_s(), values)
        if not self.block.append(encode(series)):
            return None
        self._next_slot += declaration.width
        return slot

    def overflowed(self, name: str) -> None:
        """An update of this family found no room for its label set."""
        if name != self._overflows.declaration.name:
            self._overflows.bind(name if name in self._open_names else OTHER).inc()

    def lost(self, make: "Make[Bound]", declaration: Declaration) -> "Bound":
        """A series that is counted nowhere, for a block that is full to the last slot."""
        return make(self._sink, 0, declaration)

    # --- where it stands ---

    def attach(self, path: Path, release: str, pid: int) -> None:
        """Move into a file that others can read, with everything counted so far. Raises OSError."""
        assert self.file is None, "a registry moves once"
        self.block.prepend(encode(Origin(release, pid)))
        self.file = BlockFile.create(path, self.block.image())
        self._move(self.file.block)

    def release(self) -> None:
        """Leave the file as the end of the process would: for others to fold."""
        if self.file is not None:
            self.file.release()

    def _move(self, block: Block) -> None:
        self.block = block
        for family in self._families.values():
            family.move(block)


def _places(labels: tuple[str, ...], chosen: Sequence[str]) -> tuple[int, ...]:
    return tuple(labels.index(name) for name in chosen)
