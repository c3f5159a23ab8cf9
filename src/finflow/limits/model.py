"""How many requests a bucket lets through: the generic cell rate algorithm, in whole nanoseconds. Pure.

A bucket is one number, the moment at which it is full again (the theoretical arrival time of the
algorithm). Every request moves that moment ahead by one interval; whoever would move it further ahead than
`burst` intervals is refused, and a refusal moves nothing. So a bucket whose moment has passed is full and
holds no memory of anybody, which is what lets a store forget it.
"""

from typing import Final, NamedTuple

SECOND_NS: Final = 1_000_000_000
MAX_PER_S: Final = 1_000_000
MAX_BURST: Final = 10_000_000
MAX_CONCURRENCY: Final = 100_000


class Limits(NamedTuple):
    """What one tenant may do: requests a second in the long run, at once, and under way in one worker."""

    requests_per_s: int
    burst: int
    concurrency: int

    @property
    def interval_ns(self) -> int:
        """The time that one request takes from the bucket; rounded up, so that the rate is never above."""
        return -(-SECOND_NS // self.requests_per_s)

    @property
    def window_s(self) -> int:
        """Whole seconds, at least one, in which an empty bucket becomes full."""
        return seconds(self.interval_ns * self.burst)


class Verdict(NamedTuple):
    """What became of one request.

    `full_at_ns`: the bucket's moment after it, `full_in_ns` away. `remaining`: how many more would pass right
    now. `wait_ns`: 0 if it passed, else the time after which it would.
    """

    full_at_ns: int
    full_in_ns: int
    remaining: int
    wait_ns: int


class Override(NamedTuple):
    """What a tenant has instead of the default, field by field; None: the default."""

    requests_per_s: int | None = None
    burst: int | None = None
    concurrency: int | None = None

    def over(self, default: Limits) -> Limits:
        """The limits of a tenant that has this."""
        return Limits(*(own if own is not None else usual for own, usual in zip(self, default, strict=True)))


def decide(full_at_ns: int, now_ns: int, interval_ns: int, burst: int, cost: int = 1) -> Verdict:
    """Let `cost` requests through together, or none of them.

    A moment further ahead than an empty bucket's comes from another clock or a wider burst: it counts as
    an empty bucket's, so that it heals by itself.
    """
    empty_ns = now_ns + interval_ns * burst
    start_ns = min(max(full_at_ns, now_ns), empty_ns)
    then_ns = start_ns + interval_ns * cost
    if then_ns > empty_ns:
        return Verdict(start_ns, start_ns - now_ns, (empty_ns - start_ns) // interval_ns, then_ns - empty_ns)
    return Verdict(then_ns, then_ns - now_ns, (empty_ns - then_ns) // interval_ns, 0)


def seconds(duration_ns: int) -> int:
    """Whole seconds, at least one: what Retry-After and the RateLimit headers count in."""
    return max(1, -(-duration_ns // SECOND_NS))
