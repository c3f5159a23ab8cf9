"""What a draft of an order becomes, given participants and accounts, or why it becomes nothing."""

import uuid
from collections.abc import Sequence
from typing import Final

import msgspec

from finflow.kernel import ids
from finflow.kernel.clock import to_micros
from finflow.kernel.errors import FinFlowError
from finflow.ledger.store import Connection
from finflow.settlement import orders
from finflow.settlement.order_store import NewOrder
from finflow.settlement.orders import Details, OrderDraft
from finflow.settlement.participant_store import Accounts, Participant

_ACCOUNTS: Final = """
select account_no, created_at from accounts where ledger_no = $1 and account_no = any($2::integer[])
"""


async def named_accounts(
    connection: Connection, drafts: Sequence[OrderDraft], ledger_nos: set[int]
) -> set[str]:
    """Those account ids in drafts that exist on these ledgers: a number alone could be guessed."""
    named = {text for draft in drafts for text in (draft.payer_account_id, draft.payee_account_id) if text}
    places = {place for text in named if (place := ids.parse("acc", text)) is not None}
    found: set[str] = set()
    for ledger_no in sorted(ledger_nos & {place.ledger_no for place in places}):
        numbers = sorted(place.number for place in places if place.ledger_no == ledger_no)
        for row in await connection.fetch(_ACCOUNTS, ledger_no, numbers):
            found.add(ids.mint("acc", to_micros(row["created_at"]), ledger_no, row["account_no"]))
    return found & named


def new_order(
    place: int,
    draft: OrderDraft,
    key: str,
    ledger_no: int,
    known: dict[str, Participant],
    mirrors: dict[int, dict[str, Accounts]],
    accounts: set[str],
) -> NewOrder:
    """The order that a draft becomes. Raises participant_unknown, mirror_missing, account_unknown,
    order_malformed and the codes of amounts and UETRs.
    """
    payer, payer_accounts = _participant(known, draft.payer, draft.currency, "payer")
    payee, payee_accounts = _participant(known, draft.payee, draft.currency, "payee")
    if payer.kind != "member":
        raise FinFlowError("order_malformed", "only a member of the ledger pays", "payer")
    amount_minor = orders.checked_amount(draft, payer_accounts.exponent)
    peer = None
    payee_account = (payee_accounts.position_no, payee_accounts.position_id)
    if payee.peer_ledger_no is not None:
        peer = _peer(draft, payee.peer_ledger_no, mirrors, accounts)
    elif draft.payee_account_id is not None:
        payee_account = _account(draft.payee_account_id, ledger_no, accounts, "payee_account_id")
    payer_account = (payer_accounts.position_no, payer_accounts.position_id)
    if draft.payer_account_id is not None:
        payer_account = _account(draft.payer_account_id, ledger_no, accounts, "payer_account_id")
    if payer_account[0] == payee_account[0]:
        raise FinFlowError("order_malformed", "the payer's account is the payee's", "payee")
    _check_rail(draft, payee)
    uetr = draft.uetr or (str(uuid.uuid4()) if payee.kind == "rail" else None)
    settlement = (payer_accounts.settlement_id, payee_accounts.settlement_id)
    # 0 stands for the open cycle, which is found when the order is kept.
    cycle_no = None if draft.mode == "gross" else 0
    return NewOrder(
        place, cycle_no, payer.participant_no, payee.participant_no, payer_account, payee_account, settlement,
        peer, draft.currency, payer_accounts.exponent, amount_minor, draft.end_to_end_id, uetr, key,
        _details(draft),
    )  # fmt: skip


def _participant(
    known: dict[str, Participant], name: str, currency: str, param: str
) -> tuple[Participant, Accounts]:
    found = known.get(name)
    accounts = None if found is None else found.accounts.get(currency)
    if found is None or accounts is None:
        raise FinFlowError("participant_unknown", f"{name[:40]!r} in {currency[:10]!r}", param)
    return found, accounts


def _peer(
    draft: OrderDraft, peer_no: int, mirrors: dict[int, dict[str, Accounts]], accounts: set[str]
) -> tuple[int, int, str, str]:
    """The payee's ledger and account there, and the account that stands there for this ledger."""
    mirror = mirrors[peer_no].get(draft.currency)
    if mirror is None:
        raise FinFlowError("mirror_missing", param="payee")
    if draft.payee_account_id is None:
        raise FinFlowError("order_malformed", "an account on the other ledger is needed", "payee_account_id")
    number, account_id = _account(draft.payee_account_id, peer_no, accounts, "payee_account_id")
    return peer_no, number, mirror.position_id, account_id


def _account(text: str, ledger_no: int, accounts: set[str], param: str) -> tuple[int, str]:
    place = ids.parse("acc", text)
    if place is None or place.ledger_no != ledger_no or text not in accounts:
        raise FinFlowError("account_unknown", param=param)
    return place.number, text


def _check_rail(draft: OrderDraft, payee: Participant) -> None:
    if payee.kind != "rail":
        return
    if draft.creditor is None:
        raise FinFlowError("order_malformed", "a rail is told whom to pay", "creditor")
    if draft.mode == "gross":
        raise FinFlowError("order_malformed", "a rail takes the orders of a cycle together", "mode")


def _details(draft: OrderDraft) -> str | None:
    details = Details(draft.remittance, draft.creditor, draft.carried)
    return None if details == Details() else msgspec.json.encode(details).decode()
