"""Multilateral netting: from gross obligations to one position per participant and currency. Pure.

The report carries what everybody needs to check it: gross amounts in and out for every participant, totals
per currency, and a digest of the obligations. `faults_of` checks a report by itself, `faults_against` checks
it against the obligations by another way of counting than the one that made it, and `faults_of_participant`
lets a participant check its own position from its own obligations only.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.kernel.money import MAX_MINOR

# A participant's name may not hold it, so that the digest's lines can be read in one way only.
_SEPARATOR: Final = "\x1f"


class Obligation(msgspec.Struct, frozen=True, gc=False):
    """`payer` owes `payee` an amount in minor units; `reference` names it once in a cycle."""

    reference: str
    payer: str
    payee: str
    currency: str
    amount_minor: int


class Position(msgspec.Struct, frozen=True):
    """One participant in one currency: what it owes, what it is owed, and the difference it settles.

    A positive `net_minor` is received, a negative one is paid.
    """

    participant: str
    currency: str
    payable_minor: int
    receivable_minor: int
    net_minor: int
    obligations: int


class CurrencyTotal(msgspec.Struct, frozen=True):
    """One currency: the gross amount, what is left to settle, and what netting has saved."""

    currency: str
    obligations: int
    gross_minor: int
    settled_minor: int
    saved_minor: int

    @property
    def saved_share(self) -> float:
        """The part of the gross amount that nobody has to fund, from 0 to 1."""
        return self.saved_minor / self.gross_minor if self.gross_minor else 0.0


class NettingReport(msgspec.Struct, frozen=True):
    """Positions by currency and participant, totals by currency, and the digest of all obligations."""

    positions: tuple[Position, ...]
    totals: tuple[CurrencyTotal, ...]
    obligations_digest: str


def net(obligations: Sequence[Obligation]) -> NettingReport:
    """The netted positions of all obligations.

    Raises amount_not_positive, obligation_to_self, obligation_duplicate, amount_out_of_range, and
    text_malformed for a name that holds a control character.
    """
    sides: dict[tuple[str, str], list[int]] = {}
    references: set[str] = set()
    for each in obligations:
        _check(each, references)
        owing = sides.setdefault((each.currency, each.payer), [0, 0, 0])
        owing[0] += each.amount_minor
        owing[2] += 1
        owed = sides.setdefault((each.currency, each.payee), [0, 0, 0])
        owed[1] += each.amount_minor
        owed[2] += 1
    positions = tuple(
        Position(participant, currency, payable, receivable, receivable - payable, count)
        for (currency, participant), (payable, receivable, count) in sorted(sides.items())
    )
    return NettingReport(positions, totals_of(positions), digest_of(obligations))


def _check(obligation: Obligation, references: set[str]) -> None:
    if obligation.amount_minor <= 0:
        raise FinFlowError("amount_not_positive", param=obligation.reference)
    if obligation.payer == obligation.payee:
        raise FinFlowError("obligation_to_self", f"{obligation.payer!r} owes itself", obligation.reference)
    before = len(references)
    references.add(obligation.reference)
    if len(references) == before:
        raise FinFlowError(
            "obligation_duplicate", f"{obligation.reference!r} comes twice", obligation.reference
        )


def totals_of(positions: Iterable[Position]) -> tuple[CurrencyTotal, ...]:
    """Totals by currency of positions that are sorted by it. Raises amount_out_of_range."""
    totals = []
    for currency, group in groupby(positions, key=lambda each: each.currency):
        members = list(group)
        gross = sum(each.payable_minor for each in members)
        if gross > MAX_MINOR:
            raise FinFlowError("amount_out_of_range", f"the gross amount in {currency} is {gross}")
        settled = sum(each.net_minor for each in members if each.net_minor > 0)
        count = sum(each.obligations for each in members) // 2
        totals.append(CurrencyTotal(currency, count, gross, settled, gross - settled))
    return tuple(totals)


def digest_of(obligations: Iterable[Obligation]) -> str:
    """SHA-256, in hexadecimal, over the obligations in the order of their references.

    Each is a line of reference, payer, payee, currency and amount, with a unit separator between.
    """
    lines = [
        f"{each.reference}{_SEPARATOR}{each.payer}{_SEPARATOR}{each.payee}{_SEPARATOR}"
        f"{each.currency}{_SEPARATOR}{each.amount_minor}"
        for each in sorted(obligations, key=lambda each: each.reference)
    ]
    text = "\n".join(lines)
    if text.count(_SEPARATOR) != 4 * len(lines) or text.count("\n") != max(len(lines) - 1, 0):
        raise FinFlowError("text_malformed", "a reference, participant or currency holds a control character")
    return hashlib.sha256(text.encode()).hexdigest()


def faults_of(report: NettingReport) -> list[str]:
    """What contradicts itself in a report; empty if it is sound. Needs no obligations."""
    faults = [
        f"{each.participant} {each.currency}: net is not receivable minus payable"
        for each in report.positions
        if each.net_minor != each.receivable_minor - each.payable_minor
    ]
    named = Counter((each.currency, each.participant) for each in report.positions)
    faults += [f"{name} {currency}: two positions" for (currency, name), times in named.items() if times > 1]
    currencies = {each.currency for each in report.positions} | {each.currency for each in report.totals}
    for currency in sorted(currencies):
        faults += _currency_faults(currency, report)
    return faults


def _currency_faults(currency: str, report: NettingReport) -> list[str]:
    members = [each for each in report.positions if each.currency == currency]
    totals = [each for each in report.totals if each.currency == currency]
    if len(totals) != 1:
        return [f"{currency}: {len(totals)} totals"]
    total = totals[0]
    paid = -sum(each.net_minor for each in members if each.net_minor < 0)
    received = sum(each.net_minor for each in members if each.net_minor > 0)
    checks = {
        "what is paid is not what is received": paid == received == total.settled_minor,
        "the payables are not the gross amount": sum(e.payable_minor for e in members) == total.gross_minor,
        "the receivables are not the gross amount": sum(e.receivable_minor for e in members)
        == total.gross_minor,
        "saved is not gross minus settled": total.saved_minor == total.gross_minor - total.settled_minor,
        "the obligations are miscounted": sum(e.obligations for e in members) == 2 * total.obligations,
    }
    return [f"{currency}: {fault}" for fault, holds in checks.items() if not holds]


def faults_against(report: NettingReport, obligations: Sequence[Obligation]) -> list[str]:
    """What is wrong with a report, given the obligations: its own faults, and every position recounted.

    Counts by sorting signed amounts, where `net` adds up two sides in a table.
    """
    faults = faults_of(report)
    if digest_of(obligations) != report.obligations_digest:
        faults.append("the digest is not that of these obligations")
    signed = [(each.currency, each.payer, -each.amount_minor) for each in obligations]
    signed += [(each.currency, each.payee, each.amount_minor) for each in obligations]
    signed.sort()
    recounted = {
        key: [amount for _, _, amount in group]
        for key, group in groupby(signed, key=lambda each: (each[0], each[1]))
    }
    reported = {(each.currency, each.participant): each for each in report.positions}
    for currency, participant in sorted(recounted.keys() | reported.keys()):
        amounts = recounted.get((currency, participant), [])
        position = reported.get((currency, participant))
        if position is None or not _agrees(position, amounts):
            faults.append(f"{participant} {currency}: the position is not that of the obligations")
    return faults


def faults_of_participant(
    report: NettingReport, participant: str, obligations: Iterable[Obligation]
) -> list[str]:
    """What is wrong with one participant's positions, given the obligations that name it, and no others."""
    amounts: dict[str, list[int]] = {}
    for each in obligations:
        sign = (each.payee == participant) - (each.payer == participant)
        if sign:
            amounts.setdefault(each.currency, []).append(sign * each.amount_minor)
    reported = {each.currency: each for each in report.positions if each.participant == participant}
    return [
        f"{participant} {currency}: the position is not that of its obligations"
        for currency in sorted(amounts.keys() | reported.keys())
        if currency not in reported or not _agrees(reported[currency], amounts.get(currency, []))
    ]


def _agrees(position: Position, amounts: Sequence[int]) -> bool:
    return (
        position.payable_minor == -sum(each for each in amounts if each < 0)
        and position.receivable_minor == sum(each for each in amounts if each > 0)
        and position.net_minor == sum(amounts)
        and position.obligations == len(amounts)
        and bool(amounts)
    )
