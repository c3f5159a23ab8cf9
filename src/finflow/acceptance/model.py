"""Which orders are given, and what the ledger must say afterwards, by plain arithmetic on their amounts.

Nothing of the ledger or of settlement is used here: what is expected comes from the orders alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

CURRENCY: Final = "SGD"
FUNDS_MINOR: Final = 10_000_000
MEMBERS: Final = ("ALFA", "BETA", "CITI")
# It has no money, so that whatever it wants to pay is refused.
POOR: Final = "POOR"
RAIL: Final = "RAIL"
# Whom the rail does not know: it sends such a payment back.
UNKNOWN_ACCOUNT: Final = "UNKNOWN"
KNOWN_ACCOUNT: Final = "ID123456789"

Mode = Literal["net", "gross"]
Fate = Literal["paid", "refused", "rejected"]


class Planned(msgspec.Struct, frozen=True):
    """An order that is to be given, and what must become of it."""

    name: str
    payer: str
    payee: str
    amount_minor: int
    mode: Mode
    fate: Fate

    @property
    def amount(self) -> str:
        return decimal(self.amount_minor)


class Position(msgspec.Struct, frozen=True):
    """A participant's two accounts in minor units: a member's money, and what it settled."""

    position_minor: int
    settlement_minor: int


class Expected(msgspec.Struct, frozen=True):
    """What the ledger must say: accounts by participant, orders by fate, net positions of the cycle."""

    positions: Mapping[str, Position]
    fates: Mapping[str, Fate]
    amounts: Mapping[str, int]
    net_minor: Mapping[str, int]
    to_rail_minor: int


class Found(msgspec.Struct, frozen=True):
    """The same as the ledger says it. `faults` are sentences about whatever does not fit within it."""

    positions: Mapping[str, Position]
    fates: Mapping[str, str]
    amounts: Mapping[str, int]
    net_minor: Mapping[str, int]
    to_rail_minor: int
    faults: Sequence[str]


class Difference(msgspec.Struct, frozen=True, order=True):
    """One thing that is not as expected."""

    what: str
    expected: str
    found: str


def plan(count: int) -> list[Planned]:
    """So many orders: between members and to the rail, net and gross, some unpayable, some sent back."""
    return [_planned(number) for number in range(count)]


def _planned(number: int) -> Planned:
    amount_minor = 101 + number * 37 % 9_973
    payer = MEMBERS[number % 3]
    name = f"ACC-{number:05}"
    if number % 20 == 13:
        return Planned(name, POOR, payer, amount_minor, "net", "refused")
    if number % 10 == 9:
        return Planned(name, payer, RAIL, amount_minor, "net", "rejected" if number % 40 == 19 else "paid")
    payee = MEMBERS[(number + 1 + number // 3 % 2) % 3]
    return Planned(name, payer, payee, amount_minor, "gross" if number % 7 == 0 else "net", "paid")


def expected(orders: Sequence[Planned]) -> Expected:
    """What the orders come to: everybody has what it had, less what it paid, plus what it was paid."""
    paid = [each for each in orders if each.fate == "paid"]
    moved = _sums(paid)
    money = {**dict.fromkeys(MEMBERS, FUNDS_MINOR), POOR: 0, RAIL: 0}
    return Expected(
        positions={name: Position(had + moved[name], moved[name]) for name, had in money.items()},
        fates={each.name: each.fate for each in orders},
        amounts={each.name: each.amount_minor for each in orders},
        # What the rail sends back was netted before it was sent.
        net_minor=_sums(each for each in orders if each.mode == "net" and each.fate != "refused"),
        to_rail_minor=sum(each.amount_minor for each in paid if each.payee == RAIL),
    )


def _sums(orders: Iterable[Planned]) -> "defaultdict[str, int]":
    moved: defaultdict[str, int] = defaultdict(int)
    for each in orders:
        moved[each.payer] -= each.amount_minor
        moved[each.payee] += each.amount_minor
    return moved


def differences(wanted: Expected, found: Found) -> list[Difference]:
    """Everything that is not as expected, by name; empty when the acceptance is passed."""
    one = {**_facts(wanted), "faults in the books": "none"}
    other = _facts(found)
    listed = [
        Difference(what, one.get(what, "nothing"), other.get(what, "nothing")) for what in {**one, **other}
    ]
    wrong = [each for each in listed if each.expected != each.found and each.what != "faults in the books"]
    return sorted(wrong) + [Difference("the books", "whole", words) for words in found.faults]


def _facts(state: Expected | Found) -> dict[str, str]:
    facts = {f"order {name}: fate": str(fate) for name, fate in state.fates.items()}
    facts |= {f"order {name}: amount": decimal(minor) for name, minor in state.amounts.items()}
    for name, position in state.positions.items():
        facts[f"{name}: position"] = decimal(position.position_minor)
        facts[f"{name}: settled"] = decimal(position.settlement_minor)
    facts |= {f"{name}: net in the cycle": decimal(minor) for name, minor in state.net_minor.items()}
    facts["sent to the rail and accepted"] = decimal(state.to_rail_minor)
    return facts


def decimal(minor: int) -> str:
    """Minor units of a currency with two decimals as people write them."""
    sign = "-" if minor < 0 else ""
    return f"{sign}{abs(minor) // 100}.{abs(minor) % 100:02}"
