"""The shell of the ledger: one door for commands, one for reads. Owns the writers, one per ledger."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import asyncpg
import msgspec

from finflow.db.pool import acquired
from finflow.kernel import ids
from finflow.kernel.clock import Clock, system_clock, to_micros
from finflow.kernel.errors import FinFlowError
from finflow.ledger import directory, lists, queries, store, views
from finflow.ledger.book import Account, Record
from finflow.ledger.commands import ExpirePending, Request
from finflow.ledger.lists import Page, Span, TransactionFilter
from finflow.ledger.writer import LedgerWriter

log = logging.getLogger(__name__)

MAX_NAME: Final = 200
MAX_LABELS: Final = 100_000
MAX_PAGE: Final = 1_000
SWEEP_EVERY_S: Final = 1.0
SWEEP_BATCH: Final = 1_000
# Clocks of several machines differ: a sweep looks a day back again, which the index makes cheap.
SWEEP_OVERLAP_US: Final = 86_400_000_000


class LedgerService:
    """Everything that can be done with ledgers. Ids in and views out, except on the batch path.

    Unknown ids raise resource_unknown, ledger_unknown or tenant_unknown; refused commands are records
    with a code, not exceptions; see LedgerWriter.submit for what the database can do.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", clock: Clock = system_clock) -> None:
        self._pool = pool
        self._clock = clock
        self._writers: dict[int, LedgerWriter] = {}
        # A ledger's row never changes, nor does what a label holds: caches that cannot be stale.
        self._by_number: dict[int, views.LedgerView] = {}
        self._numbers: dict[str, int] = {}
        self._labels: dict[ids.Locator, views.Label] = {}
        # Up to when holds that timed out are known to be released, in microseconds: per ledger, and in all.
        self._swept: dict[int, int] = {}
        self._swept_all = 0

    # --- tenants and ledgers ---

    async def create_tenant(self, name: str) -> views.TenantView:
        _check_name(name)
        async with acquired(self._pool) as connection:
            return await directory.add_tenant(connection, name, self._clock())

    async def create_ledger(self, tenant_id: str, name: str) -> views.LedgerView:
        _check_name(name)
        async with acquired(self._pool) as connection, connection.transaction():
            return await directory.add_ledger(connection, tenant_id, name, self._clock())

    async def tenants(self, span: Span) -> Page[views.TenantView]:
        """A page of tenants in the order of their making."""
        async with acquired(self._pool) as connection:
            return await directory.read_tenants(connection, span)

    async def tenant(self, tenant_id: str) -> views.TenantView:
        """One tenant. Raises tenant_unknown."""
        async with acquired(self._pool) as connection:
            return await directory.read_tenant(connection, tenant_id)

    async def ledger_page(self, span: Span) -> Page[views.LedgerView]:
        """A page of ledgers in the order of their opening."""
        async with acquired(self._pool) as connection:
            return await directory.read_ledger_page(connection, span)

    async def ledgers(self) -> list[views.LedgerView]:
        async with acquired(self._pool) as connection:
            return await directory.read_ledgers(connection)

    async def ledger(self, ledger_id: str) -> views.LedgerView:
        """One ledger. Raises ledger_unknown."""
        known = await self._ledger_of(_locate("led", ledger_id, "ledger_unknown").ledger_no)
        if known.ledger_id != ledger_id:
            raise FinFlowError("ledger_unknown", f"no ledger {ledger_id}")
        return known

    async def ledger_holding(self, prefix: str, resource_id: str) -> views.LedgerView:
        """The ledger that an `acc` or `txn` id points into. Raises resource_unknown."""
        try:
            return await self._ledger_of(_locate(prefix, resource_id, "resource_unknown").ledger_no)
        except FinFlowError as error:
            if error.kind.code != "ledger_unknown":
                raise
            raise FinFlowError("resource_unknown", f"no resource {resource_id}") from error

    # --- commands ---

    async def submit(self, ledger_id: str, requests: list[Request], atomic: bool = False) -> list[Record]:
        """Decide requests in order and make them durable; one record each. `atomic`: all or nothing."""
        ledger_no = await self._ledger_no(ledger_id)
        writer = self._writers.get(ledger_no)
        if writer is None:
            writer = self._writers[ledger_no] = LedgerWriter(self._pool, ledger_no, self._clock)
        return await writer.submit(requests, atomic)

    async def show(self, ledger_id: str, record: Record) -> views.TransactionView:
        """An accepted transaction record as it was booked: the same answer, first time and replayed."""
        ledger_no = await self._ledger_no(ledger_id)
        labels = await self._labels_of(ledger_no, [record])
        target = None
        # A negative target is a quote, which is no transaction.
        if record.target is not None and record.target > 0:
            async with acquired(self._pool) as connection:
                [target] = await store.find_by_seq(connection, ledger_no, [record.target])
        return views.show_transaction(record, ledger_no, ledger_id, labels, target)

    async def expire_due(self, ledger_id: str) -> int:
        """Release the holds of one ledger whose time is over; how many were. Safe from several processes."""
        ledger_no = _locate("led", ledger_id, "ledger_unknown").ledger_no
        since, now = self._swept.get(ledger_no, 0), self._clock()
        async with acquired(self._pool) as connection:
            due = await queries.read_expiring(connection, ledger_no, since, now, SWEEP_BATCH)
        requests = [_expiry(ledger_no, row, now) for row in due]
        records = await self.submit(ledger_id, requests) if requests else []
        if len(due) < SWEEP_BATCH:
            self._swept[ledger_no] = max(since, now - SWEEP_OVERLAP_US)
        return sum(record.code is None for record in records)

    async def sweep(self) -> None:
        """Release expired holds of all ledgers, once a second, until cancelled."""
        while True:
            try:
                for ledger in await self._due_ledgers():
                    await self.expire_due(ledger.ledger_id)
            except FinFlowError as error:
                log.warning("sweep of expired holds failed", extra={"error": repr(error)})
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _due_ledgers(self) -> list[views.LedgerView]:
        since, now = self._swept_all, self._clock()
        async with acquired(self._pool) as connection:
            due = await queries.read_due_ledgers(connection, since, now)
        if not due:
            self._swept_all = max(since, now - SWEEP_OVERLAP_US)
        return due

    async def close(self) -> None:
        """Write what is queued, then stop."""
        await asyncio.gather(*(writer.close() for writer in self._writers.values()))

    # --- reads ---

    async def account(self, account_id: str) -> Account:
        """An account with its newest totals."""
        account, _ = await self._read_account(account_id, queries.read_account)
        return account

    async def accounts(self, ledger_id: str, span: Span) -> Page[Account]:
        """A page of accounts in the order of their opening."""
        ledger_no = await self._ledger_no(ledger_id)
        async with acquired(self._pool) as connection:
            return await queries.read_accounts(connection, ledger_no, span)

    async def accounts_by_reference(self, ledger_id: str, external_reference: str) -> list[Account]:
        """The account with this external reference, or none."""
        ledger_no = await self._ledger_no(ledger_id)
        async with acquired(self._pool) as connection:
            return await queries.read_account_by_reference(connection, ledger_no, external_reference)

    async def balance(
        self,
        account_id: str,
        at_seq: int | None = None,
        as_of: int | None = None,
        effective_at: int | None = None,
    ) -> views.BalanceView:
        """Totals now, after `at_seq`, as booked by `as_of`, or by value date `effective_at` (µs)."""
        read = queries.read_account
        if at_seq is not None:
            read = partial(queries.read_account_at_seq, seq=at_seq)
        elif as_of is not None:
            read = partial(queries.read_account_at_time, at=as_of)
        elif effective_at is not None:
            read = partial(queries.read_account_at_value_date, at=effective_at)
        return views.show_balance(*await self._read_account(account_id, read))

    async def _read_account(self, account_id: str, read: "ReadAccount") -> tuple[Account, int]:
        place = _locate("acc", account_id, "resource_unknown")
        async with acquired(self._pool) as connection:
            found = await read(connection, place.ledger_no, place.number)
        if found is None or found[0].account_id != account_id:
            raise FinFlowError("resource_unknown", f"no account {account_id}")
        return found

    async def entries(self, account_id: str, span: Span) -> Page[views.EntryView]:
        """A page of an account's entries by version."""
        label, place = await self._label(account_id), _locate("acc", account_id, "resource_unknown")
        async with acquired(self._pool) as connection:
            rows, after = await queries.read_entries(connection, *place, span)
        return Page(
            [views.show_entry(entry, kind, at, place.ledger_no, label) for entry, kind, at in rows], after
        )

    async def holds(self, account_id: str, span: Span) -> Page[views.HoldView]:
        """A page of the amounts held on an account, by version."""
        label, place = await self._label(account_id), _locate("acc", account_id, "resource_unknown")
        async with acquired(self._pool) as connection:
            rows, after = await lists.read_holds(connection, *place, span)
        return Page([views.show_hold(entry, row, place.ledger_no, label) for entry, row in rows], after)

    async def changes(self, ledger_id: str, span: Span) -> Page[views.ChangeView]:
        """A page of what was asked of a ledger's accounts and assets, refusals included."""
        ledger_no = await self._ledger_no(ledger_id)
        async with acquired(self._pool) as connection:
            records, after = await lists.read_changes(connection, ledger_no, span)
        return Page([views.show_change(record) for record in records], after)

    async def transaction(self, transaction_id: str) -> views.TransactionView:
        """A transaction with what became of it since."""
        place = _locate("txn", transaction_id, "resource_unknown")
        async with acquired(self._pool) as connection:
            found = await queries.read_with_relatives(
                connection, place.ledger_no, [place.number], [place.number]
            )
        record = next((r for r in found if r.seq == place.number), None)
        if record is None or not record.entries or record.transaction_id(place.ledger_no) != transaction_id:
            raise FinFlowError("resource_unknown", f"no transaction {transaction_id}")
        return (await self._show_all(place.ledger_no, [record]))[0]

    async def transactions(
        self, ledger_id: str, wanted: TransactionFilter, span: Span, account_id: str | None = None
    ) -> Page[views.TransactionView]:
        """A page of accepted transactions, with what became of them since."""
        ledger_no = await self._ledger_no(ledger_id)
        if account_id is not None:
            await self._label(account_id)
            place = _locate("acc", account_id, "resource_unknown")
            if place.ledger_no != ledger_no:
                raise FinFlowError("resource_unknown", f"no account {account_id} on this ledger")
            wanted = msgspec.structs.replace(wanted, account_no=place.number)
        async with acquired(self._pool) as connection:
            records, after = await lists.read_transactions(connection, ledger_no, wanted, span)
        return Page(await self._show_all(ledger_no, records), after)

    async def journal(self, ledger_id: str, after_seq: int, limit: int) -> list[Record]:
        """The journal from a cursor on, refusals included."""
        ledger_no = await self._ledger_no(ledger_id)
        async with acquired(self._pool) as connection:
            return await queries.read_journal(connection, ledger_no, after_seq, min(limit, MAX_PAGE))

    async def trial_balance(self, ledger_id: str) -> views.TrialBalanceView:
        """Debits and credits of every currency, in one snapshot."""
        ledger_no = await self._ledger_no(ledger_id)
        async with acquired(self._pool) as connection:
            rows = await queries.read_trial_balance(connection, ledger_no)
        return views.show_trial_balance(ledger_id, rows)

    # --- what views need ---

    async def _show_all(self, ledger_no: int, records: Sequence[Record]) -> list[views.TransactionView]:
        labels = await self._labels_of(ledger_no, records)
        named = sorted({record.target for record in records if record.target is not None})
        seqs = [record.seq for record in records]
        async with acquired(self._pool) as connection:
            relatives = await queries.read_with_relatives(connection, ledger_no, named, seqs)
        targets = {record.seq: record for record in relatives}
        resolutions = {record.target: record for record in relatives if record.target in seqs}
        ledger = await self._ledger_of(ledger_no)
        return [
            views.show_transaction(
                record,
                ledger_no,
                ledger.ledger_id,
                labels,
                targets.get(record.target or 0),
                resolutions.get(record.seq),
            )
            for record in records
        ]

    async def _ledger_no(self, ledger_id: str) -> int:
        number = self._numbers.get(ledger_id)
        if number is None:
            await self.ledger(ledger_id)
            number = self._numbers[ledger_id] = _locate("led", ledger_id, "ledger_unknown").ledger_no
        return number

    async def _ledger_of(self, ledger_no: int) -> views.LedgerView:
        known = self._by_number.get(ledger_no)
        if known is None:
            async with acquired(self._pool) as connection:
                known = await directory.read_ledger(connection, ledger_no)
            if known is None:
                raise FinFlowError("ledger_unknown", f"no ledger number {ledger_no}")
            self._by_number[ledger_no] = known
        return known

    async def _label(self, account_id: str) -> views.Label:
        place = _locate("acc", account_id, "resource_unknown")
        known = self._labels.get(place)
        if known is None or known.account_id != account_id:
            known = self._remember(place, await self.account(account_id))
        return known

    async def _labels_of(self, ledger_no: int, records: Sequence[Record]) -> dict[int, views.Label]:
        numbers = {entry.account_no for record in records for entry in record.entries}
        found = {no: label for no in numbers if (label := self._known_label(ledger_no, no)) is not None}
        missing = [no for no in numbers if no not in found]
        if missing:
            async with acquired(self._pool) as connection:
                for account in await store.find_accounts(connection, ledger_no, missing):
                    place = ids.Locator(ledger_no, account.account_no)
                    found[account.account_no] = self._remember(place, account)
        return found

    def _known_label(self, ledger_no: int, account_no: int) -> views.Label | None:
        place = ids.Locator(ledger_no, account_no)
        known, writer = self._labels.get(place), self._writers.get(ledger_no)
        if known is None and writer is not None:
            # Whoever just posted on an account has it in the writer's book: no need to ask the database.
            account = writer.account(account_no)
            known = None if account is None else self._remember(place, account)
        return known

    def _remember(self, place: ids.Locator, account: Account) -> views.Label:
        if len(self._labels) > MAX_LABELS:
            self._labels.clear()
        label = self._labels[place] = views.label_of(account)
        return label


ReadAccount = Callable[[store.Connection, int, int], Awaitable[tuple[Account, int] | None]]


def _locate(prefix: str, text: str, code: str) -> ids.Locator:
    locator = ids.parse(prefix, text)
    if locator is None:
        raise FinFlowError(code, f"{text[:40]!r} is not an id of this kind")
    return locator


def _transaction_id(ledger_no: int, row: Any) -> str:
    return ids.mint("txn", to_micros(row["recorded_at"]), ledger_no, row["seq"])


def _expiry(ledger_no: int, row: Any, now: int) -> Request:
    # No client can send this key: the API takes printable ASCII only. The second in it lets several
    # processes share an attempt, and a later one try again.
    key = f"§expire:{row['seq']}:{now // 1_000_000}"
    return Request(key, ExpirePending(_transaction_id(ledger_no, row)), "finflow:sweeper")


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME or "\0" in name:
        raise FinFlowError("request_malformed", f"A name has 1 to {MAX_NAME} characters.", "name")
