"""What a demonstration found, and whether that is good. Pure."""

import math
from collections.abc import Sequence

import msgspec

from finflow.imports.report import Report


class Summary(msgspec.Struct, frozen=True):
    """The figures of a demonstration; latencies are of single transactions sent one after another."""

    transactions: int
    refused: int
    balances_checked: int
    balances_equal: int
    books_balanced: bool
    transactions_per_s: float
    http_p50_ms: float
    http_p99_ms: float

    def good(self) -> bool:
        """Whether money moved, nothing was refused, every balance is equal and the books balance."""
        equal = self.balances_checked == self.balances_equal
        return self.transactions > 0 and self.refused == 0 and equal and self.books_balanced


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed: the nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarise(report: Report, books_balanced: bool, latencies_ms: Sequence[float]) -> Summary:
    """The summary of an import into a fresh ledger, a trial balance and at least one latency.

    A broken or unchained line counts as refused: a demonstration leaves nothing out in silence.
    """
    return Summary(
        transactions=report.posted,
        refused=report.refused + report.broken + report.unchained,
        balances_checked=report.balances_checked,
        balances_equal=report.balances_equal,
        books_balanced=books_balanced,
        transactions_per_s=report.transactions_per_s,
        http_p50_ms=round(percentile(latencies_ms, 0.50), 3),
        http_p99_ms=round(percentile(latencies_ms, 0.99), 3),
    )
