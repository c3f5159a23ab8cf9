"""The words of a judgement: what was counted on either side, and what a gate says about it."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

# Shares of traffic are whole basis points everywhere: 500 is 5 %, 10_000 is everything.
FULL_WEIGHT_BP: Final = 10_000


class Side(StrEnum):
    """The release that serves now, and the one that is to follow it."""

    BASELINE = "baseline"
    CANDIDATE = "candidate"


class Verdict(StrEnum):
    """What a gate says. No data is never PASS; INCONCLUSIVE pauses for a person or for more data."""

    PASS = "pass"  # noqa: S105 # the word of a gate, not a password
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"
    FAIL = "fail"


_BADNESS: Final = {verdict: rank for rank, verdict in enumerate(Verdict)}


class Histogram(msgspec.Struct, frozen=True):
    """Durations in buckets: `counts[i]` lie at or below `edges_s[i]` and above the edge before it.

    One more count than edges: the last holds what lies above all. `sum_s` and `sum_squares_s2` are over all
    durations; a source that has no squares gives None, and the variance is then bounded from the buckets.
    """

    edges_s: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float
    sum_squares_s2: float | None = None


class Reading(msgspec.Struct, frozen=True):
    """What one side has done since it was started or the source began: totals that only grow.

    `errors`: requests that failed. `customers_failed`: customers who met the first error of theirs on either
    side, `customers`: those who were served by this side; None where the source does not know customers.
    `counts` are bad events by the names that a spec gives them.
    """

    requests: int
    errors: int
    latency: Histogram | None = None
    customers_failed: int | None = None
    customers: int | None = None
    counts: Mapping[str, int] = {}


class Judgement(msgspec.Struct, frozen=True):
    """One gate's word on one look: the numbers that it went by, and a sentence for a person."""

    gate: str
    verdict: Verdict
    numbers: Mapping[str, float | int | str]
    words: str


def worst(judgements: Iterable[Judgement]) -> Verdict:
    """FAIL before ERROR before INCONCLUSIVE before PASS; INCONCLUSIVE when nothing was judged."""
    verdicts = [judgement.verdict for judgement in judgements]
    return max(verdicts, key=_BADNESS.__getitem__, default=Verdict.INCONCLUSIVE)
