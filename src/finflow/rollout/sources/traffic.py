"""Readings out of an ingress's log of requests: for services that measure nothing themselves."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from finflow.rollout.ports import Served, TrafficLog
from finflow.rollout.verdicts import Histogram, Reading, Side

# From 0.1 ms to two minutes, each edge a tenth above the one before: a quantile is known to 10 %, and the
# mean of the logarithms to much better.
EDGES_S: Final = tuple(round(0.0001 * 1.1**step, 9) for step in range(148))
# Customers that are remembered by side, and as failed; those beyond are not counted on either side.
MAX_CUSTOMERS: Final = 200_000


class _Tally:
    """What one side has done."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.customers_failed = 0
        self.customers: set[str] = set()
        self.held = [0] * (len(EDGES_S) + 1)
        self.sum_s = 0.0
        self.sum_squares_s2 = 0.0

    def reading(self) -> Reading:
        """The totals as they are now."""
        durations = Histogram(EDGES_S, tuple(self.held), self.sum_s, self.sum_squares_s2)
        return Reading(self.requests, self.errors, durations, self.customers_failed, len(self.customers))


class TrafficSource:
    """Totals of everything that was answered since the first reading. A Source."""

    def __init__(
        self, log: TrafficLog, *, errors_from_status: int = 500, max_customers: int = MAX_CUSTOMERS
    ) -> None:
        self._log = log
        self._errors_from_status = errors_from_status
        self._max_customers = max_customers
        self._tallies = {side: _Tally() for side in Side}
        self._failed: set[str] = set()

    async def read(self) -> Mapping[Side, Reading]:
        """Both sides, also where nothing was served. Raises source_unreachable as the log does."""
        for served in await self._log.fresh():
            self._count(served)
        return {side: tally.reading() for side, tally in self._tallies.items()}

    def _count(self, served: Served) -> None:
        tally = self._tallies[served.side]
        # Clocks that are set back make durations negative.
        duration_s = max(0.0, served.duration_s)
        tally.requests += 1
        tally.held[bisect_left(EDGES_S, duration_s)] += 1
        tally.sum_s += duration_s
        tally.sum_squares_s2 += duration_s * duration_s
        failed = served.status >= self._errors_from_status or served.status < 100
        tally.errors += failed
        if served.customer:
            self._remember(tally, served.customer, failed)

    def _remember(self, tally: _Tally, customer: str, failed: bool) -> None:
        if len(tally.customers) < self._max_customers:
            tally.customers.add(customer)
        if failed and customer not in self._failed and len(self._failed) < self._max_customers:
            self._failed.add(customer)
            tally.customers_failed += 1
