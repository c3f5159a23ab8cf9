"""What incoming messages ask for: payments as orders, as pain.001 and pacs.008 write them. Pure.

The sender pays. Who is paid, the creditor's account and bank say: an account of FinFlow is one of the
sender's own ledger or of a participant that the bank is; a bank that is a participant is paid as such; any
other is reached through the rail that the caller names, which is told all that the message says of debtors,
creditors, purpose and remittance. What else an order has no field for stays in the message, which is kept.
"""

import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from finflow.kernel import ids, money
from finflow.kernel.errors import FinFlowError
from finflow.settlement.iso20022.part import Amount
from finflow.settlement.iso20022.parties import Agent, CashAccount, Party, PaymentId, Remittance
from finflow.settlement.iso20022.streams import Closed, Event, Opened
from finflow.settlement.iso20022.transfers import (
    CreditTransfer,
    CreditTransfers,
    OrderedTransfer,
    PaymentInstruction,
)
from finflow.settlement.orders import MAX_REMITTANCE, Creditor, OrderDraft
from finflow.settlement.rail_messages import Carried, check_carried

_NOT_PROVIDED: Final = "NOTPROVIDED"


class Payment(NamedTuple):
    """One payment of a message, with what decides where it goes, and the day that it asks for."""

    id: PaymentId
    amount: Amount
    day: dt.date | None
    debtor_account: CashAccount | None
    creditor: Party | None
    creditor_account: CashAccount | None
    creditor_agent: Agent | None
    carried: Carried


class Route(NamedTuple):
    """Where payments of a sender can go: participants' kinds by name, and the rail for everybody else."""

    sender: str
    kinds: dict[str, str]
    rail: str | None
    message: str
    ledger_no: int


def payments_of(events: Iterable[Event]) -> Iterator[Payment]:
    """The payments of a pain.001's or pacs.008's events. Raises message_not_understood."""
    day: dt.date | None = None
    payer: PaymentInstruction | None = None
    for event in events:
        if isinstance(event, Opened):
            if isinstance(event.part, CreditTransfers):
                day = event.part.header.settlement_date
            if isinstance(event.part, PaymentInstruction):
                day, payer = _instructed(event.part)
        elif isinstance(event, CreditTransfer):
            yield Payment(
                event.id, event.amount, event.settlement_date or day, event.debtor_account, event.creditor,
                event.creditor_account, event.creditor_agent,
                Carried(
                    event.debtor, event.debtor_agent, event.debtor_account, event.ultimate_debtor,
                    event.creditor, event.ultimate_creditor, event.purpose, event.remittance,
                ),
            )  # fmt: skip
        elif isinstance(event, OrderedTransfer):
            if event.amount.instructed is None:
                raise FinFlowError("message_not_understood", "an equivalent in another currency", "EqvtAmt")
            assert payer is not None, "an instruction begins before its transfers"
            yield Payment(
                event.id, event.amount.instructed, day, payer.debtor_account, event.creditor,
                event.creditor_account, event.creditor_agent,
                Carried(
                    payer.debtor, payer.debtor_agent, payer.debtor_account,
                    event.ultimate_debtor or payer.ultimate_debtor, event.creditor, event.ultimate_creditor,
                    event.purpose, event.remittance,
                ),
            )  # fmt: skip
        else:
            assert isinstance(event, Closed), "a payment message holds payments alone"


def _instructed(part: PaymentInstruction) -> tuple[dt.date | None, PaymentInstruction]:
    if part.method != "TRF":
        raise FinFlowError("message_not_understood", f"the method {part.method!r}; TRF is known", "PmtMtd")
    return part.execution_date.day, part


def draft(payment: Payment, route: Route, place: int) -> OrderDraft:
    """The order that a payment asks for.

    Raises order_malformed where something is missing, participant_unknown where no way leads to the creditor,
    message_not_understood for what could not be passed on to a rail.
    """
    payee, account_id, creditor = _payee(payment, route, place)
    carried = None
    if creditor is not None:
        carried = payment.carried.text()
        check_carried(carried, creditor, payment.amount)
    debtor = None if payment.debtor_account is None else payment.debtor_account.number
    return OrderDraft(
        route.sender,
        payee,
        payment.amount.currency,
        money.to_text(payment.amount.minor, money.exponent_of(payment.amount.currency) or 0),
        _end_to_end_id(payment, route, place),
        payment.id.uetr,
        payer_account_id=debtor if debtor is not None and ids.parse("acc", debtor) else None,
        payee_account_id=account_id,
        remittance=_words(payment.carried.remittance),
        creditor=creditor,
        carried=carried,
    )


def _payee(payment: Payment, route: Route, place: int) -> tuple[str, str | None, Creditor | None]:
    """Which participant is paid, on which account of FinFlow's, and, for a rail, whom it has to pay."""
    number = None if payment.creditor_account is None else payment.creditor_account.number
    locator = None if number is None else ids.parse("acc", number)
    account_id = None if locator is None else number
    named = next((each for each in _names(payment.creditor_agent) if each in route.kinds), None)
    if named is None and locator is not None and locator.ledger_no == route.ledger_no:
        return route.sender, account_id, None
    payee = named or route.rail
    if payee is None:
        bank = next(_names(payment.creditor_agent), "no bank")
        raise FinFlowError(
            "participant_unknown", f"{bank[:40]!r}, and no rail is named", f"[{place}].CdtrAgt"
        )
    if route.kinds.get(payee) != "rail":
        return payee, account_id, None
    return payee, None, _creditor(payment, number, place)


def _names(agent: Agent | None) -> Iterator[str]:
    """What a bank may be registered as: BIC, LEI, its number in a clearing system, its name."""
    if agent is None:
        return
    bank = agent.institution
    member = None if bank.member is None else bank.member.member_id
    yield from (each for each in (bank.bic, bank.bic_until_2012, bank.lei, member, bank.name) if each)


def _creditor(payment: Payment, number: str | None, place: int) -> Creditor:
    bank = None if payment.creditor_agent is None else payment.creditor_agent.institution
    bic = None if bank is None else bank.bic or bank.bic_until_2012
    name = None if payment.creditor is None else payment.creditor.name
    for value, element in ((name, "Cdtr.Nm"), (number, "CdtrAcct"), (bic, "CdtrAgt.FinInstnId.BICFI")):
        if value is None:
            raise FinFlowError("order_malformed", "a rail is told whom to pay", f"[{place}].{element}")
    return Creditor(name or "", number or "", bic or "")


def _end_to_end_id(payment: Payment, route: Route, place: int) -> str:
    """What names the order among the sender's: the end-to-end id or, where none is provided, a made one."""
    given = payment.id.end_to_end_id
    if given != _NOT_PROVIDED:
        return given
    if payment.id.uetr is not None:
        return payment.id.uetr.replace("-", "")
    return f"{hashlib.sha256(route.message.encode()).hexdigest()[:20]}-{place}"


def _words(remittance: Remittance | None) -> str | None:
    """The unstructured words, as far as an order holds them; the message holds all of them."""
    if remittance is None or not remittance.unstructured:
        return None
    return " ".join(remittance.unstructured)[:MAX_REMITTANCE]
