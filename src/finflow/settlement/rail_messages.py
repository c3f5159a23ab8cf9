"""What is said to a rail and what it says: pacs.008 out; pacs.002 and pacs.004 in. Pure.

Our message ids name their ledger (`FF7C12P3A1`: ledger 7, cycle 12, participant 3, attempt 1), so an answer,
which repeats the id, finds its way without a search through other banks' rows.
"""

import datetime as dt
import io
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final, Literal, NamedTuple

import msgspec

from finflow.kernel import money
from finflow.kernel.errors import FinFlowError
from finflow.settlement.iso20022 import messages, rules, streams
from finflow.settlement.iso20022.answers import (
    PaymentReturn,
    ReturnedTransfer,
    StatusReport,
    TransactionStatus,
)
from finflow.settlement.iso20022.part import Amount, amount_of
from finflow.settlement.iso20022.parties import (
    AccountId,
    Agent,
    CashAccount,
    Choice,
    Institution,
    OtherAccount,
    Party,
    PaymentId,
    Remittance,
    Settlement,
    StatusReason,
)
from finflow.settlement.iso20022.streams import Closed, Event, Opened
from finflow.settlement.iso20022.transfers import CreditTransfer, CreditTransfers, GroupHeader
from finflow.settlement.orders import Creditor

_NAME: Final = "pacs.008.001.08"
_SOME_UETR: Final = "00000000-0000-4000-8000-000000000000"
_MESSAGE_ID: Final = re.compile(r"FF([1-9]\d{0,8})C([1-9]\d{0,12})P([1-9]\d{0,9})A([1-9]\d{0,3})")
_IBAN: Final = re.compile(r"[A-Z]{2}[0-9]{2}[a-zA-Z0-9]{1,30}")
_NAMESPACE: Final = re.compile(r"urn:iso:std:iso:20022:tech:xsd:[a-z]{4}\.\d{3}\.001\.\d\d")
_ACCEPTED: Final = frozenset({"ACCP", "ACSC", "ACSP", "ACTC", "ACCC", "ACWC", "PART"})


class Outgoing(NamedTuple):
    """An order as a rail is told of it."""

    order_id: str
    payer: str
    payer_account_id: str
    amount_minor: int
    end_to_end_id: str
    uetr: str
    remittance: str | None
    creditor: Creditor
    carried: str | None = None


