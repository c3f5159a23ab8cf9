"""Whether a request is the one that the journal already answered under its key. Pure.

Amounts are compared as amounts, so "12.5" repeats "12.50"; everything else is compared as sent.
"""

import msgspec

from finflow.ledger.book import Record
from finflow.ledger.commands import EntryLine, PostTransaction, Request


def answer(known: Record, request: Request) -> Record:
    """The stored answer again, or a refusal that is not journaled: the key belongs to another request."""
    if same_request(known, request):
        return msgspec.structs.replace(known, replayed=True)
    return unjournaled(request, "idempotency_conflict")


def unjournaled(request: Request, code: str) -> Record:
    """A refusal that takes no place in the journal, because its key has or will have one."""
    return Record(0, 0, "post", request.key, request.caller, request.command, code=code)


def same_request(known: Record, request: Request) -> bool:
    stored, sent = known.command, request.command
    if (
        known.code is not None
        or not isinstance(stored, PostTransaction)
        or not isinstance(sent, PostTransaction)
    ):
        return stored == sent
    same_rest = msgspec.structs.replace(stored, entries=[]) == msgspec.structs.replace(sent, entries=[])
    pairs = zip(stored.entries, sent.entries, strict=False)
    return same_rest and len(stored.entries) == len(sent.entries) and all(_same_line(*pair) for pair in pairs)


def _same_line(stored: EntryLine, sent: EntryLine) -> bool:
    whole = (stored.account_id, stored.direction, stored.currency)
    return whole == (sent.account_id, sent.direction, sent.currency) and _same_amount(
        stored.amount, sent.amount
    )


def _same_amount(stored: str, sent: str) -> bool:
    return _plain(stored) == _plain(sent)


def _plain(amount: str) -> tuple[str, str]:
    """An amount without the zeros that change nothing: "05.00" and "5" are the same."""
    whole, _, fraction = amount.partition(".")
    return whole.lstrip("0"), fraction.rstrip("0")
