"""What a demonstrated migration came to, and whether that is good. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec

WINDOW_S: Final = 0.1


class Scorecard(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a migration. Times are in seconds unless a name says otherwise.

    `failed_requests` are those outside of the seeded fault: what customers met and no bad candidate explains.
    `failed_candidate_requests` are the candidate's own, as the ingress counted them. `detect_s` runs from the
    first wrong answer (or the first wrong posting) to the decision to abort. `customers_touched` and
    `money_touched` are what the bad candidate did. `duplicates` are intents that moved money twice, `missing`
    acknowledged ones that did not move it.
    """

    transactions: int
    refused: int
    balances_checked: int
    balances_equal: int
    books_balanced: bool
    transactions_per_s: float
    http_p50_ms: float
    http_p99_ms: float
    requests: int
    failed_requests: int
    given_up: int
    downtime_ms: int
    p99_ms: float
    detect_s: float | None
    failed_candidate_requests: int
    customers_touched: int
    transactions_touched: int
    money_touched: dict[str, str]
    duplicates: int
    missing: int
    shadow_compared: int
    shadow_mismatches: int
    repaired: int
    repair_proven: bool
    deploy_s: float | None
    rolled_back: bool
    promoted: bool
    verified: bool = False
    accepted: bool = False
    seconds: float = 0.0

    def good(self) -> bool:
        """Whether the bad release was taken back, the good one promoted, and nobody noticed."""
        history = self.transactions > 0 and self.balances_checked == self.balances_equal
        unnoticed = not (self.failed_requests or self.given_up or self.downtime_ms)
        money = self.books_balanced and not (self.duplicates or self.missing)
        released = self.rolled_back and self.promoted and self.repair_proven
        return history and unnoticed and money and released and self.verified and self.accepted


def downtime_ms(tried: Sequence[tuple[float, bool]]) -> int:
    """Time in which every request that was sent failed, in windows of a tenth of a second, in milliseconds.

    `tried` are first tries: when each was sent, and whether it was answered well. A slow answer is no
    downtime: it shows in the quantiles.
    """
    windows: dict[int, bool] = {}
    for at_s, good in tried:
        number = int(at_s / WINDOW_S)
        windows[number] = windows.get(number, False) or good
    return round(sum(not good for good in windows.values()) * WINDOW_S * 1000)
