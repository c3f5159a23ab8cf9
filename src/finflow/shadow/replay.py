"""The replayer: reads the live journal by cursor, decides it again on the clone, keeps what differs.

The clone's own heads are the cursor: rows, cases, tallies and distances commit together, so a replayer that
is killed goes on exactly where it was. A batch at a time is in memory. It only ever reads from the live
database, and it only writes to one that is marked as a shadow.
"""

import asyncio
import datetime as dt
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from finflow.db.pool import CONNECT_ERRORS
from finflow.fx.service import FxService
from finflow.kernel.clock import system_clock, to_datetime
from finflow.ledger import save
from finflow.ledger import store as ledger_store
from finflow.ledger.book import Book, Head
from finflow.ledger.commands import ChangeAccount, OpenAccount, Request
from finflow.ledger.copy import read_legs
from finflow.ledger.loader import load, needs
from finflow.ledger.store import Connection
from finflow.shadow import live, store
from finflow.shadow.cases import Allowance, Case, effect, excused
from finflow.shadow.expected import Rebuilder, Rebuilt
from finflow.shadow.judging import Judge, Judged, Numbers, accounts_named
from finflow.shadow.live import LiveBatch, LiveRow
from finflow.shadow.model import EVEN, LATE_AFTER_US, Compared, Difference, Known, Outcome, words_of
from finflow.shadow.quotes import JudgedQuote, Quotes

log = logging.getLogger(__name__)

BATCH: Final = 1_000
MAX_BOOK: Final = 100_000
# A release that is wrong so often is counted on; who wants to know how has enough to read.
MAX_CASES: Final = 10_000
TRY_AGAIN: Final = (
    *CONNECT_ERRORS, asyncpg.InternalClientError, asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError, asyncpg.TransactionRollbackError,
)  # fmt: skip
_REMEMBER: Final = 500
_KINDS_OF_CHANGE: Final = (OpenAccount, ChangeAccount)
_CHANGED: Final = """
select legs, seq from journal
 where ledger_no = $1 and seq > $2 and kind in ('open_account', 'change_account') and code is null
"""


