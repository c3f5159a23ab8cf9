"""The order of a day is found again from its balances: properties, and a real bank's history."""

import csv
import itertools
import os
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finflow.imports import mapping as mappings
from finflow.imports.chaining import Move, Step, anchor, chain
from finflow.imports.model import Planned, lines_to_plans

REPOSITORY = Path(__file__).parents[2]
SHARED = Path(os.environ.get("FINFLOW_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")
BERKA = SHARED / "berka" / "trans.asc"
TENTH = Decimal("0.1")


def follows(start: int, moves: list[Move], steps: list[Step], tolerance: int) -> bool:
    """Whether the steps use every move once and every balance is explained."""
    balance = start
    for step in steps:
        move = moves[step.position]
        if move.balance != balance + move.amount + step.rounding or step.rounding not in (
            0,
            tolerance,
            -tolerance,
        ):
            return False
        balance = move.balance
    return sorted(step.position for step in steps) == list(range(len(moves)))


amounts = st.lists(st.integers(-100_000, 100_000), min_size=1, max_size=12)


@given(start=st.integers(-(10**9), 10**9), amounts=amounts, data=st.data())
def test_a_shuffled_day_is_put_in_order_again(start: int, amounts: list[int], data: st.DataObject) -> None:
    balances = list(itertools.accumulate(amounts, initial=start))[1:]
    day = [Move(amount, balance) for amount, balance in zip(amounts, balances, strict=True)]
    shuffled = data.draw(st.permutations(day))
    steps = chain(start, shuffled)
    assert steps is not None
    assert follows(start, shuffled, steps, 0)


@given(
    amounts=amounts,
    roundings=st.lists(st.sampled_from([0, 0, 0, 10, -10]), min_size=12, max_size=12),
    data=st.data(),
)
def test_with_roundings_it_needs_no_more_of_them_than_there_were(
    amounts: list[int], roundings: list[int], data: st.DataObject
) -> None:
    day, balance = [], 0
    for amount, rounding in zip(amounts, roundings, strict=False):
        balance += amount + rounding
        day.append(Move(amount, balance))
    shuffled = data.draw(st.permutations(day))
    steps = chain(0, shuffled, 10)
    assert steps is not None
    assert follows(0, shuffled, steps, 10)
    assert sum(step.rounding != 0 for step in steps) <= sum(
        rounding != 0 for rounding in roundings[: len(day)]
    )


@settings(max_examples=300)
@given(
    start=st.integers(-3, 3),
    moves=st.lists(st.builds(Move, st.integers(-3, 3), st.integers(-4, 4)), min_size=1, max_size=5),
    tolerance=st.sampled_from([0, 1]),
)
def test_it_finds_an_order_exactly_where_trying_all_of_them_does(
    start: int, moves: list[Move], tolerance: int
) -> None:
    def roundings(order: tuple[int, ...]) -> list[int]:
        before = [start, *(moves[position].balance for position in order[:-1])]
        return [moves[p].balance - moves[p].amount - b for p, b in zip(order, before, strict=True)]

    tried = [roundings(order) for order in itertools.permutations(range(len(moves)))]
    possible = [sum(map(bool, each)) for each in tried if all(abs(r) in (0, tolerance) for r in each)]
    steps = chain(start, moves, tolerance)
    assert (steps is not None) == bool(possible)
    if steps is not None:
        assert follows(start, moves, steps, tolerance)
        assert sum(step.rounding != 0 for step in steps) == min(possible)


def test_equal_orders_keep_the_file_s() -> None:
    pair = [Move(5, 5), Move(-5, 0), Move(5, 5), Move(-5, 0)]
    assert chain(0, pair) == [Step(0, 0), Step(1, 0), Step(2, 0), Step(3, 0)]


def test_what_does_not_follow_has_no_chain_but_may_agree_with_itself() -> None:
    later = [Move(-2, 6), Move(1, 8)]
    assert chain(3, later) is None
    assert anchor(later) == [Step(1, 0), Step(0, 0)]
    assert anchor([Move(1, 5), Move(1, 50)]) is None


def test_a_hopeless_day_ends_instead_of_searching_for_ever() -> None:
    # Every order of forty rows that go back and forth is possible but for the one that leads nowhere.
    knot = [Move(1, 1), Move(-1, 0)] * 20 + [Move(1, 99)]
    assert chain(0, knot) is None


def berka_rows() -> dict[str, dict[str, str]]:
    if not BERKA.is_file():
        pytest.skip("no shared bank history: set FINFLOW_SHARED_DATA, or put it in ../shared/data")
    with BERKA.open(encoding="latin-1", newline="") as file:
        return {row["trans_id"]: row for row in csv.DictReader(file, delimiter=";")}


def berka_plans() -> list[Planned]:
    mapping = mappings.parse((REPOSITORY / "examples" / "berka.toml").read_text())
    with BERKA.open("rb") as file:
        items = list(lines_to_plans(file, mapping))
    plans = [item for item in items if isinstance(item, Planned)]
    assert len(plans) == len(items), "every line is read and chained"
    return plans


def test_the_entries_of_a_real_bank_s_history_lead_to_each_of_its_balances() -> None:
    """Independent of the import's own arithmetic: decimals, and entries summed instead of steps followed."""
    rows = berka_rows()
    plans = berka_plans()
    assert len(plans) == len(rows)
    balances: dict[str, Decimal] = defaultdict(Decimal)
    rounded = 0
    for planned in plans:
        row = rows[planned.row.reference]
        customer = planned.row.customer
        for entry in planned.entries:
            if entry.account == customer:
                sign = 1 if entry.direction == "credit" else -1
                balances[row["account_id"]] += sign * Decimal(entry.amount) / 100
        debited, credited = (
            sum(entry.amount for entry in planned.entries if entry.direction == side)
            for side in ("debit", "credit")
        )
        assert debited == credited
        assert balances[row["account_id"]] == Decimal(row["balance"])
        first = planned.entries[0]
        assert (first.direction == "credit") == (row["type"] == "PRIJEM")
        assert Decimal(first.amount) / 100 == Decimal(row["amount"])
        rounded += planned.rounding != 0
        assert len(planned.entries) == (4 if planned.rounding else 2)
    # The reference says 4.3 % of the whole file are off by a tenth.
    assert 0.03 < rounded / len(rows) < 0.055


def test_a_real_bank_s_days_have_the_order_that_trying_every_one_finds() -> None:
    rows = berka_rows()
    ours: dict[tuple[str, str], list[str]] = defaultdict(list)
    for planned in berka_plans():
        row = rows[planned.row.reference]
        ours[row["account_id"], row["date"]].append(row["trans_id"])
    days: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows.values():
        days[row["account_id"], row["date"]].append(row["trans_id"])
    closing: dict[str, Decimal] = defaultdict(Decimal)
    for (account, date), members in days.items():
        found = [
            order for order in itertools.permutations(members) if explains(closing[account], order, rows)
        ]
        assert found == [tuple(ours[account, date])]
        closing[account] = Decimal(rows[found[0][-1]]["balance"])


def explains(start: Decimal, order: tuple[str, ...], rows: dict[str, dict[str, str]]) -> bool:
    for trans_id in order:
        row = rows[trans_id]
        sign = 1 if row["type"] == "PRIJEM" else -1
        difference = Decimal(row["balance"]) - (start + sign * Decimal(row["amount"]))
        if difference not in (0, TENTH, -TENTH):
            return False
        start = Decimal(row["balance"])
    return True
