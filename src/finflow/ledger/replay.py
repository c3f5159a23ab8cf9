"""Whether a request is the one that the journal already answered under its key. Pure.

Amounts are compared as amounts, so "12.5" repeats "12.50"; everything else is compared as sent.
"""

from msgspec.structs import replace

from finflow.ledger.book import Record
from finflow.ledger.commands import EntryLine, PostPending, PostTransaction, Request


def answer(known: Record, request: Request) -> Record:
    """The stored answer again, or a refusal that is not journaled: the key belongs to another request."""
    if same_request(known, request):
        return replace(known, replayed=True)
    return unjournaled(request, "idempotency_conflict")


def unjournaled(request: Request, code: str) -> Record:
    """A refusal that takes no place in the journal, because its key has or will have one."""
    return Record(0, 0, "post", request.key, request.caller, request.command, code=code)


def same_request(known: Record, request: Request) -> bool:
    """Whether a request repeats the one answered; a refused one is compared as it was sent."""
    stored, sent = known.command, request.command
    if type(stored) is not type(sent) or known.code is not None:
        return stored == sent
    if isinstance(stored, PostTransaction) and isinstance(sent, PostTransaction):
        pairs = zip(stored.entries, sent.entries, strict=False)
        same_lines = len(stored.entries) == len(sent.entries) and all(_same_line(*pair) for pair in pairs)
        return same_lines and replace(stored, entries=[]) == replace(sent, entries=[])
    if isinstance(stored, PostPending) and isinstance(sent, PostPending) and stored.amount and sent.amount:
        same_rest = replace(stored, amount=None) == replace(sent, amount=None)
        return same_rest and _same_amount(stored.amount, sent.amount)
    return stored == sent


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
