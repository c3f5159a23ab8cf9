"""Payment orders and what they mean to the ledger. Pure: an order in, the ledger's commands out.

An order has no state of its own. What became of it is what the ledger's journal has under the keys made
here, and each key is in the journal at most once: the hold (or, in gross mode, the payment itself), its
posting, its release, its return. So a step of settlement can be sent to the ledger any number of times, by
any number of processes, and moves money once.

`§order:7.55:pay` is the first transaction of order 55 of ledger 7, on that ledger and, if the payee's account
is on another ledger, under the same key there.
"""

import datetime as dt
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal, NamedTuple

import msgspec

from finflow.kernel import ids, money
from finflow.kernel.errors import FinFlowError
from finflow.ledger.commands import (
    Command,
    Direction,
    EntryLine,
    PostPending,
    PostTransaction,
    Request,
    ReverseTransaction,
    VoidPending,
)
from finflow.ledger.guards import amount_refusal
from finflow.settlement.duplicates import check_uetr

CALLER: Final = "finflow:settlement"
MAX_ORDERS: Final = 10_000
MAX_REMITTANCE: Final = 140
Mode = Literal["net", "gross"]
Stage = Literal["pay", "post", "void", "return"]
Status = Literal["received", "refused", "held", "settled", "voided", "returned"]


