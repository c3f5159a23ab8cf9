"""What a schema cannot say: counts, sums, dates and currencies of a message agree with its transactions.

The rules run over the events of a stream, so a message of a million transactions is checked as it passes.
"""

from collections.abc import Iterable, Iterator
from decimal import Context, Decimal, Inexact
from typing import Any, Final

from finflow.kernel.errors import FinFlowError
from finflow.settlement.iso20022.answers import PaymentReturn, ReturnedTransfer
from finflow.settlement.iso20022.messages import Message
from finflow.settlement.iso20022.part import Amount, Part
from finflow.settlement.iso20022.statements import Entry, Statement
from finflow.settlement.iso20022.streams import Closed, Event, Opened, events_of
from finflow.settlement.iso20022.transfers import (
    CreditTransfer,
    CreditTransfers,
    Initiation,
    OrderedTransfer,
    PaymentInstruction,
)

# Sums of amounts are exact or refused; 18 digits a piece leave room for 10^32 of them.
EXACT: Final = Context(prec=50, traps=[Inexact])


def check(message: Message) -> None:
    """Raises message_inconsistent or amount_not_positive."""
    for _ in checked(events_of(message)):
        pass


def checked(events: Iterable[Event]) -> Iterator[Event]:
    """The same events; the refusal comes with the event that shows the contradiction.

    Raises message_inconsistent or amount_not_positive.
    """
    open_levels: list[_Tally] = []
    for event in events:
        if isinstance(event, Opened):
            open_levels.append(_Tally(event.part))
        elif isinstance(event, Closed):
            open_levels.pop().close()
        else:
            for tally in open_levels:
                tally.add(event)
        yield event


class _Tally:
    """What a header promises, and what has come so far."""

    def __init__(self, opened: Part) -> None:
        self._opened = opened
        # A body's promises stand in its header, those of an instruction or a statement in itself.
        self._promise: Any = getattr(opened, "header", opened)
        self._count = 0
        self._sum: Decimal | None = Decimal(0)
        self._booked = 0

    def add(self, unit: Part) -> None:
        self._count += 1
        if isinstance(unit, Entry):
            self._booked += unit.signed_minor if unit.status.word == "BOOK" else 0
            return
        amount = _amount_of(unit)
        if amount is not None and amount.value == 0:
            raise FinFlowError("amount_not_positive", "a transfer of nothing")
        # An order in another currency than it is paid in has no amount that a control sum could count.
        if amount is None:
            self._sum = None
        elif self._sum is not None:
            self._sum = EXACT.add(self._sum, amount.value)
        if isinstance(unit, CreditTransfer | ReturnedTransfer):
            self._check_between_banks(unit)

    def _check_between_banks(self, unit: CreditTransfer | ReturnedTransfer) -> None:
        if self._promise.total is not None and self._promise.total.currency != unit.amount.currency:
            raise FinFlowError("message_inconsistent", "a transfer has another currency than the total")
        if self._promise.settlement_date is None and unit.settlement_date is None:
            raise FinFlowError(
                "message_inconsistent", "a transfer has no settlement date, nor has the header"
            )

    def close(self) -> None:
        if isinstance(self._opened, Statement):
            self._check_balances(self._opened)
        elif isinstance(self._opened, CreditTransfers | PaymentReturn | Initiation | PaymentInstruction):
            self._check_promises()

    def _check_promises(self) -> None:
        promise = self._promise
        # A return of a whole group need not list what it returns.
        if self._count == 0 and getattr(promise, "whole_group", None) in ("true", "1"):
            return
        if promise.count is not None and int(promise.count) != self._count:
            raise FinFlowError("message_inconsistent", f"NbOfTxs is {promise.count}, and {self._count} came")
        if self._sum is None:
            return
        if promise.control_sum is not None and promise.control_sum != self._sum:
            raise FinFlowError("message_inconsistent", f"CtrlSum is {promise.control_sum}, not {self._sum}")
        total: Amount | None = getattr(promise, "total", None)
        if total is not None and total.value != self._sum:
            raise FinFlowError("message_inconsistent", f"the total is {total.value}, the sum {self._sum}")

    def _check_balances(self, statement: Statement) -> None:
        """A statement with both ends leads from one to the other by what it says was booked."""
        opening = [each for each in statement.balances if each.type.kind.code == "OPBD"]
        closing = [each for each in statement.balances if each.type.kind.code == "CLBD"]
        if len(opening) != 1 or len(closing) != 1:
            return
        if opening[0].signed_minor + self._booked != closing[0].signed_minor:
            raise FinFlowError(
                "message_inconsistent", f"statement {statement.id}: the entries do not lead from OPBD to CLBD"
            )


def _amount_of(unit: Part) -> Amount | None:
    if isinstance(unit, CreditTransfer | ReturnedTransfer):
        return unit.amount
    return unit.amount.instructed if isinstance(unit, OrderedTransfer) else None
