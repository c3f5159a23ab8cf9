"""The ledger as the world sees it, each value worked out by hand."""

from datetime import UTC, datetime

from finflow.ledger import commands as c
from finflow.ledger import views
from finflow.ledger.book import Account, Entry, Record

AT = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
DAY = 86_400_000_000
LABELS = {1: views.Label("acc_1", "SGD", 2, 1), 2: views.Label("acc_2", "SGD", 2, -1)}


def account(normal: int, exponent: int = 2) -> Account:
    return Account(
        1, 1, 1, AT, "SGD", exponent, "asset" if normal == 1 else "liability", normal, "open", -5_000,
        100_000,
        "ref", {"a": "b"}, 3, 10_050, 2_000, 300, 70,
    )  # fmt: skip


def test_an_asset_s_balance() -> None:
    shown = views.show_balance(account(1), 9)
    assert (shown.posted_debits, shown.posted_credits) == ("100.50", "20.00")
    assert (shown.pending_debits, shown.pending_credits) == ("3.00", "0.70")
    # 100.50 - 20.00, and less the 0.70 that may still leave
    assert (shown.balance, shown.available, shown.version, shown.seq) == ("80.50", "79.80", 3, 9)


def test_a_liability_s_balance() -> None:
    shown = views.show_balance(account(-1), 9)
    # 20.00 - 100.50, and less the 3.00 that may still leave
    assert (shown.balance, shown.available) == ("-80.50", "-83.50")


def test_currencies_keep_their_decimals() -> None:
    shown = [views.show_balance(account(1, exponent), 9).balance for exponent in (0, 2, 3, 4)]
    assert shown == ["8050", "80.50", "8.050", "0.8050"]


def test_an_account_s_limits_are_positive_words() -> None:
    shown = views.show_account(account(1), "led_1")
    assert (shown.overdraft_limit, shown.upper_limit, shown.normal_side) == ("50.00", "1000.00", "debit")
    assert (shown.created_at, shown.external_reference) == (datetime(2026, 1, 1, tzinfo=UTC), "ref")


def entry(number: int, amount: int, held: int, late: int | None = None) -> Entry:
    return Entry(number, 4, 7, amount, held, 10_050, 2_000, 300, 70, AT + DAY, late)


def test_an_entry_says_its_side_and_its_dates() -> None:
    shown = views.show_entry(entry(1, -250, 0, AT - DAY), "post", AT, 1, LABELS[1])
    assert (shown.kind, shown.direction, shown.amount) == ("posted", "credit", "2.50")
    assert (shown.balance, shown.available) == ("80.50", "79.80")
    assert shown.effective_at == datetime(2025, 12, 31, tzinfo=UTC)
    on_time = views.show_entry(entry(1, 250, 0), "post", AT, 1, LABELS[1])
    assert (on_time.direction, on_time.effective_at) == ("debit", datetime(2026, 1, 2, tzinfo=UTC))


def test_a_release_stands_on_the_side_of_its_hold() -> None:
    held = views.show_entry(entry(2, 0, -900), "hold", AT, 1, LABELS[2])
    released = views.show_entry(entry(2, 0, 900), "void", AT, 1, LABELS[2])
    assert (held.kind, held.direction, held.amount) == ("pending", "credit", "9.00")
    assert (released.kind, released.direction, released.amount) == ("released", "credit", "9.00")


def record(
    kind: str, seq: int, amounts: tuple[int, int], held: tuple[int, int], target: int | None = None
) -> Record:
    entries = (entry(1, amounts[0], held[0]), entry(2, amounts[1], held[1]))
    return Record(seq, AT, kind, "k", "me", c.VoidPending("x"), target=target, entries=entries)  # type: ignore[arg-type]


def test_what_became_of_a_hold() -> None:
    hold = record("hold", 7, (0, 0), (500, -500))
    for kind, status in (("capture", "posted"), ("void", "voided"), ("expire", "expired")):
        later = record(kind, 8, (500, -500) if kind == "capture" else (0, 0), (-500, 500), target=7)
        shown = views.show_transaction(hold, 1, "led_1", LABELS, None, later)
        assert (shown.status, shown.resolved_by_id) == (status, later.transaction_id(1))
        itself = views.show_transaction(later, 1, "led_1", LABELS, hold, None)
        assert (itself.status, itself.pending_id, itself.reverses_id) == (
            status,
            hold.transaction_id(1),
            None,
        )
        assert [(line.direction, line.amount) for line in itself.entries] == [
            ("debit", "5.00"),
            ("credit", "5.00"),
        ]
    assert views.show_transaction(hold, 1, "led_1", LABELS).status == "pending"


def test_a_reversal_names_what_it_reverses() -> None:
    posted = record("post", 7, (500, -500), (0, 0))
    reversal = record("reverse", 8, (-500, 500), (0, 0), target=7)
    shown = views.show_transaction(reversal, 1, "led_1", LABELS, posted)
    assert (shown.status, shown.reverses_id, shown.pending_id) == ("posted", posted.transaction_id(1), None)
    assert views.show_transaction(posted, 1, "led_1", LABELS, None, reversal).status == "reversed"


def test_a_trial_balance_is_balanced_in_every_currency_or_not_at_all() -> None:
    row = {"exponent": 2, "seq": 5, "pending_debits": 0, "pending_credits": 0}
    even = {**row, "currency": "SGD", "posted_debits": 10**20, "posted_credits": 10**20}
    odd = {**row, "currency": "USD", "posted_debits": 100, "posted_credits": 99}
    held = {**row, "currency": "EUR", "posted_debits": 1, "posted_credits": 1, "pending_debits": 1}
    assert views.show_trial_balance("led_1", [even]).balanced
    assert not views.show_trial_balance("led_1", [even, odd]).balanced
    assert not views.show_trial_balance("led_1", [even, held]).balanced
    assert views.show_trial_balance("led_1", [even]).currencies[0].posted_debits == "1000000000000000000.00"
    empty = views.show_trial_balance("led_1", [])
    assert (empty.balanced, empty.currencies) == (True, [])