class Creditor(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whom a rail is to pay: name, account (an IBAN or another number), and the bank's BIC."""

    name: str
    account: str
    agent: str


class OrderDraft(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is to be paid. `payer` and `payee` are names of participants, `amount` a decimal string.

    The accounts are those of the participants unless others are named; to another ledger, `payee_account_id`
    is the account there. Orders to a rail need a `creditor`, and may carry parts of a message on to it.
    """

    payer: str
    payee: str
    currency: str
    amount: str
    end_to_end_id: str
    uetr: str | None = None
    payer_account_id: str | None = None
    payee_account_id: str | None = None
    mode: Mode = "net"
    remittance: str | None = None
    creditor: Creditor | None = None
    carried: str | None = None


class Details(msgspec.Struct, frozen=True, omit_defaults=True):
    """The parts of an order that only messages need; `carried` are those of the message that brought it."""

    remittance: str | None = None
    creditor: Creditor | None = None
    carried: str | None = None


class Order(NamedTuple):
    """An accepted order as it is kept; account ids are of its own ledger, but for `peer_account_id`.

    `settlement_ids` are the settlement accounts of payer and payee, for orders that settle by themselves.
    """

    ledger_no: int
    batch_no: int
    order_no: int
    cycle_no: int | None
    accepted_at: int
    payer_no: int
    payee_no: int
    payer_account_id: str
    payee_account_id: str
    currency: str
    exponent: int
    amount_minor: int
    end_to_end_id: str
    settlement_ids: tuple[str, str]
    peer_ledger_no: int | None = None
    peer_mirror_id: str | None = None
    peer_account_id: str | None = None

    @property
    def order_id(self) -> str:
        return order_id(self.ledger_no, self.order_no, self.accepted_at)


class Held(NamedTuple):
    """A transaction of the ledger that settlement is to post, void or reverse: whose, and its id."""

    key: str
    transaction_id: str


def order_id(ledger_no: int, order_no: int, accepted_at: int) -> str:
    return ids.mint("ord", accepted_at, ledger_no, order_no)


@lru_cache(maxsize=1024)
def cycle_id(ledger_no: int, cycle_no: int, opened_at: int) -> str:
    return ids.mint("cyc", opened_at, ledger_no, cycle_no)


@lru_cache(maxsize=4096)
def account_id(ledger_no: int, account_no: int, created_at: int) -> str:
    """Remembered: most orders move money on the accounts of participants, which are few."""
    return ids.mint("acc", created_at, ledger_no, account_no)


def participant_id(ledger_no: int, participant_no: int, created_at: int) -> str:
    return ids.mint("par", created_at, ledger_no, participant_no)


def order_key(ledger_no: int, order_no: int) -> str:
    """What the idempotency keys of an order begin with; `pay_key` in the store's SQL says the same."""
    # No client can send such a key: the API takes printable ASCII only.
    return f"§order:{ledger_no}.{order_no}"


def message_key(message_no: int) -> str:
    """What the keys of a message's orders begin with: the part and the place in it follow."""
    return f"§msg:{message_no}:"


def position_key(ledger_no: int, cycle_no: int, attempt: int) -> str:
    """The key of the transaction that settles a cycle's net positions, of one submission."""
    return f"§cycle:{ledger_no}.{cycle_no}:position:{attempt}"


def checked_amount(draft: OrderDraft, exponent: int) -> int:
    """The amount in minor units. Raises the codes of amounts, uetr_malformed, order_malformed."""
    code = amount_refusal(draft.amount, exponent)
    if code is not None:
        raise FinFlowError(code, param="amount")
    if draft.uetr is not None:
        check_uetr(draft.uetr, "uetr")
    if not 1 <= len(draft.end_to_end_id) <= 35 or not draft.end_to_end_id.isprintable():
        raise FinFlowError("order_malformed", "an end-to-end id has 1 to 35 characters", "end_to_end_id")
    if len(draft.remittance or "") > MAX_REMITTANCE or "\0" in (draft.remittance or ""):
        raise FinFlowError("order_malformed", f"at most {MAX_REMITTANCE} characters", "remittance")
    return money.to_minor(draft.amount, exponent)


def payment(order: Order) -> Request:
    """The first transaction of an order on its own ledger: a hold or, in gross mode on one ledger, all."""
    lines = [
        _line(order, order.payer_account_id, "debit"),
        _line(order, order.payee_account_id, "credit"),
    ]
    pending = order.cycle_no is not None or order.peer_ledger_no is not None
    if order.cycle_no is None and order.payer_no != order.payee_no:
        lines.append(_line(order, order.settlement_ids[0], "credit"))
        lines.append(_line(order, order.settlement_ids[1], "debit"))
    return _request(order, PostTransaction(lines, pending=pending, reference=order.order_id))


def peer_payment(order: Order) -> Request:
    """The same on the payee's ledger, whose mirror of the payer's ledger pays there. Always a hold."""
    assert order.peer_mirror_id is not None, "asked of orders to another ledger only"
    assert order.peer_account_id is not None, "asked of orders to another ledger only"
    lines = [_line(order, order.peer_mirror_id, "debit"), _line(order, order.peer_account_id, "credit")]
    return _request(order, PostTransaction(lines, pending=True, reference=order.order_id))


def _request(order: Order, command: Command) -> Request:
    return Request(f"{order_key(order.ledger_no, order.order_no)}:pay", command, CALLER)


def _line(order: Order, account_id: str, direction: Direction) -> EntryLine:
    amount = money.to_text(order.amount_minor, order.exponent)
    return EntryLine(account_id, direction, amount, order.currency)


def posting(held: Held, value_date: dt.date | None = None) -> Request:
    """What posts a hold, on the value date of its cycle."""
    effective_at = None if value_date is None else dt.datetime.combine(value_date, dt.time(), dt.UTC)
    return Request(f"{held.key}:post", PostPending(held.transaction_id, effective_at=effective_at), CALLER)


def release(held: Held) -> Request:
    """What voids a hold."""
    return Request(f"{held.key}:void", VoidPending(held.transaction_id), CALLER)


def reversal(posted: Held) -> Request:
    """What reverses a posted transaction."""
    return Request(f"{posted.key}:return", ReverseTransaction(posted.transaction_id), CALLER)


class NetLine(NamedTuple):
    """What one participant settles in a cycle, and on which account. Positive is received."""

    account_id: str
    net_minor: int


def position_hold(
    key: str, lines: Sequence[NetLine], currency: str, exponent: int, reference: str
) -> Request | None:
    """One transaction that settles all net positions of a cycle, held until final. None if all are 0."""
    entries = [
        EntryLine(
            line.account_id,
            "debit" if line.net_minor > 0 else "credit",
            money.to_text(abs(line.net_minor), exponent),
            currency,
        )
        for line in lines
        if line.net_minor
    ]
    if not entries:
        return None
    return Request(key, PostTransaction(entries, pending=True, reference=reference), CALLER)


def unwinding(order: Order) -> Request | None:
    """What takes a returned order out of the settlement accounts again, if its participants differ."""
    if order.payer_no == order.payee_no or order.cycle_no is None:
        return None
    lines = [
        _line(order, order.settlement_ids[0], "debit"),
        _line(order, order.settlement_ids[1], "credit"),
    ]
    key = f"{order_key(order.ledger_no, order.order_no)}:unwind"
    return Request(key, PostTransaction(lines, reference=order.order_id), CALLER)
