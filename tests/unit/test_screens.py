"""Answers as plain text: columns stand below each other, and nothing is silently left out."""

from datetime import UTC, datetime

from finflow.cli import screens
from finflow.client.model import Account, Balance, CurrencyTotal, Line, Transaction, TrialBalance

NOON = datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC)


def account(**fields: object) -> Account:
    known: dict[str, object] = {
        "account_id": "acc_1", "ledger_id": "led_1", "currency": "SGD", "kind": "asset",
        "normal_side": "debit", "status": "open", "overdraft_limit": "0.00", "upper_limit": None,
        "external_reference": None, "metadata": None, "created_at": NOON, "version": 0, "etag": '"x"',
    }  # fmt: skip
    return Account(**known | fields)  # type: ignore[arg-type]


def booked(*lines: tuple[str, str, str]) -> Transaction:
    entries = [Line("acc_1", direction, amount, currency, 1, "0") for direction, amount, currency in lines]  # type: ignore[arg-type]
    return Transaction("txn_1", "led_1", 12, "post", "posted", entries, NOON, NOON)


def test_columns_are_as_wide_as_their_widest_cell_and_amounts_end_below_each_other() -> None:
    shown = screens.table(
        ("NAME", "AMOUNT"), [("a", "1.00"), ("longer name", "1000.00")], frozenset({"AMOUNT"})
    )
    assert shown.splitlines() == ["NAME          AMOUNT", "a               1.00", "longer name  1000.00"]


def test_a_list_of_nothing_is_its_head() -> None:
    assert screens.accounts([]) == "ACCOUNT  KIND  CURRENCY  STATUS  REFERENCE"


def test_limits_that_are_not_there_are_said_so_and_what_is_empty_is_left_out() -> None:
    shown = screens.account(account(overdraft_limit=None, metadata={"b": "2", "a": "1"}))
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert (lines["overdraft_limit"], lines["upper_limit"]) == ("unlimited", "none")
    assert lines["metadata"] == "a=1, b=2"
    assert lines["created_at"] == "2026-11-22T12:00:00.250000Z"
    assert {"external_reference", "etag"} & set(lines) == set()


def test_a_balance_has_its_amounts_below_each_other() -> None:
    shown = screens.balance(Balance("acc_1", "VND", 3, 9, "1", "1000", "0", "0", "999", "999"))
    assert shown.splitlines() == [
        "balance           999 VND",
        "available         999 VND",
        "posted_debits       1 VND",
        "posted_credits   1000 VND",
        "pending_debits      0 VND",
        "pending_credits     0 VND",
        "as of seq        9",
    ]


def test_a_transaction_s_amount_is_what_its_debits_come_to_in_each_currency() -> None:
    moved = booked(
        ("debit", "0.10", "SGD"), ("debit", "0.20", "SGD"), ("credit", "0.30", "SGD"), ("debit", "5", "VND")
    )
    assert "0.30 SGD + 5 VND" in screens.transactions([moved])


def test_books_that_do_not_balance_are_not_overlooked() -> None:
    totals = [CurrencyTotal("SGD", "1.00", "2.00", "0.00", "0.00", False)]
    shown = screens.trial_balance(TrialBalance("led_1", 7, False, totals))
    assert shown.splitlines()[1].endswith("NO")
    assert shown.splitlines()[-1] == "THE BOOKS DO NOT BALANCE as of seq 7."
