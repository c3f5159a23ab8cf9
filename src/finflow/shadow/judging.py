"""Deciding live commands once more, one ledger at a time, and judging what came of them.

The book is the ledger's own, and so are the rules: only the booking time is that of the live row, and what
the shadow keeps where the two disagree. It keeps its own entries, which are what should have been booked;
but where the live ledger said no, no money moved and somebody was told so, and the shadow's books say no
too. Accounts are opened as they were opened live, so that later commands find them.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from finflow.kernel import ids
from finflow.ledger import model as rules
from finflow.ledger.book import Account, Book, Record
from finflow.ledger.commands import ChangeAccount, Command, DeclareAsset, OpenAccount, Request
from finflow.ledger.store import target_of
from finflow.shadow.expected import Rebuilt
from finflow.shadow.live import LiveRow
from finflow.shadow.model import (
    EVEN,
    REPEAT_WITHIN_US,
    Compared,
    Difference,
    Known,
    Outcome,
    Side,
    Totals,
    compare,
    fingerprint,
    repeats,
    totals_of,
    words_of,
)

MAX_REMEMBERED: Final = 50_000
_ACCOUNTS: Final = (OpenAccount, ChangeAccount, DeclareAsset)


class Judged(NamedTuple):
    """One row judged: what the shadow's journal gets, the word on it, what the shadow itself made of it."""

    row: LiveRow
    record: Record
    compared: Compared
    shadow: Record
    case_no: int = 0


class Numbers:
    """Numbers of cases: one replayer gives them out, after the last that is kept."""

    def __init__(self, first: int) -> None:
        self._next = first

    def take(self) -> int:
        """A number that nobody has."""
        self._next += 1
        return self._next - 1


class Judge:
    """One ledger's comparer. `known` and `wrong_targets` are what cases before have left."""

    def __init__(self, known: dict[int, Known], wrong_targets: dict[int, int], numbers: Numbers) -> None:
        self.known = known
        self.wrong_targets = wrong_targets
        # Accounts whose distance changed since somebody kept it last.
        self.moved: set[int] = set()
        self._numbers = numbers
        self._recent: OrderedDict[int, list[tuple[int, str]]] = OrderedDict()

    def judge(self, book: Book, rows: Sequence[LiveRow], rebuilt: Rebuilt) -> list[Judged]:
        """Rows that follow each other in the journal; every account that they name is on the book."""
        judged: list[Judged] = []
        start, named = 0, _named(rows)
        while start < len(rows):
            end = _group_end(rows, start)
            if end > start:
                judged += [self._learn(each) for each in _judge_group(book, rows[start:end])]
            else:
                end = start + 1
                judged.append(self._learn(self._judge_one(book, rows[start], rebuilt)))
            start = end
            book.settle()
            last = judged[-1].record
            if last.seq in named and last.code is None and last.entries:
                # Later rows name it, and it is not in the database yet.
                book.targets[last.seq] = target_of(book.ledger_no, last, None)
        return judged

    def _judge_one(self, book: Book, row: LiveRow, rebuilt: Rebuilt) -> Judged:
        live = row.record
        command = rebuilt.commands.get(live.seq, live.command)
        mark, account_no = book.mark(), book.account_no
        shadow = _decide(book, row, command)
        earlier = self._repeated(live)
        if earlier is not None:
            return self._extra(book, mark, row, shadow, earlier)
        if live.entries == shadow.entries:
            # Most commands are done here.
            compared = compare(Side(live, row.words), Side(shadow, words_of(command)), {}, {}, {})
            if compared.outcome is Outcome.MATCH and live.seq not in rebuilt.unfounded:
                return Judged(row, shadow, compared, shadow)
        book.roll_back(mark)
        before = _totals(book, live, shadow)
        book.account_no = account_no
        shadow = _decide(book, row, command)
        sides = Side(live, row.words), Side(shadow, words_of(command))
        compared = compare(*sides, before, self.known, self.wrong_targets)
        if live.seq in rebuilt.unfounded:
            differences = (*compared.differences, rebuilt.unfounded[live.seq])
            compared = replace(compared, outcome=Outcome.MISMATCH, differences=differences, cause=None)
        return _keep(book, mark, row, shadow, compared)

    def _learn(self, judged: Judged) -> Judged:
        """Number a case, and carry what it leaves apart to the rows after it."""
        compared, case_no = judged.compared, 0
        if compared.outcome is not Outcome.MATCH:
            case_no = self._numbers.take()
            self.wrong_targets[judged.row.seq] = case_no
        for account_no, delta in compared.deltas.items():
            before = self.known.get(account_no)
            if before is None and case_no:
                cause = compared.cause or case_no
                self.known[account_no] = Known(delta, cause)
                self.moved.add(account_no)
            elif before is not None and before.delta != delta:
                self.known[account_no] = Known(delta, before.case_no)
                self.moved.add(account_no)
        return judged._replace(case_no=case_no)

    # --- one intent under two keys ---

    def remember(self, record: Record) -> None:
        """A row that stands in the live books, as one that may be repeated."""
        self._repeated(record)

    def _repeated(self, record: Record) -> str | None:
        """The key of an earlier posting that this one repeats."""
        content = fingerprint(record)
        if content is None or record.key.startswith("§"):
            return None
        seen = self._recent.setdefault(hash(content), [])
        seen[:] = [each for each in seen if record.recorded_at - each[0] <= REPEAT_WITHIN_US]
        earlier = next((key for _, key in seen if key != record.key and repeats(record.key, key)), None)
        if len(seen) < 64:
            seen.append((record.recorded_at, record.key))
        while len(self._recent) > MAX_REMEMBERED:
            self._recent.popitem(last=False)
        return earlier

    def _extra(self, book: Book, mark: int, row: LiveRow, shadow: Record, earlier: str) -> Judged:
        book.roll_back(mark)
        live = row.record
        deltas: dict[int, Totals] = {}
        for entry in live.entries:
            account = book.by_number.get(entry.account_no)
            deltas[entry.account_no] = totals_of(entry).minus(EVEN if account is None else totals_of(account))
        differences = (Difference("repeats", live.key, earlier), Difference("entries", len(live.entries), 0))
        kept = replace(shadow, code="idempotency_conflict", entries=(), expires_at=None)
        return Judged(row, kept, Compared(Outcome.EXTRA, differences, deltas), kept)


