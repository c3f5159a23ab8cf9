"""What travels about settlement that is the interface's own; the room's views are the rest."""

import datetime as dt
from typing import Annotated, Literal

import msgspec

from finflow.api.schemas import PageQuery
from finflow.settlement.calendars import CutOff
from finflow.settlement.orders import Creditor, OrderDraft
from finflow.settlement.reconciliation_reads import NostroView
from finflow.settlement.register import NewParticipant
from finflow.settlement.views import CycleView, MirrorView, OrderView, ParticipantView

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


class LedgerQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ledger_id: str


class MessageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose message it is, and the rail for payments whose creditors no participant is the bank of."""

    ledger_id: str
    sender: Name
    rail: Name | None = None


class ReconciliationQuery(PageQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A ledger's reconciliation; `limit` and `cursor` are those of its breaks."""

    ledger_id: str


class NostroDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An account of ours at the bank of a participant: its number there, and who looks after its breaks."""

    ledger_id: str
    participant: Name
    currency: Place
    account: Annotated[str, msgspec.Meta(min_length=1, max_length=35)]
    owner: Name


class Nostros(msgspec.Struct, frozen=True):
    """All accounts of a ledger at other banks."""

    items: list[NostroView]


class Mirrors(msgspec.Struct, frozen=True):
    """A ledger's accounts for other ledgers, compared with theirs for it."""

    items: list[MirrorView]


class OrderReturn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why an order comes back."""

    reason: Name


class CycleEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a cycle is given up."""

    reason: Name


class CutOffDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Until when a currency settles on the same day: a wall-clock time like "16:30:00" in a zone, on the
    business days of a calendar, so many business days later."""

    ledger_id: str
    currency: Place
    time: Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$")]
    zone: Place
    calendar: Place
    lag_days: Annotated[int, msgspec.Meta(ge=0, le=30)] = 0

    def cut_off(self) -> CutOff:
        time = dt.time.fromisoformat(self.time)
        return CutOff(self.currency, time, self.zone, self.calendar, self.lag_days)


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
