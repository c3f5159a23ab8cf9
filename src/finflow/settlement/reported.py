"""From camt.053 and camt.054 to the lines that reconciliation matches. Pure: events in, lines out.

An entry becomes one line for each payment in it if their amounts add up to the entry's; otherwise, or if the
bank names no payments, the entry is one line. Only what is booked counts: a pending entry comes again.
"""

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any, Final

from finflow.settlement.iso20022.part import to_datetime
from finflow.settlement.iso20022.statements import (
    Entry,
    EntryTransaction,
    Notification,
    References,
    Statement,
)
from finflow.settlement.iso20022.streams import Event, Opened
from finflow.settlement.matching import Line

_BOOKED: Final = "BOOK"
_NOTHING: Final = EntryTransaction()


def lines_of(events: Iterable[Event], received_at: dt.datetime) -> Iterator[Line]:
    """The booked lines of a statement's or notification's events, in order; other messages have none.

    A line's id is made of the account, the report's id and the entry's place in it, so the same report gives
    the same ids again.
    """
    created_at, report, number = "", None, 0
    for event in events:
        if isinstance(event, Opened):
            header: Any = getattr(event.part, "header", None)
            created_at = created_at if header is None else header.created_at
            if isinstance(event.part, Statement | Notification):
                report, number = event.part, 0
        elif isinstance(event, Entry) and report is not None:
            number += 1
            if event.status.word == _BOOKED:
                yield from _entry_lines(event, report, number, created_at, received_at)


def _entry_lines(
    entry: Entry, report: Statement | Notification, number: int, created_at: str, received_at: dt.datetime
) -> Iterator[Line]:
    account = report.account.number or ""
    payments = [each for details in entry.details for each in details.transactions]
    signed = _signed_amounts(entry, payments)
    if signed is None:
        payments, signed = [_shared(payments)], [entry.signed_minor]
    for place, (payment, amount_minor) in enumerate(zip(payments, signed, strict=True), 1):
        references = payment.references or References()
        yield Line(
            id=f"{account}/{report.id}/{number}.{place}",
            account=account,
            currency=entry.amount.currency,
            amount_minor=amount_minor,
            value_date=_value_date(entry, payment, created_at),
            since=received_at,
            uetr=references.uetr,
            end_to_end_id=references.end_to_end_id,
            instruction_id=references.instruction_id,
            batch=references.payment_information_id or references.message_id,
            text=_text(entry, payment),
            booking=_booking(entry, references, place),
        )


def _booking(entry: Entry, references: References, place: int) -> str | None:
    """The bank's own name of a movement: its reference of the payment or the entry, and the place there."""
    reference = references.servicer_reference or entry.servicer_reference
    return None if reference is None else f"{reference}/{place}"


def _signed_amounts(entry: Entry, payments: list[EntryTransaction]) -> list[int] | None:
    """Minor units of each payment, if they are known and make up the entry."""
    if len(payments) == 1:
        return [entry.signed_minor]
    signed = []
    for each in payments:
        if each.amount is None or each.amount.currency != entry.amount.currency:
            return None
        sign = 1 if (each.direction or entry.direction) == "CRDT" else -1
        signed.append(sign * each.amount.minor)
    return signed if signed and sum(signed) == entry.signed_minor else None


def _shared(payments: list[EntryTransaction]) -> EntryTransaction:
    """One payment that stands for all of an entry: with the references only that they have in common."""
    references = [each.references or References() for each in payments]
    fields = ("message_id", "payment_information_id")
    common: dict[str, Any] = {}
    for field in fields:
        values = {getattr(each, field) for each in references}
        if len(values) == 1:
            common[field] = values.pop()
    return EntryTransaction(references=References(**common)) if common else _NOTHING


def _value_date(entry: Entry, payment: EntryTransaction, created_at: str) -> dt.date:
    """The best day that is named: the entry's value day, its booking day, the payment's, the message's."""
    for choice in (entry.value_day, entry.booking_day):
        if choice is not None and choice.day is not None:
            return choice.day
    if payment.dates is not None and payment.dates.settlement_date is not None:
        return payment.dates.settlement_date
    return to_datetime(created_at).date()


def _text(entry: Entry, payment: EntryTransaction) -> str:
    """Everything that a person wrote about a payment."""
    words: list[str] = []
    if payment.remittance is not None:
        words += payment.remittance.unstructured
        for each in payment.remittance.structured:
            words += [document.number for document in each.documents if document.number is not None]
            if each.creditor_reference is not None and each.creditor_reference.reference is not None:
                words.append(each.creditor_reference.reference)
            words += each.additional
    return " ".join([*words, entry.additional or ""]).strip()
