"""Settlement for the client: the shapes that travel, and `api.settlement` with one method a route."""

import datetime as dt
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import msgspec

from finflow.client.settlement_messages import SettlementMessages, part

if TYPE_CHECKING:
    from finflow.client.service import Client
    from finflow.client.settlement_audit import Audit

T = TypeVar("T")

ORDERS_AT_ONCE: Final = 10_000
PAGE: Final = 1_000

Kind = Literal["member", "ledger", "rail"]
CycleState = Literal["open", "closed", "netted", "submitted", "settled", "failed", "returned"]
OrderStatus = Literal["received", "refused", "held", "settled", "voided", "returned"]


class Creditor(msgspec.Struct, frozen=True):
    """Whom a rail is to pay: name, account (an IBAN or another number), and the bank's BIC."""

    name: str
    account: str
    agent: str


class NewOrder(msgspec.Struct, frozen=True, omit_defaults=True):
    """A payment from one participant to another; without accounts named, between their position accounts."""

    payer: str
    payee: str
    currency: str
    amount: str
    end_to_end_id: str
    uetr: str | None = None
    payer_account_id: str | None = None
    payee_account_id: str | None = None
    mode: Literal["net", "gross"] = "net"
    remittance: str | None = None
    creditor: Creditor | None = None


class ParticipantAccounts(msgspec.Struct, frozen=True):
    """A participant's two accounts in a currency."""

    currency: str
    position_account_id: str
    settlement_account_id: str


class Participant(msgspec.Struct, frozen=True):
    """Somebody who settles on a ledger: a member of it, another ledger, or a rail outside."""

    participant_id: str
    ledger_id: str
    name: str
    kind: Kind
    accounts: list[ParticipantAccounts]


class PaymentOrder(msgspec.Struct, frozen=True):
    """A payment order, and what became of it."""

    order_id: str
    ledger_id: str
    cycle_id: str | None
    status: OrderStatus
    code: str | None
    payer: str
    payee: str
    payer_account_id: str
    payee_account_id: str
    currency: str
    amount: str
    end_to_end_id: str
    uetr: str | None
    accepted_at: dt.datetime
    paid_by: str | None
    ended_by: str | None
    returned_by: str | None


class OrderResult(msgspec.Struct, frozen=True):
    """What became of one order of a batch: its id and its cycle's, or the code of its refusal."""

    end_to_end_id: str
    order_id: str | None
    cycle_id: str | None
    code: str | None
    param: str | None


class Step(msgspec.Struct, frozen=True):
    """A step of a cycle's timeline; `evidence` is the digest of what it rests on."""

    action: str
    at: dt.datetime
    evidence: str
    attempt: int


class Submission(msgspec.Struct, frozen=True):
    """What a rail was sent of a cycle, and its verdict; the rail `ledger` is the decision of the bank."""

    attempt: int
    rail: str
    message_id: str
    orders: int
    sent_at: dt.datetime
    verdict: str | None
    detail: str | None


class PendingWork(msgspec.Struct, frozen=True):
    """When a cycle goes on, how often in a row it could not, and why."""

    due_at: dt.datetime
    failures: int
    last_error: str | None


class Cycle(msgspec.Struct, frozen=True):
    """A cycle with its timeline; in lists, submissions and work are left out."""

    cycle_id: str
    ledger_id: str
    currency: str
    value_date: dt.date
    cut_off_at: dt.datetime
    opened_at: dt.datetime
    state: CycleState
    steps: list[Step]
    submissions: list[Submission]
    work: PendingWork | None


class NetPosition(msgspec.Struct, frozen=True):
    """What one participant owes, is owed, and settles in a cycle; a positive net is received."""

    participant: str
    payable: str
    receivable: str
    net: str
    obligations: int


class Report(msgspec.Struct, frozen=True):
    """A netting report. `faults` is what a recount from the orders found wrong: nothing, if it is sound."""

    cycle_id: str
    currency: str
    digest: str
    obligations: int
    gross: str
    settled: str
    saved: str
    saved_share: float
    positions: list[NetPosition]
    faults: list[str]


class _Participants(msgspec.Struct):
    items: list[Participant]


class _Results(msgspec.Struct):
    results: list[OrderResult]


class _Orders(msgspec.Struct):
    items: list[PaymentOrder]
    next: str | None = None


class _Cycles(msgspec.Struct):
    items: list[Cycle]
    next: str | None = None


