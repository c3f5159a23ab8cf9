"""What travels about settlement that is the interface's own; the room's views are the rest."""

from typing import Annotated, Literal

import msgspec

from finflow.api.schemas import PageQuery
from finflow.settlement.orders import Creditor, OrderDraft
from finflow.settlement.register import NewParticipant
from finflow.settlement.views import CycleView, OrderView, ParticipantView

MAX_CURRENCIES = 32

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=140)]
Place = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]


class ParticipantDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is to settle on a ledger: a member, another ledger (with `peer_ledger_id`), or a rail outside.

    `overdraft_limit` is of a member's position accounts, `settlement_limit` of the settlement accounts; null
    is without limit.
    """

    ledger_id: str
    name: Name
    kind: Literal["member", "ledger", "rail"]
    currencies: Annotated[list[Place], msgspec.Meta(min_length=1, max_length=MAX_CURRENCIES)]
    peer_ledger_id: str | None = None
    overdraft_limit: str | None = "0"
    settlement_limit: str | None = None

    def participant(self) -> NewParticipant:
        return NewParticipant(
            self.name, self.kind, list(dict.fromkeys(self.currencies)), self.peer_ledger_id,
            self.overdraft_limit, self.settlement_limit,
        )  # fmt: skip


class OrderCreditor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a rail is to pay: name, account (an IBAN or another number), and the bank's BIC."""

    name: Name
    account: Annotated[str, msgspec.Meta(min_length=1, max_length=34)]
    agent: Annotated[str, msgspec.Meta(min_length=8, max_length=11)]

    def creditor(self) -> Creditor:
        return Creditor(self.name, self.account, self.agent)


class OrderMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A payment from one participant to another; without accounts named, between their position accounts.

    `mode` "net" joins the open cycle of the currency, "gross" settles at once.
    """

    payer: Name
    payee: Name
    currency: Place
    amount: str
    end_to_end_id: Annotated[str, msgspec.Meta(min_length=1, max_length=35)]
    uetr: str | None = None
    payer_account_id: str | None = None
    payee_account_id: str | None = None
    mode: Literal["net", "gross"] = "net"
    remittance: Annotated[str, msgspec.Meta(max_length=140)] | None = None
    creditor: OrderCreditor | None = None

    def draft(self) -> OrderDraft:
        return OrderDraft(
            self.payer, self.payee, self.currency, self.amount, self.end_to_end_id, self.uetr,
            self.payer_account_id, self.payee_account_id, self.mode, self.remittance,
            None if self.creditor is None else self.creditor.creditor(),
        )  # fmt: skip


class NewOrder(OrderMember, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One payment order of a ledger's participant."""

    ledger_id: str


class NewOrders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Up to 10,000 payment orders of one ledger, each taken or refused by itself."""

    ledger_id: str
    orders: list[OrderMember]


class OrderResult(msgspec.Struct, frozen=True):
    """What became of one order of a batch. A `code` with an `order_id` is the ledger's refusal to hold."""

    end_to_end_id: str
    order_id: str | None
    cycle_id: str | None
    code: str | None
    param: str | None


class OrderResults(msgspec.Struct, frozen=True):
    """How many were taken and refused, and one result an order, in their order."""

    accepted: int
    refused: int
    results: list[OrderResult]


class ParticipantsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ledger_id: str


class OrdersQuery(PageQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A ledger's orders in the order of their acceptance, or one cycle's."""

    ledger_id: str
    cycle_id: str | None = None


class CycleStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Having a cycle go on takes nothing but its id."""


class CyclesQuery(PageQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A ledger's cycles in the order of their opening."""

    ledger_id: str


class Participants(msgspec.Struct, frozen=True):
    """All participants of a ledger, in the order of their registration."""

    items: list[ParticipantView]


class OrderPage(msgspec.Struct, frozen=True):
    """Orders; `next` is the next page's `cursor`, null at the end."""

    items: list[OrderView]
    next: str | None


class CyclePage(msgspec.Struct, frozen=True):
    """Cycles with their steps, without their submissions and work; `next` is the next page's `cursor`."""

    items: list[CycleView]
    next: str | None