class LedgerReplayer:
    """One ledger: its cursor, its book, and what is known to differ in it."""

    def __init__(
        self, ledger_no: int, base_seq: int, pools: "tuple[Any, Any]", fx: FxService, numbers: Numbers
    ) -> None:
        self.ledger_no = ledger_no
        self.base_seq = base_seq
        self.seq = base_seq
        # Whether the last batch was a whole one, so that there is more to read already.
        self.more = False
        self.fresh_cases: list[Case] = []
        self._live, self._clone = pools
        self._book = Book(ledger_no)
        self._exact = False
        self._judge = Judge({}, {}, numbers)
        self._numbers = numbers
        self._quotes = Quotes(ledger_no)
        self._rebuilder = Rebuilder(*pools, ledger_no, fx)
        # The batch after the one at hand, and the row that it follows.
        self._ahead: tuple[int, asyncio.Task[LiveBatch] | None] = (-1, None)
        # Accounts that were opened or changed, with the row that did it last, not yet compared as they are.
        self._changed: dict[int, int] = {}

    async def resume(self) -> None:
        """Stand where the clone stands, knowing what was known there."""
        await self.close()
        async with self._clone.acquire() as clone:
            head = await ledger_store.lock_head(clone, self.ledger_no)
            assert head is not None, "ledgers are copied before they are replayed"
            self.seq = head.seq
            known = await store.read_apart(clone, self.ledger_no)
            wrong = await store.read_wrong_targets(clone, self.ledger_no)
            self._judge = Judge(known, wrong, self._numbers)
            for row in await clone.fetch(_CHANGED, self.ledger_no, self.base_seq):
                for account_no, _ in read_legs(row["legs"]):
                    self._changed[account_no] = row["seq"]
        async with self._live.acquire() as connection:
            after = max(0, self.seq - _REMEMBER)
            batch = await live.read_batch(connection, self.ledger_no, after, _REMEMBER, False)
        for row in batch.rows:
            if row.seq <= self.seq:
                self._judge.remember(row.record)
        self._exact = False
        self._quotes.forget()

    @property
    def unsettled(self) -> bool:
        """Whether accounts have changed that were not yet compared as they are now."""
        return bool(self._changed)

    async def step(self, upto: int | None, release: bool, allowances: Sequence[Allowance]) -> int:
        """Replay one batch, not beyond `upto`; how many rows it had. `more` says whether others wait."""
        self.more = False
        limit = BATCH if upto is None else min(BATCH, max(0, upto - self.seq))
        if not limit:
            return 0
        batch = await self._next_batch(limit, release)
        rows = [row for row in batch.rows if upto is None or row.seq <= upto]
        if not rows:
            await self._compare_settings(allowances)
            return 0
        try:
            await self.bring_quotes(allowances)
            rebuilt = await self._rebuilder.rebuild(rows)
            cases = await self._replay(rows, rebuilt, allowances)
            self.fresh_cases += [case for case in cases if case.case_no <= MAX_CASES]
        except BaseException:
            # What was learned of this batch is not kept: whoever goes on resumes from what is.
            self._exact = False
            raise
        self.more = batch.full and upto is None
        if not batch.full:
            await self._compare_settings(allowances)
        return len(rows)

    async def _next_batch(self, limit: int, release: bool) -> LiveBatch:
        """What follows the cursor; while it is replayed, what follows it is read."""
        after, reading = self._ahead
        if reading is not None and after == self.seq:
            batch = await reading
        else:
            batch = await self._read(self.seq, limit, release)
        self._ahead = (-1, None)
        if batch.full and limit == BATCH:
            last = batch.rows[-1].seq
            self._ahead = (last, asyncio.create_task(self._read(last, limit, release)))
        return batch

    async def _read(self, after: int, limit: int, release: bool) -> LiveBatch:
        async with self._live.acquire() as connection:
            return await live.read_batch(connection, self.ledger_no, after, limit, release)

    async def close(self) -> None:
        """Give up what is being read ahead."""
        _, reading = self._ahead
        self._ahead = (-1, None)
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    # --- quotes ---

    async def bring_quotes(self, allowances: Sequence[Allowance]) -> None:
        """Compare the quotes that were made since the last time, whether or not they are used."""
        async with self._live.acquire() as connection, self._clone.acquire() as clone, clone.transaction():
            await self._quotes.bring_rates(connection, clone)
            judged = await self._quotes.bring_quotes(connection, clone)
            cases = [self._quote_case(each, allowances) for each in judged]
            wrong = [case for case in cases if case is not None]
            await store.add_cases(clone, wrong)
            outcomes = Counter(Outcome.MATCH if case is None else case.outcome for case in cases)
            await store.count(clone, self.ledger_no, outcomes)
        self.fresh_cases += wrong

    def _quote_case(self, judged: JudgedQuote, allowances: Sequence[Allowance]) -> Case | None:
        if judged.compared.outcome is Outcome.MATCH:
            return None
        outcome, allowance = excused(judged.compared, "quote", "quote", allowances, _today())
        names = (
            "sell_currency",
            "sell_minor",
            "buy_currency",
            "buy_minor",
            "fair_minor",
            "spread_minor",
            "rate",
        )
        return Case(
            self._numbers.take(), self.ledger_no, "quote", judged.row["quote_no"], outcome, "quote", _now(),
            judged.row["created_at"], judged.compared.differences,
            {name: str(judged.row[name]) for name in names} | {"request": judged.row["request"]},
            {name: str(judged.expected[name]) for name in names}, allowance=allowance,
        )  # fmt: skip

    # --- commands ---

    async def _replay(
        self, rows: Sequence[LiveRow], rebuilt: Rebuilt, allowances: Sequence[Allowance]
    ) -> list[Case]:
        async with self._clone.acquire() as clone, clone.transaction():
            head = await ledger_store.lock_head(clone, self.ledger_no)
            assert head is not None, "ledgers are copied before they are replayed"
            if not self._exact or self._book.seq != head.seq or self._too_large():
                self._book.reset(head)
            self.seq = head.seq
            rows = [row for row in rows if row.seq > head.seq]
            await self._load(clone, rows, rebuilt)
            judged = self._judge.judge(self._book, rows, rebuilt)
            cases = self._gaps(head, rows) + self._cases(judged, allowances)
            await self._write(clone, head, judged, cases)
        self._exact, self.seq = True, self._book.seq
        for each in judged:
            if each.record.code is None and isinstance(each.record.command, _KINDS_OF_CHANGE):
                account = each.record.account
                if account is not None:
                    self._changed[account.account_no] = each.row.seq
        return cases

    def _too_large(self) -> bool:
        return len(self._book.accounts) > MAX_BOOK or len(self._book.targets) > MAX_BOOK

    async def _load(self, clone: Connection, rows: Sequence[LiveRow], rebuilt: Rebuilt) -> None:
        book = self._book
        requests = [
            Request(row.record.key, command, row.record.caller)
            for row in rows
            for command in {
                id(c): c for c in (row.record.command, rebuilt.commands.get(row.seq)) if c
            }.values()
        ]
        wanted = needs(book, requests)
        if wanted:
            (await load(clone, self.ledger_no, wanted)).add_to(book)
        # Wherever the live release has booked, whether it was asked to or not.
        booked = {entry.account_no for row in rows for entry in row.record.entries} - book.by_number.keys()
        if booked:
            for account in await ledger_store.find_accounts(clone, self.ledger_no, sorted(booked)):
                book.add(account)

    async def _write(
        self, clone: Connection, head: Head, judged: Sequence[Judged], cases: Sequence[Case]
    ) -> None:
        decided = save.Decided()
        decided.add(self.ledger_no, [each.record for each in judged])
        moved = await save.advance_and_write(clone, self.ledger_no, decided, self._book.head, head.seq)
        assert moved, "the head is locked"
        await store.add_cases(clone, [case for case in cases if case.case_no <= MAX_CASES])
        outcomes = Counter(case.outcome for case in cases)
        outcomes[Outcome.MATCH] += len(judged) - sum(1 for case in cases if case.subject == "command")
        late = _late(judged)
        outcomes[Outcome.MATCH] -= late
        outcomes[Outcome.LATE] += late
        await store.count(clone, self.ledger_no, +outcomes)
        await store.count_releases(clone, _by_release(judged))
        await self._set_apart(clone)

    def _gaps(self, head: Head, rows: Sequence[LiveRow]) -> list[Case]:
        """Numbers of the journal at which there is no row."""
        found, expected = [], head.seq + 1
        for row in rows:
            if row.seq != expected:
                gone = Difference("gap", None, f"{row.seq - expected} rows")
                found.append(
                    self._case(
                        self._numbers.take(), "gap", expected, Outcome.MISSING, row, (gone,), {}, {}, "gap"
                    )
                )
            expected = row.seq + 1
        return found

    def _cases(self, judged: Sequence[Judged], allowances: Sequence[Allowance]) -> list[Case]:
        found, today = [], _today()
        for each in judged:
            compared, live_record = each.compared, each.row.record
            if compared.outcome is Outcome.MATCH:
                continue
            outcome, allowance = excused(compared, "command", live_record.kind, allowances, today)
            accounts = accounts_named(each, self._book)
            sides = (
                effect(live_record, each.row.words, accounts, live_record.key),
                effect(each.shadow, words_of(each.shadow.command), accounts),
            )
            case = self._case(
                each.case_no, "command", each.row.seq, outcome, each.row, compared.differences, *sides,
                live_record.kind, compared.cause, allowance,
            )  # fmt: skip
            found.append(case)
        return found

    def _case(
        self, case_no: int, subject: Any, number: int, outcome: Outcome, row: LiveRow,
        differences: tuple[Difference, ...], live_side: dict[str, Any], shadow_side: dict[str, Any],
        kind: str, cause: int | None = None, allowance: str | None = None,
    ) -> Case:  # fmt: skip
        return Case(
            case_no, self.ledger_no, subject, number, outcome, kind, _now(),
            to_datetime(row.record.recorded_at), differences, live_side, shadow_side, row.release, cause,
            allowance,
        )  # fmt: skip

    async def _set_apart(self, clone: Connection) -> None:
        """Keep how far accounts are apart now."""
        known = self._judge.known
        await store.set_apart(clone, self.ledger_no, {no: known[no] for no in self._judge.moved})
        self._judge.moved.clear()

    # --- what may change of an account ---

    async def _compare_settings(self, allowances: Sequence[Allowance]) -> None:
        """Compare accounts as they are now, where the live ledger stands just where the clone does."""
        if not self._changed:
            return
        numbers = sorted(self._changed)
        async with self._live.acquire() as connection:
            head, mine = await live.read_settings(connection, self.ledger_no, numbers)
        if head != self.seq:
            return
        async with self._clone.acquire() as clone, clone.transaction():
            _, its = await live.read_settings(clone, self.ledger_no, numbers)
            cases = []
            for account_no in numbers:
                one, other = mine.get(account_no, {}), its.get(account_no, {})
                if one != other and account_no not in self._judge.known:
                    cases.append(self._settings_case(account_no, one, other, allowances))
            await store.add_cases(clone, cases)
            await store.count(clone, self.ledger_no, Counter(case.outcome for case in cases))
            apart = {case.live["account_no"]: Known(EVEN, case.case_no) for case in cases}
            await store.set_apart(clone, self.ledger_no, apart)
        self._judge.known |= apart
        self._changed.clear()
        self.fresh_cases += cases

    def _settings_case(
        self, account_no: int, one: dict[str, Any], other: dict[str, Any], allowances: Sequence[Allowance]
    ) -> Case:
        differences = tuple(
            Difference(f"settings.{name}", one.get(name), other.get(name))
            for name in sorted(one.keys() | other.keys())
            if one.get(name) != other.get(name)
        )
        compared = Compared(Outcome.MISMATCH, differences)
        outcome, allowance = excused(compared, "account", "account", allowances, _today())
        return Case(
            self._numbers.take(), self.ledger_no, "account", self._changed[account_no], outcome, "account",
            _now(), _now(), differences, {"account_no": account_no, **one},
            {"account_no": account_no, **other}, allowance=allowance,
        )  # fmt: skip


def _late(judged: Sequence[Judged]) -> int:
    now = system_clock()
    return sum(_is_late(each, now) for each in judged)


def _is_late(judged: Judged, now: int) -> bool:
    return judged.compared.outcome is Outcome.MATCH and now - judged.row.record.recorded_at > LATE_AFTER_US


def _by_release(judged: Sequence[Judged]) -> Counter[str]:
    """How many commands of each release were compared in time, where the journal says whose they are."""
    now = system_clock()
    return Counter(each.row.release for each in judged if each.row.release and not _is_late(each, now))


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _today() -> dt.date:
    return _now().date()