class Settlement(SettlementMessages):
    """Participants, orders, cycles and messages: `api.settlement`. Errors are as the client's are."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    async def add_participant(
        self,
        ledger_id: str,
        name: str,
        kind: Kind,
        currencies: Sequence[str],
        *,
        peer_ledger_id: str | None = None,
        overdraft_limit: str | None = "0",
        settlement_limit: str | None = None,
    ) -> Participant:
        """Register a participant, or add currencies to one; safe to repeat. Raises participant_conflict."""
        body = {
            "ledger_id": ledger_id, "name": name, "kind": kind, "currencies": currencies,
            "peer_ledger_id": peer_ledger_id, "overdraft_limit": overdraft_limit,
            "settlement_limit": settlement_limit,
        }  # fmt: skip
        return await self._client._send(Participant, "POST", "/v1/settlement/participants", body)

    async def participants(self, ledger_id: str) -> list[Participant]:
        """All participants of a ledger, in the order of their registration."""
        path, query = "/v1/settlement/participants", {"ledger_id": ledger_id}
        return (await self._client._send(_Participants, "GET", path, query=query)).items

    async def order(self, ledger_id: str, order: NewOrder, *, key: str | None = None) -> PaymentOrder:
        """Give one payment order; its money is held. Raises order_duplicate, exceeds_available and others."""
        body = msgspec.structs.asdict(order) | {"ledger_id": ledger_id}
        path = "/v1/settlement/orders"
        return await self._client._send(PaymentOrder, "POST", path, body, key=key or str(uuid.uuid4()))

    async def orders_batch(
        self, ledger_id: str, orders: Sequence[NewOrder], *, key: str | None = None
    ) -> list[OrderResult]:
        """Give up to 10,000 payment orders; a result each, in their order."""
        body = {"ledger_id": ledger_id, "orders": orders}
        path = "/v1/settlement/orders:batch"
        given = key or str(uuid.uuid4())
        return (await self._client._send(_Results, "POST", path, body, key=given)).results

    async def orders(
        self, ledger_id: str, *, cycle_id: str | None = None, page_size: int = PAGE
    ) -> AsyncIterator[PaymentOrder]:
        """Every order of a ledger or of one of its cycles, oldest first, read in pages."""
        query = {"ledger_id": ledger_id, "limit": str(page_size)}
        query |= {} if cycle_id is None else {"cycle_id": cycle_id}
        while True:
            page = await self._client._send(_Orders, "GET", "/v1/settlement/orders", query=query)
            for item in page.items:
                yield item
            if page.next is None:
                return
            query = query | {"cursor": page.next}

    async def read_order(self, order_id: str) -> PaymentOrder:
        """An order and what became of it. Raises order_unknown."""
        return await self._client._send(PaymentOrder, "GET", f"/v1/settlement/orders/{part(order_id)}")

    async def audit(self, order_id: str) -> "Audit":
        """Everything about an order, by one request. Raises order_unknown."""
        from finflow.client.settlement_audit import Audit  # here, because its shapes are made of these

        return await self._client._send(Audit, "GET", f"/v1/settlement/orders/{part(order_id)}/audit")

    async def cycles(self, ledger_id: str, *, page_size: int = PAGE) -> AsyncIterator[Cycle]:
        """Every cycle of a ledger in the order of their opening, read in pages."""
        query = {"ledger_id": ledger_id, "limit": str(page_size)}
        while True:
            page = await self._client._send(_Cycles, "GET", "/v1/settlement/cycles", query=query)
            for item in page.items:
                yield item
            if page.next is None:
                return
            query = query | {"cursor": page.next}

    async def cycle(self, cycle_id: str) -> Cycle:
        """A cycle with its timeline. Raises cycle_unknown."""
        return await self._about(Cycle, "GET", cycle_id)

    async def report(self, cycle_id: str) -> Report:
        """A cycle's netting report, recounted from its orders. Raises cycle_not_netted."""
        return await self._about(Report, "GET", cycle_id, "/report")

    async def run(self, cycle_id: str) -> Cycle:
        """Have a cycle whose cut-off is over go on now. Raises cycle_not_due."""
        return await self._about(Cycle, "POST", cycle_id, "/run")

    async def retry(self, cycle_id: str) -> Cycle:
        """Have a failed cycle submitted again now. Raises cycle_step_refused."""
        return await self._about(Cycle, "POST", cycle_id, "/retry")

    async def _about(self, shape: type[T], method: str, cycle_id: str, verb: str = "") -> T:
        return await self._client._send(shape, method, f"/v1/settlement/cycles/{part(cycle_id)}{verb}")