class Carried(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a message said of a payment beside what an order holds, for the rail that pays it."""

    debtor: Party
    debtor_agent: Agent
    debtor_account: CashAccount | None = None
    ultimate_debtor: Party | None = None
    creditor: Party | None = None
    ultimate_creditor: Party | None = None
    purpose: Choice | None = None
    remittance: Remittance | None = None

    def text(self) -> str:
        """As an order keeps it: what is not understood stands in the namespace of the message to come."""
        return _NAMESPACE.sub(f"urn:iso:std:iso:20022:tech:xsd:{_NAME}", msgspec.json.encode(self).decode())


class Answer(NamedTuple):
    """What a rail says of one message of ours: taken or not, and which payments it refuses, by UETR."""

    message_id: str
    verdict: Literal["accepted", "rejected"] | None
    detail: str
    refused: dict[str, str]


class Heard(NamedTuple):
    """A message from a rail: its kind, its id, which messages of ours it names, and what it says.

    `returned` are payments that come back, by UETR: minor units, currency, why, and the day of the money.
    """

    kind: str
    message_id: str
    named: list[str]
    answers: list[Answer]
    returned: dict[str, tuple[int, str, str, dt.date | None]]


def message_id(ledger_no: int, cycle_no: int, participant_no: int, attempt: int) -> str:
    return f"FF{ledger_no}C{cycle_no}P{participant_no}A{attempt}"


def ledger_of(text: str) -> int | None:
    """The ledger that a message id of ours names."""
    match = _MESSAGE_ID.fullmatch(text)
    return None if match is None else int(match[1])


def credit_transfers(
    message: str,
    outgoing: Sequence[Outgoing],
    currency: str,
    value_date: dt.date,
    at: dt.datetime,
    bank: str,
) -> bytes:
    """A pacs.008 of a cycle's orders to one rail; `bank` is what we are called there.

    The same orders at the same moment make the same bytes. Raises the codes of ISO 20022's writer.
    """
    exponent = money.exponent_of(currency)
    if exponent is None:
        raise FinFlowError("currency_unknown", f"{currency!r} is not in ISO 4217", "currency")
    total = sum(each.amount_minor for each in outgoing)
    header = GroupHeader(
        message_id=message,
        created_at=at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        count=str(len(outgoing)),
        control_sum=Decimal(money.to_text(total, exponent)),
        total=amount_of(total, currency),
        settlement_date=value_date,
        settlement=Settlement(method="CLRG"),
    )
    events: list[Event] = [Opened(0, CreditTransfers(header=header), _NAME)]
    events += [_transfer(each, currency, bank) for each in outgoing]
    events.append(Closed(0, ()))
    file = io.BytesIO()
    streams.write_stream(file, events)
    return file.getvalue()


def _transfer(order: Outgoing, currency: str, bank: str) -> CreditTransfer:
    creditor = order.creditor
    remittance = None if order.remittance is None else Remittance(unstructured=(order.remittance,))
    transfer = CreditTransfer(
        id=PaymentId(end_to_end_id=order.end_to_end_id, transaction_id=order.order_id, uetr=order.uetr),
        amount=amount_of(order.amount_minor, currency),
        charge_bearer="SLEV",
        debtor=Party(name=order.payer),
        debtor_account=_account(order.payer_account_id),
        debtor_agent=Agent(institution=Institution(name=bank)),
        creditor_agent=Agent(institution=Institution(bic=creditor.agent)),
        creditor=Party(name=creditor.name),
        creditor_account=_account(creditor.account),
        remittance=remittance,
    )
    if order.carried is None:
        return transfer
    carried = msgspec.json.decode(order.carried, type=Carried)
    given = {name: getattr(carried, name) for name in carried.__struct_fields__}
    return msgspec.structs.replace(
        transfer, **{name: part for name, part in given.items() if part is not None}
    )


def check_carried(carried: str, creditor: Creditor, amount: Amount) -> None:
    """Raises message_not_understood if the message to a rail could not hold what is carried."""
    order = Outgoing("x", "x", "x", amount.minor, "x", _SOME_UETR, None, creditor, carried)
    try:
        day = dt.date(2000, 1, 1)
        moment = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
        messages.read(credit_transfers("x", [order], amount.currency, day, moment, "x"))
    except FinFlowError as error:
        detail = f"it cannot be passed on to the rail: {error.detail or error}"
        raise FinFlowError("message_not_understood", detail, error.param) from error


def _account(number: str) -> CashAccount:
    if _IBAN.fullmatch(number):
        return CashAccount(id=AccountId(iban=number))
    return CashAccount(id=AccountId(other=OtherAccount(number=number)))


def hear(data: bytes) -> Heard:
    """A rail's message. Raises the reader's codes, message_unsupported and answer_malformed."""
    events = iter(rules.checked(streams.read_stream(io.BytesIO(data))))
    opened = next(events)
    assert isinstance(opened, Opened), "a stream begins with the opening of its message"
    units = [each for each in events if not isinstance(each, Opened | Closed)]
    body = opened.part
    if isinstance(body, StatusReport):
        answers = _answers(body, [each for each in units if isinstance(each, TransactionStatus)])
        named = [each.message_id for each in answers]
        return Heard(opened.name[:8], body.header.message_id, named, answers, {})
    if isinstance(body, PaymentReturn):
        transfers = [each for each in units if isinstance(each, ReturnedTransfer)]
        groups = [each.original_group or body.original_group for each in transfers]
        named = sorted({each.message_id for each in groups if each is not None})
        return Heard(
            opened.name[:8],
            body.header.message_id,
            named,
            [],
            dict(_returned(transfers, body.header.settlement_date)),
        )
    raise FinFlowError("message_unsupported", f"a rail answers with pacs.002 or pacs.004, not {opened.name}")


def _answers(report: StatusReport, units: Sequence[TransactionStatus]) -> list[Answer]:
    """What a report says of each of our messages: of the whole, and of payments one by one."""
    refused: dict[str, dict[str, str]] = {}
    accepted: set[str] = set()
    group = report.groups[0].message_id if len(report.groups) == 1 else None
    for unit in units:
        original = group if unit.original_group is None else unit.original_group.message_id
        if original is None:
            raise FinFlowError("answer_malformed", "a status does not say which message it answers")
        if unit.status == "RJCT":
            if unit.uetr is None:
                raise FinFlowError("answer_malformed", "a refused payment has no UETR", "OrgnlUETR")
            refused.setdefault(original, {})[unit.uetr] = _reason(unit.reasons)
        elif unit.status in _ACCEPTED:
            accepted.add(original)
    whole = {each.message_id: (each.status, _reason(each.reasons)) for each in report.groups}
    return [
        _answer(each, whole.get(each, (None, "")), refused.get(each, {}), each in accepted)
        for each in sorted(whole.keys() | refused.keys() | accepted)
    ]


def _answer(original: str, whole: tuple[str | None, str], refused: dict[str, str], accepted: bool) -> Answer:
    status, reason = whole
    if status == "RJCT":
        return Answer(original, "rejected", reason or "RJCT", {})
    # A status such as PDNG or RCVD is no verdict yet: the next report brings it.
    taken = status in _ACCEPTED or (status is None and (accepted or bool(refused)))
    return Answer(original, "accepted" if taken else None, status or "by payment", refused)


def _reason(reasons: Sequence[StatusReason]) -> str:
    words = [each.reason.word for each in reasons if each.reason is not None]
    return " ".join(word for word in words if word) or "no reason given"


def _returned(
    transfers: Sequence[ReturnedTransfer], day: dt.date | None
) -> Iterator[tuple[str, tuple[int, str, str, dt.date | None]]]:
    for each in transfers:
        if each.uetr is None:
            raise FinFlowError("answer_malformed", "a returned payment has no UETR", "OrgnlUETR")
        amount = each.amount
        yield each.uetr, (amount.minor, amount.currency, _reason(each.reasons), each.settlement_date or day)
