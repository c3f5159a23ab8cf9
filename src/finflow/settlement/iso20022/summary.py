"""What a message of any size holds, in a few lines: read as a stream, so that only totals stay in memory."""

from collections.abc import Iterator
from decimal import Decimal
from itertools import chain
from typing import Any, BinaryIO, Final, cast

import msgspec

from finflow.settlement.iso20022 import messages, rules, schemas, streams, xml
from finflow.settlement.iso20022.part import Amount, Part
from finflow.settlement.iso20022.statements import Entry
from finflow.settlement.iso20022.streams import Closed, Event, Opened
from finflow.settlement.iso20022.transfers import OrderedTransfer

_PROBE_BYTES: Final = 4 << 10


class CurrencySum(msgspec.Struct, frozen=True):
    """The transactions of one currency; what a bank reports is summed by direction, credits positive."""

    currency: str
    count: int
    amount: Decimal


class Summary(msgspec.Struct, frozen=True):
    """A message that was checked whole. `validated_by` says whether a schema or the declared rules did it.

    `kept` counts the elements that are not understood and are carried along word for word.
    """

    message: str
    message_id: str
    created_at: str
    transactions: int
    kept: int
    validated_by: str
    totals: tuple[CurrencySum, ...]


def summarise(file: BinaryIO) -> Summary:
    """Check a message and say what it holds. A message in an envelope is read whole, any other as a stream.

    Raises everything that reading raises, and message_inconsistent and amount_not_positive.
    """
    opened: Opened | None = None
    sums: dict[str, tuple[int, Decimal]] = {}
    transactions = kept = 0
    for event in rules.checked(events_in(file)):
        if isinstance(event, Closed):
            kept += len(event.kept)
            continue
        kept += _kept_in(event.part if isinstance(event, Opened) else event)
        if isinstance(event, Opened):
            opened = opened or event
            continue
        transactions += 1
        amount = _amount_of(event)
        if amount is not None:
            currency, value = amount
            count, total = sums.get(currency, (0, Decimal(0)))
            sums[currency] = count + 1, rules.EXACT.add(total, value)
    assert opened is not None, "a stream that ends without an error has opened its message"
    header: Any = opened.part
    totals = tuple(CurrencySum(currency, *each) for currency, each in sorted(sums.items()))
    by = "schema" if schemas.schema_of(opened.name) is not None else "declared rules"
    return Summary(
        opened.name, header.header.message_id, header.header.created_at, transactions, kept, by, totals
    )


def events_in(file: BinaryIO) -> Iterator[Event]:
    """The events of a message in a file, in an envelope or not. Raises what reading raises."""
    first = file.read(_PROBE_BYTES)
    head = first.removeprefix(b"\xef\xbb\xbf")
    if head[xml.body_start(head) :].lstrip().startswith(b"<Document"):
        return streams.read_stream(cast("BinaryIO", _Rewound(first, file)))
    rest = file.read(xml.MAX_MESSAGE_BYTES + 1 - len(first))
    return streams.events_of(messages.read(first + rest))


class _Rewound:
    """A file whose first bytes were read and are given once more."""

    def __init__(self, first: bytes, file: BinaryIO) -> None:
        self._chunks = chain([first])
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return next(self._chunks, b"") or self._file.read(size)


def _amount_of(unit: Part) -> tuple[str, Decimal] | None:
    found: Amount | None = getattr(unit, "amount", None)
    if isinstance(unit, OrderedTransfer):
        found = unit.amount.instructed
    if found is None:
        return None
    debit = isinstance(unit, Entry) and unit.direction == "DBIT"
    return found.currency, -found.value if debit else found.value


def _kept_in(part: Part) -> int:
    """How many elements a part and those below it keep."""
    count = len(part.kept)
    for name in part.__struct_fields__:
        value = getattr(part, name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Part):
                count += _kept_in(each)
    return count