def _named(rows: Sequence[LiveRow]) -> set[int]:
    """Numbers of the transactions that these rows name."""
    ids_named = (getattr(row.record.command, "transaction_id", "") for row in rows)
    return {place.number for text in ids_named if (place := ids.parse("txn", text)) is not None}


def _decide(book: Book, row: LiveRow, command: Command) -> Record:
    """Decide a live row's command at its own place and time."""
    live = row.record
    book.seq = live.seq - 1
    return rules.decide_one(book, Request(live.key, command, live.caller), live.recorded_at)


def _totals(book: Book, *records: Record) -> dict[int, Totals]:
    """The totals of every account that records have entries on, as the book has them."""
    numbers = {entry.account_no for record in records for entry in record.entries}
    accounts = {no: book.by_number.get(no) for no in numbers}
    return {no: EVEN if account is None else totals_of(account) for no, account in accounts.items()}


def _keep(book: Book, mark: int, row: LiveRow, shadow: Record, compared: Compared) -> Judged:
    """What the shadow's books get of a command that the two may have decided differently."""
    live = row.record
    if live.code is not None and shadow.code is None:
        book.roll_back(mark)
        kept = replace(shadow, code=live.code, param=live.param, entries=(), account=None, expires_at=None)
        return Judged(row, kept, replace(compared, deltas={}), shadow)
    if live.code is None and shadow.code is not None and isinstance(live.command, _ACCOUNTS):
        return Judged(row, _adopt(book, live, shadow), compared, shadow)
    return Judged(row, shadow, compared, shadow)


def _adopt(book: Book, live: Record, shadow: Record) -> Record:
    """An account or asset that the live ledger has, whatever the baseline thinks of it."""
    kept = replace(shadow, code=None, param=None, account=None)
    if isinstance(live.command, DeclareAsset):
        book.assets = {**(book.assets or {}), live.command.code: live.command.exponent}
    elif live.account is not None:
        own = book.by_number.get(live.account.account_no)
        account = replace(live.account, version=0, posted_debits=0, posted_credits=0) if own is None else own
        if own is None:
            account.pending_debits = account.pending_credits = 0
        account.status, account.metadata = live.account.status, live.account.metadata
        account.floor, account.ceiling = live.account.floor, live.account.ceiling
        book.add(account)
        book.account_no = max(book.account_no, account.account_no)
        kept.account = replace(account)
    return kept


# --- groups ------------------------------------------------------------------------------------------


def _group_end(rows: Sequence[LiveRow], start: int) -> int:
    """Where refusals of one moment and caller end; `start` where none of them is a group's."""
    first = rows[start].record
    end, grouped = start, False
    while end < len(rows):
        record = rows[end].record
        if record.code is None or (record.recorded_at, record.caller) != (first.recorded_at, first.caller):
            break
        grouped = grouped or record.code == "group_refused"
        end += 1
    return end if grouped else start


def _judge_group(book: Book, rows: Sequence[LiveRow]) -> list[Judged]:
    """Groups that were refused as a whole: each member on what those before it would have left.

    The journal does not say where one group ends and the next begins, so a member that does not fit is
    decided once more as the first of another group. In the end nothing of them is booked.
    """
    mark, fresh, account_no = book.mark(), True, book.account_no
    judged: list[Judged] = []
    for row in rows:
        shadow = _decide(book, row, row.record.command)
        if not _fits(row.record, shadow) and not fresh:
            book.roll_back(mark)
            shadow = _decide(book, row, row.record.command)
        fresh = False
        judged.append(_judge_member(row, shadow))
    book.roll_back(mark)
    book.account_no = account_no
    book.seq, book.recorded_at = rows[-1].record.seq, rows[-1].record.recorded_at
    if all(row.record.code == "group_refused" for row in rows):
        unfounded = Compared(Outcome.REFUSED_DIFFERENTLY, (Difference("code", "group_refused", None),))
        judged[0] = judged[0]._replace(compared=unfounded)
    return judged


def _fits(live: Record, shadow: Record) -> bool:
    if live.code == "group_refused":
        return shadow.code is None
    return (live.code, live.param) == (shadow.code, shadow.param)


def _judge_member(row: LiveRow, shadow: Record) -> Judged:
    live = row.record
    kept = replace(shadow, code=live.code, param=live.param, entries=(), account=None, expires_at=None)
    if _fits(live, shadow):
        return Judged(row, kept, Compared(Outcome.MATCH), kept)
    differences = (
        Difference("code", live.code, shadow.code), Difference("param", live.param, shadow.param)
    )  # fmt: skip
    return Judged(row, kept, Compared(Outcome.REFUSED_DIFFERENTLY, differences), shadow)


def tally(judged: Sequence[Judged]) -> Counter[Outcome]:
    """How many rows ended how."""
    return Counter(each.compared.outcome for each in judged)


def accounts_named(judged: Judged, book: Book) -> Mapping[int, Account]:
    """The accounts of a row's entries, for people."""
    numbers: set[Any] = {
        e.account_no for record in (judged.row.record, judged.shadow) for e in record.entries
    }
    return {no: book.by_number[no] for no in numbers if no in book.by_number}
