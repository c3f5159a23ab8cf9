"""Which traces are kept, and up to how many: what watching may cost has a bound."""

import time
from typing import Final, NamedTuple

# An allowance that was not used for so long is there at once when it is.
BURST_S: Final = 5.0
_NS: Final = 1_000_000_000

now_ns: Final = time.monotonic_ns


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
