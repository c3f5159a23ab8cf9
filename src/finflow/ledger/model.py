"""The rules of the ledger: what a command does to a book, or why it does nothing.

`decide` is the only door. The guards stand in the order in which they are checked; PRECEDENCE in
guards.py is that order in one list, tests/unit/test_rules.py holds it, docs/reference/errors.md explains
each code. Where several entries of a transaction break rules, the rule that stands first wins, then the
first entry.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from finflow.kernel import ids, money
from finflow.kernel.clock import to_micros
from finflow.kernel.money import MAX_MINOR
from finflow.ledger.account_rules import change_account, declare_asset, open_account
from finflow.ledger.book import CREDIT, DEBIT, Account, Book, Leg, Record, RecordKind, Refusal, Target
from finflow.ledger.commands import (
    ChangeAccount,
    DeclareAsset,
    EntryLine,
    ExpirePending,
    OpenAccount,
    PostPending,
    PostTransaction,
    QuoteUse,
    Request,
    ReverseTransaction,
    VoidPending,
)
from finflow.ledger.guards import (
    MAX_DESCRIPTION,
    MAX_METADATA,
    MAX_REFERENCE,
    PRECEDENCE,
    RANK,
    amount_refusal,
    long_description,
    longer,
    metadata_length,
    outside,
    outside_calendar,
    unstorable,
    value_date,
)

__all__ = ["MAX_ENTRIES", "PRECEDENCE", "decide", "decide_group", "decide_one"]

MAX_ENTRIES: Final = 1_000
MAX_TIMEOUT_S: Final = 366 * 86_400

Legs = list[Leg]


def decide(book: Book, requests: Iterable[Request], at: int) -> Iterator[Record]:
    """Decide requests in order, each on what those before it left; `at` is the booking time in µs."""
    for request in requests:
        yield decide_one(book, request, at)


def decide_group(book: Book, requests: Iterable[Request], at: int) -> list[Record]:
    """Decide all or nothing: if one is refused, so are the others, with `group_refused`."""
    mark = book.mark()
    records = [decide_one(book, request, at) for request in requests]
    if all(record.code is None for record in records):
        return records
    book.roll_back(mark)
    for record in records:
        record.code = record.code or "group_refused"
        record.entries, record.account, record.expires_at = (), None, None
    return records


def decide_one(book: Book, request: Request, at: int) -> Record:
    """Apply one command to the book, or leave the book as it was and say why. Takes one `seq` either way."""
    book.seq += 1
    book.recorded_at = at
    command = request.command
    kind, decider = _DECIDERS[type(command)]
    record = Record(book.seq, at, kind, request.key, request.caller, command)
    refusal = decider(book, command, record)
    if refusal is not None:
        record.code, record.param = refusal.code, refusal.param
    return record


# --- transactions ----------------------------------------------------------------------------------


def _post(book: Book, command: PostTransaction, record: Record) -> Refusal | None:
    if command.pending:
        record.kind = "hold"
    legs: Legs = []
    quote = None if command.quote is None else _find_quote(book, command.quote, record)
    refusal = (
        _transaction_refusal(command)
        or (quote and _quote_refusal(quote, command.quote, record.recorded_at))
        or _read_lines(book, command, legs)
    )
    if refusal is not None:
        return refusal
    if command.pending and command.timeout_s is not None:
        record.expires_at = record.recorded_at + command.timeout_s * 1_000_000
    effective_at = value_date(command.effective_at, record.recorded_at)
    if quote is not None:
        return _resolve(book, quote, legs, record, effective_at)
    return _book_legs(book, legs, record, effective_at)


def _transaction_refusal(command: PostTransaction) -> Refusal | None:
    if len(command.entries) < 2: return Refusal("too_few_entries", "entries")
    if len(command.entries) > MAX_ENTRIES: return Refusal("too_many_entries", "entries")
    if len(command.description or "") > MAX_DESCRIPTION: return Refusal("field_too_long", "description")
    if len(command.reference or "") > MAX_REFERENCE: return Refusal("field_too_long", "reference")
    if metadata_length(command.metadata) > MAX_METADATA: return Refusal("field_too_long", "metadata")
    if unstorable(command.reference): return Refusal("text_malformed", "reference")
    if outside_calendar(command.effective_at): return Refusal("value_date_out_of_range", "effective_at")
    if outside(command.timeout_s, 1, MAX_TIMEOUT_S): return Refusal("timeout_out_of_range", "timeout_s")
    return None


def _find_quote(book: Book, use: QuoteUse, record: Record) -> Target:
    """What became of a quote: it stands among the targets, and in the journal, under its negative number."""
    record.target = -use.number
    return book.targets[-use.number]


def _quote_refusal(quote: Target, use: QuoteUse | None, at: int) -> Refusal | None:
    if quote.resolved_by is not None: return Refusal("quote_used", "quote_id")
    if use is not None and to_micros(use.expires_at) <= at: return Refusal("quote_expired", "quote_id")
    return None


def _read_lines(book: Book, command: PostTransaction, legs: Legs) -> Refusal | None:
    """Turn lines into legs; entries of each currency must sum to zero."""
    accounts, pending, to_minor = book.accounts, command.pending, money.to_minor
    sums: dict[str, int] = {}
    for line in command.entries:
        account, currency = accounts.get(line.account_id), line.currency
        if account is None or account.status != "open" or account.currency != currency:
            return _first_line_refusal(book, command.entries)
        try:
            amount = to_minor(line.amount, account.exponent)
        except ValueError:
            return _first_line_refusal(book, command.entries)
        if amount <= 0:
            return _first_line_refusal(book, command.entries)
        direction = DEBIT if line.direction == "debit" else CREDIT
        sums[currency] = sums.get(currency, 0) + direction * amount
        legs.append(Leg(account, direction, 0, amount) if pending else Leg(account, direction, amount, 0))
    return Refusal("unbalanced", "entries") if any(sums.values()) else None


def _line_refusal(account: Account | None, line: EntryLine) -> str | None:
    if account is None: return "account_unknown"
    if account.status == "closed": return "account_closed"
    if account.status == "frozen": return "account_frozen"
    if account.currency != line.currency: return "currency_mismatch"
    return None


def _first_line_refusal(book: Book, lines: list[EntryLine]) -> Refusal:
    """The refusal that stands first in PRECEDENCE among all lines; only called when there is one."""
    found = []
    for index, line in enumerate(lines):
        account = book.accounts.get(line.account_id)
        code = _line_refusal(account, line)
        if code is None and account is not None:
            code = amount_refusal(line.amount, account.exponent)
        if code is not None:
            field = "account_id" if code.startswith("account") else "currency"
            param = "amount" if code.startswith("amount") else field
            found.append((RANK[code], index, Refusal(code, f"entries[{index}].{param}")))
    return min(found)[2]


def _book_legs(book: Book, legs: Legs, record: Record, effective_at: int) -> Refusal | None:
    """Apply all legs, then look at the accounts they left; take everything back if a rule is broken."""
    mark, seq = book.mark(), record.seq
    entries = tuple([book.apply(leg, seq, effective_at) for leg in legs])
    for index, leg in enumerate(legs):
        if _balance_refusal(leg.account) is not None:
            refusal = _first_balance_refusal(legs, index)
            book.roll_back(mark)
            return refusal
    record.entries = entries
    return None


def _balance_refusal(account: Account) -> str | None:
    debits, credited = account.posted_debits, account.posted_credits
    holds_debits, holds_credits = account.pending_debits, account.pending_credits
    balance, lowering, raising = debits - credited, holds_credits, holds_debits
    if account.normal == CREDIT:
        balance, lowering, raising = -balance, holds_debits, holds_credits
    floor, ceiling = account.floor, account.ceiling
    # One sum clears nearly every account of all four totals.
    if debits + credited + holds_debits + holds_credits > MAX_MINOR and _beyond_64_bits(account):
        return "balance_out_of_range"
    if floor is not None and balance - lowering < floor: return "exceeds_available"
    if ceiling is not None and balance + raising > ceiling: return "exceeds_limit"
    return None


def _beyond_64_bits(account: Account) -> bool:
    totals = (account.posted_debits, account.posted_credits, account.pending_debits, account.pending_credits)
    return max(totals) > MAX_MINOR


def _first_balance_refusal(legs: Legs, start: int) -> Refusal:
    codes = ((index, _balance_refusal(legs[index].account)) for index in range(start, len(legs)))
    _, index, code = min((RANK[code], index, code) for index, code in codes if code is not None)
    return Refusal(code, f"entries[{index}]")


# --- what becomes of a transaction later -----------------------------------------------------------


def _capture(book: Book, command: PostPending, record: Record) -> Refusal | None:
    target = _find_target(book, command.transaction_id, record)
    refusal = _later_refusal(command) or _pending_refusal(target, record.recorded_at)
    if target is None or refusal is not None:
        return refusal
    if command.amount is not None and len(target.lines) != 2:
        return Refusal("capture_needs_two_entries", "amount")
    legs = [Leg(book.by_number[no], direction, held, -held) for no, direction, held in target.lines]
    refusal = _closed_or_frozen(legs)
    if refusal is None and command.amount is not None:
        refusal = _capture_in_part(command.amount, legs)
    effective_at = value_date(command.effective_at, record.recorded_at)
    return refusal or _resolve(book, target, legs, record, effective_at)


def _later_refusal(command: PostPending | ReverseTransaction) -> Refusal | None:
    if longer(command.description, MAX_DESCRIPTION): return Refusal("field_too_long", "description")
    if outside_calendar(command.effective_at): return Refusal("value_date_out_of_range", "effective_at")
    return None


def _capture_in_part(amount: str, legs: Legs) -> Refusal | None:
    code = amount_refusal(amount, legs[0].account.exponent)
    if code is not None: return Refusal(code, "amount")
    part = money.to_minor(amount, legs[0].account.exponent)
    if part > legs[0].posted: return Refusal("capture_exceeds_pending", "amount")
    legs[:] = [Leg(leg.account, leg.direction, part, leg.held) for leg in legs]
    return None


def _release(book: Book, command: VoidPending, record: Record) -> Refusal | None:
    target = _find_target(book, command.transaction_id, record)
    refusal = long_description(command.description) or _pending_refusal(target, None)
    if target is None or refusal is not None:
        return refusal
    return _resolve(book, target, _releases(book, target), record, record.recorded_at)


def _expire(book: Book, command: ExpirePending, record: Record) -> Refusal | None:
    target = _find_target(book, command.transaction_id, record)
    refusal = _pending_refusal(target, None)
    if target is None or refusal is not None:
        return refusal
    if target.expires_at is None or target.expires_at > record.recorded_at:
        return Refusal("not_expired", "transaction_id")
    return _resolve(book, target, _releases(book, target), record, record.recorded_at)


def _reverse(book: Book, command: ReverseTransaction, record: Record) -> Refusal | None:
    target = _find_target(book, command.transaction_id, record)
    refusal = _later_refusal(command) or _reversal_refusal(target)
    if target is None or refusal is not None:
        return refusal
    legs = [Leg(book.by_number[no], -direction, posted, 0) for no, direction, posted in target.lines]
    effective_at = value_date(command.effective_at, record.recorded_at)
    return _closed_or_frozen(legs) or _resolve(book, target, legs, record, effective_at)


def _find_target(book: Book, transaction_id: str, record: Record) -> Target | None:
    locator = ids.parse("txn", transaction_id)
    target = book.targets.get(locator.number) if locator is not None else None
    # The number alone could be guessed; the whole id was given to somebody.
    if target is None or target.transaction_id != transaction_id:
        return None
    record.target = target.seq
    return target


def _pending_refusal(target: Target | None, at: int | None) -> Refusal | None:
    code = _pending_code(target, at)
    return None if code is None else Refusal(code, "transaction_id")


def _pending_code(target: Target | None, at: int | None) -> str | None:
    if target is None: return "transaction_unknown"
    if target.kind != "hold": return "not_pending"
    if target.resolved_by == "capture": return "already_posted"
    if target.resolved_by == "void": return "already_voided"
    if target.resolved_by == "expire": return "already_expired"
    # Past its timeout a hold is over, whether or not the sweeper has come by yet.
    if at is not None and target.expires_at is not None and target.expires_at <= at: return "already_expired"
    return None


def _reversal_refusal(target: Target | None) -> Refusal | None:
    if target is None: return Refusal("transaction_unknown", "transaction_id")
    if target.kind not in ("post", "capture"): return Refusal("not_reversible", "transaction_id")
    if target.resolved_by is not None: return Refusal("already_reversed", "transaction_id")
    return None


def _releases(book: Book, target: Target) -> Legs:
    # A hold is released even on a frozen account: nothing is taken from anybody by giving back.
    return [Leg(book.by_number[no], direction, 0, -held) for no, direction, held in target.lines]


def _closed_or_frozen(legs: Legs) -> Refusal | None:
    for status in ("closed", "frozen"):
        for index, leg in enumerate(legs):
            if leg.account.status == status:
                return Refusal(f"account_{status}", f"entries[{index}]")
    return None


def _resolve(book: Book, target: Target, legs: Legs, record: Record, effective_at: int) -> Refusal | None:
    refusal = _book_legs(book, legs, record, effective_at)
    if refusal is None:
        target.resolved_by = record.kind
        book.on_roll_back(lambda: setattr(target, "resolved_by", None))
    return refusal


_Decider = Callable[[Book, Any, Record], Refusal | None]
_DECIDERS: Final[dict[type, tuple[RecordKind, _Decider]]] = {
    PostTransaction: ("post", _post),
    PostPending: ("capture", _capture),
    VoidPending: ("void", _release),
    ExpirePending: ("expire", _expire),
    ReverseTransaction: ("reverse", _reverse),
    OpenAccount: ("open_account", open_account),
    ChangeAccount: ("change_account", change_account),
    DeclareAsset: ("declare_asset", declare_asset),
}
