"""The generator: reproducible bytes, realistic shape, books that sum to zero."""

import itertools
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path

from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from finflow.cli.generate import generate as command
from finflow.imports import mapping as mappings
from finflow.imports.model import Planned, lines_to_plans
from finflow.workload.model import HEADER, WorkloadRow, generate, to_line

MAPPING = mappings.parse((Path(__file__).parents[2] / "examples" / "generated.toml").read_text())
# ISO 4217: VND has no minor unit, the others two decimals.
DECIMALS = {"SGD": 2, "IDR": 2, "THB": 2, "VND": 0, "PHP": 2, "MYR": 2, "USD": 2}


def lines(seed: int, accounts: int, days: int) -> list[str]:
    return [HEADER, *map(to_line, generate(seed, accounts, days))]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), accounts=st.integers(1, 20), days=st.integers(1, 40))
def test_books_sum_to_zero_per_currency_and_no_balance_is_negative(
    seed: int, accounts: int, days: int
) -> None:
    plans = list(lines_to_plans([line.encode() for line in lines(seed, accounts, days)], MAPPING))
    totals: dict[str, int] = defaultdict(int)
    for planned in plans:
        assert isinstance(planned, Planned), planned
        assert planned.rounding == 0
        assert planned.row.balance is not None
        assert planned.row.balance >= 0
        for entry in planned.entries:
            totals[entry.account.currency] += entry.amount if entry.direction == "debit" else -entry.amount
    assert set(totals.values()) == {0}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), accounts=st.integers(1, 20), days=st.integers(1, 40))
def test_each_balance_is_the_sum_of_the_account_s_rows(seed: int, accounts: int, days: int) -> None:
    balances: dict[str, Decimal] = defaultdict(Decimal)
    for line in lines(seed, accounts, days)[1:]:
        _, _, account, direction, _, currency, amount, balance, _ = line.rstrip("\n").split(",")
        balances[account] += Decimal(amount) if direction == "credit" else -Decimal(amount)
        assert balances[account] == Decimal(balance)
        assert len(amount.partition(".")[2]) == DECIMALS[currency]


def test_the_same_seed_writes_the_same_bytes_and_another_one_others() -> None:
    assert lines(7, 20, 40) == lines(7, 20, 40)
    assert lines(7, 20, 40) != lines(8, 20, 40)


def test_a_longer_history_begins_with_the_shorter_one() -> None:
    shorter = lines(7, 20, 10)
    assert lines(7, 20, 40)[: len(shorter)] == shorter


def test_rows_are_made_as_they_are_read() -> None:
    # A thousand years of ten thousand accounts would not end: the first rows must come without the rest.
    assert len(list(itertools.islice(generate(1, 100, 10_000_000 // 28), 500))) == 500


def history() -> list[WorkloadRow]:
    return list(generate(3, 300, 90))


def test_time_never_goes_back_and_ids_are_unique() -> None:
    rows = history()
    times = [row.booked_at for row in rows]
    assert times == sorted(times)
    assert len({row.row_id for row in rows}) == len(rows)


def test_salaries_and_rents_come_on_their_days() -> None:
    days = {(row.kind, row.booked_at[8:10]) for row in history() if row.kind in ("salary", "rent")}
    assert days == {("salary", "25"), ("rent", "01")}


def test_all_currencies_appear_and_few_merchants_take_most() -> None:
    rows = history()
    assert {row.currency for row in rows} == set(DECIMALS)
    merchants = Counter(row.counterparty for row in rows if row.kind == "card")
    paid = sum(merchants.values())
    # Zipf over 500 ranks: the first takes 1/H(500) = 14.7 %, the first ten 43 %.
    assert 0.13 < merchants["merchant-001"] / paid < 0.165
    assert 0.40 < sum(count for _, count in merchants.most_common(10)) / paid < 0.46


def test_evenings_are_busier_than_nights() -> None:
    hours = Counter(int(row.booked_at[11:13]) for row in history() if row.kind == "card")
    assert hours[19] > 5 * hours[6] > 0
    assert hours[3] == 0


def test_the_command_writes_the_same_file_twice(tmp_path: Path) -> None:
    files = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for file in files:
        arguments = ["--seed", "5", "--accounts", "9", "--days", "31", "--out", str(file)]
        assert CliRunner().invoke(command, arguments).exit_code == 0
    assert files[0].read_bytes() == files[1].read_bytes() == "".join(lines(5, 9, 31)).encode()


def test_the_command_writes_to_the_output() -> None:
    result = CliRunner().invoke(command, ["--seed", "5", "--accounts", "2", "--days", "3"])
    assert result.stdout == "".join(lines(5, 2, 3))
