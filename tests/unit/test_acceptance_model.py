"""What an acceptance expects is counted again here, order by order, in decimals."""

from decimal import Decimal

import msgspec
import pytest

from finflow.acceptance.model import Difference, Found, Position, differences, expected, plan


def test_a_plan_has_every_kind_of_order() -> None:
    orders = plan(200)
    assert {(each.mode, each.fate) for each in orders} == {
        ("net", "paid"), ("gross", "paid"), ("net", "refused"), ("net", "rejected"),
    }  # fmt: skip
    assert len({each.name for each in orders}) == 200
    assert all(each.payer != each.payee and each.amount_minor > 0 for each in orders)
    # Nobody runs out of money by chance: what members pay is less than they have.
    assert sum(each.amount_minor for each in plan(400) if each.payer == "ALFA") < 10_000_000


def test_what_is_expected_is_the_sum_of_what_was_paid() -> None:
    orders, money, net = plan(321), {}, {}
    for each in orders:
        amount = Decimal(each.amount)
        if each.fate == "paid":
            money[each.payer] = money.get(each.payer, Decimal()) - amount
            money[each.payee] = money.get(each.payee, Decimal()) + amount
        if each.mode == "net" and each.fate in ("paid", "rejected"):
            net[each.payer] = net.get(each.payer, Decimal()) - amount
            net[each.payee] = net.get(each.payee, Decimal()) + amount
    wanted = expected(orders)
    assert {n: Decimal(p.settlement_minor) / 100 for n, p in wanted.positions.items()} == {
        **money,
        "POOR": 0,
    }
    assert {n: Decimal(m) / 100 for n, m in wanted.net_minor.items()} == net
    assert wanted.positions["ALFA"].position_minor == 10_000_000 + int(money["ALFA"] * 100)
    assert Decimal(wanted.to_rail_minor) / 100 == money["RAIL"]


def _as_found(count: int) -> Found:
    wanted = expected(plan(count))
    plain = msgspec.to_builtins(wanted)
    return msgspec.convert({**plain, "faults": []}, Found)


def test_what_is_as_expected_has_no_difference() -> None:
    assert differences(expected(plan(40)), _as_found(40)) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"positions": "BETA"}, "BETA: position"),
        ({"fates": "ACC-00007"}, "order ACC-00007: fate"),
        ({"amounts": "ACC-00008"}, "order ACC-00008: amount"),
        ({"net_minor": "CITI"}, "CITI: net in the cycle"),
        ({"to_rail_minor": None}, "sent to the rail and accepted"),
    ],
)
def test_each_difference_is_named(change: dict[str, str | None], named: str) -> None:
    found = _as_found(40)
    [(field, key)] = change.items()
    old = getattr(found, field)
    wrong = {"positions": Position(1, 2), "fates": "paid twice", "amounts": 5, "net_minor": 5}
    value = old + 1 if key is None else {**old, key: wrong[field]}
    listed = differences(expected(plan(40)), msgspec.structs.replace(found, **{field: value}))
    assert named in [each.what for each in listed]


def test_what_is_missing_and_what_is_too_much_is_named() -> None:
    found = _as_found(40)
    fates = {**found.fates, "EXTRA": "paid"}
    del fates["ACC-00003"]
    listed = differences(expected(plan(40)), msgspec.structs.replace(found, fates=fates, faults=["torn"]))
    assert listed == [
        Difference("order ACC-00003: fate", "paid", "nothing"),
        Difference("order EXTRA: fate", "nothing", "paid"),
        Difference("the books", "whole", "torn"),
    ]
