"""Messages and reconciliation for the client: their shapes, and what `api.settlement` has for them."""

import datetime as dt
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from finflow.client.transport import Request
from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    from finflow.client.service import Client
    from finflow.client.settlement import Cycle, PaymentOrder

BREAKS_AT_ONCE: Final = 1_000


class Refusal(msgspec.Struct, frozen=True):
    """A payment of a message that was not taken: its place from 0, and why."""

    place: int
    end_to_end_id: str
    order_id: str | None
    code: str
    param: str | None


class TakenMessage(msgspec.Struct, frozen=True):
    """What became of a message: how many orders, lines or answers it brought; the first refusals in full."""

    ledger_id: str
    kind: str
    sender: str
    message_id: str
    digest: str
    orders: int
    accepted: int
    refused: int
    lines: int
    answers: int
    refusals: list[Refusal]


class Nostro(msgspec.Struct, frozen=True):
    """An account at another bank, which a participant's payments are seen on."""

    ledger_id: str
    participant: str
    currency: str
    account: str
    owner: str
    created_at: dt.datetime


class RuleCount(msgspec.Struct, frozen=True):
    """How many movements a rule has matched."""

    rule: str
    matched: int


class NostroReport(msgspec.Struct, frozen=True):
    """How one nostro stands. `share_within_promise` is of the movements that are matched or late."""

    participant: str
    currency: str
    account: str
    owner: str
    matched: int
    matched_within_promise: int
    late: int
    share_within_promise: float
    oldest_unmatched_s: float
    breaks: int
    rules: list[RuleCount]


class Break(msgspec.Struct, frozen=True):
    """What does not agree: `missing`, `unexpected` or `amount_differs`; reported minus expected."""

    kind: str
    participant: str
    currency: str
    account: str
    owner: str
    difference: str
    since: dt.datetime
    age_s: float
    value_date: dt.date
    order_id: str | None
    line_id: str | None
    end_to_end_id: str | None
    uetr: str | None


class Reconciliation(msgspec.Struct, frozen=True):
    """A ledger's reconciliation at a moment; `next` is where the next page of its breaks begins."""

    ledger_id: str
    at: dt.datetime
    matched: int
    matched_within_promise: int
    late: int
    share_within_promise: float
    oldest_unmatched_s: float
    breaks: int
    nostros: list[NostroReport]
    items: list[Break]
    next: str | None = None


class Mirror(msgspec.Struct, frozen=True):
    """Two ledgers' accounts for each other: they agree when both and what is in transit add up to nothing."""

    ledger_id: str
    peer_ledger_id: str
    currency: str
    here: str
    there: str
    in_transit: str
    agrees: bool


class _Nostros(msgspec.Struct):
    items: list[Nostro]


class _Mirrors(msgspec.Struct):
    items: list[Mirror]


class _CutOff(msgspec.Struct):
    currency: str


class SettlementMessages:
    """What settlement sends and is sent, and what keeps it going."""

    _client: "Client"

    async def send_message(
        self, ledger_id: str, sender: str, message: bytes, *, rail: str | None = None
    ) -> TakenMessage:
        """Hand over an ISO 20022 message of up to 64 MiB; the same again answers the same.

        Raises message_duplicate, uetr_duplicate and what is wrong with the message.
        """
        query = {"ledger_id": ledger_id, "sender": sender} | ({} if rail is None else {"rail": rail})
        request = Request("POST", "/v1/settlement/messages", message, query, content_type="application/xml")
        reply = await self._client._transport.send(request)
        try:
            return msgspec.json.decode(reply.content, type=TakenMessage)
        except msgspec.MsgspecError as error:
            raise FinFlowError("internal", f"the server's answer cannot be read: {error}") from error

    async def add_nostro(
        self, ledger_id: str, participant: str, currency: str, account: str, owner: str
    ) -> Nostro:
        """Register an account at another bank; safe to repeat. Raises nostro_conflict."""
        body = {
            "ledger_id": ledger_id, "participant": participant, "currency": currency, "account": account,
            "owner": owner,
        }  # fmt: skip
        return await self._client._send(Nostro, "POST", "/v1/settlement/nostros", body)

    async def nostros(self, ledger_id: str) -> list[Nostro]:
        """All nostros of a ledger, in the order of their registration."""
        query = {"ledger_id": ledger_id}
        return (await self._client._send(_Nostros, "GET", "/v1/settlement/nostros", query=query)).items

    async def reconciliation(
        self, ledger_id: str, *, limit: int = BREAKS_AT_ONCE, cursor: str | None = None
    ) -> Reconciliation:
        """How a ledger's nostros stand, and a page of breaks."""
        query = {"ledger_id": ledger_id, "limit": str(limit)} | ({} if cursor is None else {"cursor": cursor})
        return await self._client._send(Reconciliation, "GET", "/v1/settlement/reconciliation", query=query)

    async def return_order(self, order_id: str, reason: str) -> "PaymentOrder":
        """Have a settled order brought back. Raises order_unknown, order_not_settled."""
        from finflow.client.settlement import PaymentOrder  # here, because that module is made of this one

        path = f"/v1/settlement/orders/{part(order_id)}/return"
        return await self._client._send(PaymentOrder, "POST", path, {"reason": reason})

    async def end_cycle(self, cycle_id: str, reason: str) -> "Cycle":
        """Have a submitted cycle returned. Raises cycle_step_refused, cycle_step_conflict."""
        from finflow.client.settlement import Cycle  # here, because that module is made of this one

        path = f"/v1/settlement/cycles/{part(cycle_id)}/end"
        return await self._client._send(Cycle, "POST", path, {"reason": reason})

    async def set_cut_off(
        self, ledger_id: str, currency: str, time: str, zone: str, calendar: str, lag_days: int = 0
    ) -> None:
        """Keep a cut-off of a ledger's own. Raises calendar_unknown, zone_unknown."""
        body = {
            "ledger_id": ledger_id, "currency": currency, "time": time, "zone": zone, "calendar": calendar,
            "lag_days": lag_days,
        }  # fmt: skip
        await self._client._send(_CutOff, "POST", "/v1/settlement/cut-offs", body)

    async def mirrors(self, ledger_id: str) -> list[Mirror]:
        """Whether a ledger and those that it pays have the same in their books, at this moment."""
        query = {"ledger_id": ledger_id}
        return (await self._client._send(_Mirrors, "GET", "/v1/settlement/mirrors", query=query)).items


def part(text: str) -> str:
    """A part of a path: what is no id must not name another route, as "." and ".." would."""
    quoted = quote(text, safe="")
    return quoted if quoted.strip(".") else "%20"
