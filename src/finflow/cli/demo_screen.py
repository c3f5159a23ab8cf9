"""What the demonstration shows: a line while it goes on, and the scorecard at its end."""

from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from finflow.demo.model import percentile

if TYPE_CHECKING:
    from finflow.demo.scorecard import Scorecard
    from finflow.demo.service import Watch

_RECENT_S: Final = 3.0


def live_line(watch: "Watch") -> str:
    """Traffic, failures, the split, the shadow and the verdict, as they are now; empty before any traffic."""
    if watch.traffic is None:
        return ""
    tally, now = watch.traffic.tally, monotonic()
    recent = [each for each in list(tally.recent) if now - each.at_s < _RECENT_S]
    good = [each.latency_ms for each in recent if each.good]
    parts = [
        f"{tally.requests:,} requests, {len(recent) / _RECENT_S:,.0f}/s, {tally.failed:,} failed",
        f"p99 {percentile(good, 0.99):.0f} ms" if good else "p99 -",
    ]
    if (state := watch.state) is not None:
        share = state.weight_bp / 100
        parts.append(f"{state.baseline} {100 - share:g} % | {state.candidate} {share:g} %: {state.phase}")
        verdicts = [f"{each.gate} {each.verdict}" for each in state.look.judgements] if state.look else []
        parts += [", ".join(verdicts)] if verdicts else []
    if (report := watch.shadow()) is not None:
        parts.append(f"shadow {report.compared:,} compared, {report.wrong:,} wrong")
    return "; ".join(parts)


def history_lines(summary: Any) -> list[tuple[str, str]]:
    """The figures of a replayed history: of a Summary, or of a Scorecard, which has them too."""
    return [
        ("transactions", f"{summary.transactions:,}"),
        ("refused", f"{summary.refused:,}"),
        ("balances equal", f"{summary.balances_equal:,} of {summary.balances_checked:,}"),
        ("books balanced", _yes(summary.books_balanced)),
        ("transactions per s", f"{summary.transactions_per_s:,.0f}"),
        ("one transaction, p50", f"{summary.http_p50_ms:.1f} ms"),
        ("one transaction, p99", f"{summary.http_p99_ms:.1f} ms"),
    ]


def card_lines(card: Any) -> list[tuple[str, str]]:
    """The scorecard of a migration: the history, the bad release, the good one, the money."""
    return [*history_lines(card), *_traffic(card), *_bad(card), *_good(card)]


def _traffic(card: "Scorecard") -> list[tuple[str, str]]:
    return [
        ("live requests", f"{card.requests:,}"),
        ("failed outside of the fault", f"{card.failed_requests:,}"),
        ("given up", f"{card.given_up:,}"),
        ("downtime", f"{card.downtime_ms:,} ms"),
        ("live p99", f"{card.p99_ms:.0f} ms"),
    ]


def _bad(card: "Scorecard") -> list[tuple[str, str]]:
    money = ", ".join(f"{amount} {currency}" for currency, amount in sorted(card.money_touched.items()))
    return [
        ("bad release taken back", _yes(card.rolled_back)),
        ("  found after", "-" if card.detect_s is None else f"{card.detect_s:.1f} s"),
        ("  its failed requests", f"{card.failed_candidate_requests:,}"),
        ("  customers it touched", f"{card.customers_touched:,}"),
        ("  transactions, money", f"{card.transactions_touched:,}; {money or 'none'}"),
        ("  wrong in the shadow", f"{card.shadow_mismatches:,} of {card.shadow_compared:,} compared"),
        ("  put right, proven", f"{card.repaired:,}, {_yes(card.repair_proven)}"),
    ]


def _good(card: "Scorecard") -> list[tuple[str, str]]:
    return [
        ("good release promoted", _yes(card.promoted)),
        ("  start to first customer", "-" if card.deploy_s is None else f"{card.deploy_s:.1f} s"),
        ("duplicates, missing", f"{card.duplicates:,}, {card.missing:,}"),
        ("deployment verified", _yes(card.verified)),
        ("settlement accepted on a clone", _yes(card.accepted)),
        ("the whole", f"{card.seconds:.0f} s"),
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
