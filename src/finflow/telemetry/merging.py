"""Numbers of several processes as one. Pure: numbers in, numbers out.

A series is kept as its declaration, label values and numbers: one number, or a histogram's buckets (each
observation in one of them) followed by their sum.
"""

from bisect import bisect_left
from typing import Final

import msgspec

from finflow.telemetry.metrics import EXEMPLAR_SLOTS, Declaration

RELEASE: Final = "release"


class Exemplar(msgspec.Struct, frozen=True):
    """The trace of one observation; `at_s` are seconds since 1970."""

    trace_id: str
    span_id: str
    value: float
    at_s: float


class Merged:
    """One series of the exposition, summed up from those who counted it."""

    __slots__ = ("base", "born_s", "claimed", "exemplars", "line", "numbers", "values")

    def __init__(self, values: tuple[str, ...], width: int) -> None:
        self.values = values
        # What processes counted that have ended.
        self.base = [0.0] * width
        self.numbers = [0.0] * width
        self.born_s = float("inf")
        # Whether a living process counts it: the first one starts from the base, the others add to it.
        self.claimed = False
        self.exemplars: dict[int, Exemplar] = {}
        # What precedes the number in the exposition, made when it is first shown.
        self.line: list[str] | None = None


class MergedFamily:
    """A family of the exposition with its series, in the order in which they were first met."""

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration
        self.labels = (*declaration.labels, RELEASE) if declaration.released else declaration.labels
        self.width = numbers_of(declaration)
        self.series: dict[tuple[str, ...], Merged] = {}

    def at(self, values: tuple[str, ...], born_s: float) -> Merged:
        """The series of these label values, which somebody counts since then."""
        found = self.series.get(values)
        if found is None:
            found = self.series[values] = Merged(values, self.width)
        found.born_s = min(found.born_s, born_s)
        return found


def numbers_of(declaration: Declaration) -> int:
    """How many numbers a series of this family is: one, or the buckets and the sum."""
    return len(declaration.edges) + 2 if declaration.kind == "histogram" else 1


def exemplar_slot(declaration: Declaration, slot: int, bucket: int) -> int:
    """Where the exemplar of a bucket stands, for a series that begins at this slot."""
    return slot + numbers_of(declaration) + bucket * EXEMPLAR_SLOTS


def compatible(ours: Declaration, theirs: Declaration) -> bool:
    """Whether a series of theirs can be shown as one of ours."""
    return (ours.name, ours.kind, ours.labels, ours.released) == (
        theirs.name,
        theirs.kind,
        theirs.labels,
        theirs.released,
    )


def rebucketed(numbers: list[float], edges: tuple[float, ...], wanted: tuple[float, ...]) -> list[float]:
    """A histogram's numbers under other edges: each bucket goes to the first that holds all of it.

    Counts and sum stay what they were; an observation may seem larger than it was, never smaller.
    """
    if edges == wanted:
        return numbers
    moved = [0.0] * (len(wanted) + 2)
    for edge, count in zip((*edges, float("inf")), numbers, strict=False):
        moved[bisect_left(wanted, edge)] += count
    moved[-1] = numbers[-1]
    return moved


def combine(kind_of_merge: str, first: bool, left: float, right: float) -> float:
    """Two processes' numbers as one; `first` where nobody has been counted yet."""
    if first:
        return right
    if kind_of_merge == "max":
        return max(left, right)
    if kind_of_merge == "min":
        return min(left, right)
    return left + right


def quantile(share: float, edges: tuple[float, ...], counts: list[float]) -> float | None:
    """The value below which this share of the observations lies, linear within a bucket; None of none.

    `counts` are per bucket, one more than edges; what lies above the last edge is the last edge.
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank, below = share * total, 0.0
    for place, count in enumerate(counts[: len(edges)]):
        if count and below + count >= rank:
            lower = edges[place - 1] if place else 0.0
            return lower + (edges[place] - lower) * max(0.0, rank - below) / count
        below += count
    return edges[-1]
