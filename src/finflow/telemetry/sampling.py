"""Which traces are kept, and up to how many: what watching may cost has a bound."""

import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from typing import Final, NamedTuple

# An allowance that was not used for so long is there at once when it is.
BURST_S: Final = 5.0
_NS: Final = 1_000_000_000

_HALF_ID: Final = 1 << 64

now_ns: Final = time.monotonic_ns
id_bits: Final = random.getrandbits


class Sampling(NamedTuple):
    """What is kept: a share of the traces that nobody upstream decided on, every failed one, every slow one.

    Each of the three up to its number of traces a second and process, so that none uses up what another
    needs. Where everything is slow, ten a second tell as much as a thousand, and the thread that exports
    them takes its time from the requests.
    """

    ratio: float = 0.01
    slow_ms: float = 200.0
    head_per_s: float = 100.0
    failed_per_s: float = 20.0
    slow_per_s: float = 10.0


class Allowance:
    """So many traces a second on average, and no more: what a flood may cost is bounded. A burst may pass."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._left = self._most = per_s * BURST_S
        self._at_ns = now_ns()

    def spend(self) -> bool:
        """Take one; False if none is left."""
        now = now_ns()
        self._left = min(self._most, self._left + (now - self._at_ns) * self._per_s / _NS)
        self._at_ns = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Dice:
    """Chooses so many of all traces, by their ids as OpenTelemetry's TraceIdRatioBased has it.

    The lower half of an id decides, so that all processes that sample by the same ratio decide alike.
    """

    def __init__(self, ratio: float) -> None:
        self._threshold = round(ratio * _HALF_ID)
        self._none_of = math.log1p(-ratio) if ratio < 1 else -math.inf
        # Whether the next is chosen: as often as by `throw`. `of` makes the id later. Every request asks, so
        # no step of Python is taken for those that are not.
        self.chooses: Callable[[], bool] = chain.from_iterable(self._choices()).__next__

    def throw(self) -> tuple[int, bool]:
        """An id, and whether it is chosen."""
        made = id_bits(128) or 1
        return made, made % _HALF_ID < self._threshold

    def of(self, chosen: bool) -> tuple[int, bool]:
        """An id that is chosen, or one that is not."""
        low, span = (0, self._threshold) if chosen else (self._threshold, _HALF_ID - self._threshold)
        lower = low + random.randrange(max(1, span))  # noqa: S311 - an id, no secret
        return (id_bits(64) << 64 | lower) or 1, chosen

    def _choices(self) -> Iterator[Iterable[bool]]:
        while True:
            yield chain(repeat(False, self._draw()), (True,))

    def _draw(self) -> int:
        """How many are let go before the next that is chosen: a geometric variate, by inversion."""
        if not self._none_of:
            return sys.maxsize
        return int(math.log(1.0 - random.random()) / self._none_of)  # noqa: S311 - dice, no secret
