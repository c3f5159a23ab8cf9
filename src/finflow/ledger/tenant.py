"""The ledgers of one tenant: one door for commands, one for reads. Nothing here sees another tenant's.

A ledger that belongs to somebody else is looked up, not found, and answered like one that was never opened:
with the same code and the same words, after the same statements.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from finflow.db.pool import acquired
from finflow.db.readers import Readers
from finflow.kernel import ids
from finflow.kernel.clock import Clock, to_micros
from finflow.kernel.errors import FinFlowError
from finflow.ledger import directory, lists, queries, store, views
from finflow.ledger.book import Account, Record
from finflow.ledger.commands import ExpirePending, Request
from finflow.ledger.labels import Labels
from finflow.ledger.lists import Page, Span, TransactionFilter
from finflow.ledger.writer import LedgerWriter

if TYPE_CHECKING:
    import asyncpg

MAX_NAME: Final = 200
MAX_KNOWN: Final = 10_000
MAX_PAGE: Final = 1_000
SWEEP_BATCH: Final = 1_000
# Clocks of several machines differ: a sweep looks a day back again, which the index makes cheap.
SWEEP_OVERLAP_US: Final = 86_400_000_000


class Shared:
    """What the tenants of a process share: connections, the ledgers' writers, and bounded memory."""

    def __init__(
        self, pool: "asyncpg.Pool[asyncpg.Record]", readers: Readers, clock: Clock, release: str | None
    ) -> None:
        self.release = release
        self.pool = pool
        self.readers = readers
        self.clock = clock
        self.writers: dict[int, LedgerWriter] = {}
        self.labels = Labels()
        # Up to when holds that timed out are known to be released, in microseconds, per ledger.
        self.swept: dict[int, int] = {}


class TenantLedgers:
    """Everything that can be done with a tenant's ledgers. Ids in and views out, except on the batch path.

    Unknown ids raise resource_unknown, ledger_unknown or tenant_unknown; refused commands are records
    with a code, not exceptions; see LedgerWriter.submit for what the database can do.
    """

    def __init__(self, shared: Shared, tenant_id: str, tenant_no: int) -> None:
        self.tenant_id = tenant_id
        self._shared = shared
        self._tenant_no = tenant_no
        # A ledger's row never changes, nor does whose it is: a cache that cannot be stale.
        self._known: dict[str, int] = {}
        self._by_number: dict[int, views.LedgerView] = {}

    # --- the directory ---

    async def create_ledger(self, name: str) -> views.LedgerView:
        """A new ledger of this tenant. Raises tenant_unknown."""
        check_name(name)
        shared = self._shared
        async with acquired(shared.pool) as connection, connection.transaction():
            made = await directory.add_ledger(connection, self.tenant_id, name, shared.clock())
        self._remember_ledger(made)
        return made

    async def tenants(self, span: Span) -> Page[views.TenantView]:
        """This tenant alone, as the one page of a list."""
        if span.after is not None and span.after >= self._tenant_no:
            return Page([], None)
        try:
            return Page([await self.tenant(self.tenant_id)], None)
        except FinFlowError as error:
            if error.kind.code != "tenant_unknown":
                raise
            return Page([], None)

    async def tenant(self, tenant_id: str) -> views.TenantView:
        """This tenant. Raises tenant_unknown for any other."""
        async with self._shared.readers.entered(self._tenant_no, None) as connection:
            return await directory.read_tenant(connection, tenant_id)

    async def ledger_page(self, span: Span) -> Page[views.LedgerView]:
        """A page of the tenant's ledgers in the order of their opening."""
        async with self._shared.readers.entered(self._tenant_no, None) as connection:
            page = await directory.read_ledger_page(connection, span, self._tenant_no)
        return Page([each for each in page.items if each.tenant_id == self.tenant_id], page.next)

    async def ledger(self, ledger_id: str) -> views.LedgerView:
        """One ledger. Raises ledger_unknown."""
        place = _locate("led", ledger_id, "ledger_unknown")
        known = await self._find(place.ledger_no)
        if known is None or known.ledger_id != ledger_id:
            raise FinFlowError("ledger_unknown", f"no ledger {ledger_id[:40]!r}")
        return known

    async def ledger_holding(self, prefix: str, resource_id: str) -> views.LedgerView:
        """The ledger that an `acc` or `txn` id points into. Raises resource_unknown."""
        return (await self._holder(prefix, resource_id))[1]

    async def _holder(self, prefix: str, resource_id: str) -> tuple[ids.Locator, views.LedgerView]:
        place = _locate(prefix, resource_id, "resource_unknown")
        known = await self._find(place.ledger_no)
        if known is None:
            raise _no_resource(resource_id)
        return place, known

    async def _find(self, ledger_no: int) -> views.LedgerView | None:
        """The tenant's ledger of this number. Those of others take the same way as those of nobody."""
        known = self._by_number.get(ledger_no)
        if known is None:
            async with self._shared.readers.entered(self._tenant_no, None) as connection:
                known = await directory.read_ledger_of(connection, self._tenant_no, ledger_no)
            if known is None or known.tenant_id != self.tenant_id:
                return None
            self._remember_ledger(known)
        return known

    def _remember_ledger(self, ledger: views.LedgerView) -> None:
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
            self._by_number.clear()
        place = ids.parse("led", ledger.ledger_id)
        assert place is not None, "the directory makes ids"
        self._known[ledger.ledger_id] = place.ledger_no
        self._by_number[place.ledger_no] = ledger

    async def _ledger_no(self, ledger_id: str) -> int:
        number = self._known.get(ledger_id)
        if number is None:
            await self.ledger(ledger_id)
            number = self._known[ledger_id]
        return number

    @asynccontextmanager
    async def _entered(self, ledger_no: int) -> AsyncIterator[store.Connection]:
        """A connection that sees one ledger, which must be known to be the tenant's."""
        async with self._shared.readers.entered(self._tenant_no, ledger_no) as connection:
            yield connection

    # --- commands ---

    async def submit(self, ledger_id: str, requests: list[Request], atomic: bool = False) -> list[Record]:
        """Decide requests in order and make them durable; one record each. `atomic`: all or nothing."""
        ledger_no = self._known.get(ledger_id) or await self._ledger_no(ledger_id)
        writers = self._shared.writers
        writer = writers.get(ledger_no)
        if writer is None:
            shared = self._shared
            writer = LedgerWriter(shared.pool, ledger_no, shared.clock, self._tenant_no, shared.release)
            writers[ledger_no] = writer
        return await writer.submit(requests, atomic, self._tenant_no)

    async def show(self, ledger_id: str, record: Record) -> views.TransactionView:
        """An accepted transaction record as it was booked: the same answer, first time and replayed."""
        ledger_no = await self._ledger_no(ledger_id)
        labels = await self._labels_of(ledger_no, [record])
        target = None
        # A negative target is a quote, which is no transaction.
        if record.target is not None and record.target > 0:
            async with self._entered(ledger_no) as connection:
                [target] = await store.find_by_seq(connection, ledger_no, [record.target])
        return views.show_transaction(record, ledger_no, ledger_id, labels, target)

    async def expire_due(self, ledger_id: str) -> int:
        """Release the holds of one ledger whose time is over; how many were. Safe from several processes."""
        ledger_no, swept = await self._ledger_no(ledger_id), self._shared.swept
        since, now = swept.get(ledger_no, 0), self._shared.clock()
        async with self._entered(ledger_no) as connection:
            due = await queries.read_expiring(connection, ledger_no, since, now, SWEEP_BATCH)
        requests = [_expiry(ledger_no, row, now) for row in due]
        records = await self.submit(ledger_id, requests) if requests else []
        if len(due) < SWEEP_BATCH:
            swept[ledger_no] = max(since, now - SWEEP_OVERLAP_US)
        return sum(record.code is None for record in records)

    # --- reads ---

    async def account(self, account_id: str) -> Account:
        """An account with its newest totals."""
        account, _ = await self._read_account(account_id, queries.read_account)
        return account

    async def accounts(self, ledger_id: str, span: Span) -> Page[Account]:
        """A page of accounts in the order of their opening."""
        ledger_no = await self._ledger_no(ledger_id)
        async with self._entered(ledger_no) as connection:
            return await queries.read_accounts(connection, ledger_no, span)

    async def accounts_by_reference(self, ledger_id: str, external_reference: str) -> list[Account]:
        """The account with this external reference, or none."""
        ledger_no = await self._ledger_no(ledger_id)
        async with self._entered(ledger_no) as connection:
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
        place, _ = await self._holder("acc", account_id)
        async with self._entered(place.ledger_no) as connection:
            found = await read(connection, place.ledger_no, place.number)
        if found is None or found[0].account_id != account_id:
            raise _no_resource(account_id)
        return found

    async def entries(self, account_id: str, span: Span) -> Page[views.EntryView]:
        """A page of an account's entries by version."""
        place, label = await self._label(account_id)
        async with self._entered(place.ledger_no) as connection:
            rows, after = await queries.read_entries(connection, *place, span)
        return Page(
            [views.show_entry(entry, kind, at, place.ledger_no, label) for entry, kind, at in rows], after
        )

    async def holds(self, account_id: str, span: Span) -> Page[views.HoldView]:
        """A page of the amounts held on an account, by version."""
        place, label = await self._label(account_id)
        async with self._entered(place.ledger_no) as connection:
            rows, after = await lists.read_holds(connection, *place, span)
        return Page([views.show_hold(entry, row, place.ledger_no, label) for entry, row in rows], after)

    async def changes(self, ledger_id: str, span: Span) -> Page[views.ChangeView]:
        """A page of what was asked of a ledger's accounts and assets, refusals included."""
        ledger_no = await self._ledger_no(ledger_id)
        async with self._entered(ledger_no) as connection:
            records, after = await lists.read_changes(connection, ledger_no, span)
        return Page([views.show_change(record) for record in records], after)

    async def transaction(self, transaction_id: str) -> views.TransactionView:
        """A transaction with what became of it since."""
        place, _ = await self._holder("txn", transaction_id)
        async with self._entered(place.ledger_no) as connection:
            found = await queries.read_with_relatives(
                connection, place.ledger_no, [place.number], [place.number]
            )
        record = next((r for r in found if r.seq == place.number), None)
        if record is None or not record.entries or record.transaction_id(place.ledger_no) != transaction_id:
            raise _no_resource(transaction_id)
        return (await self._show_all(place.ledger_no, [record]))[0]

    async def transactions(
        self, ledger_id: str, wanted: TransactionFilter, span: Span, account_id: str | None = None
    ) -> Page[views.TransactionView]:
        """A page of accepted transactions, with what became of them since."""
        ledger_no = await self._ledger_no(ledger_id)
        if account_id is not None:
            place, _ = await self._label(account_id)
            if place.ledger_no != ledger_no:
                raise _no_resource(account_id)
            wanted = msgspec.structs.replace(wanted, account_no=place.number)
        async with self._entered(ledger_no) as connection:
            records, after = await lists.read_transactions(connection, ledger_no, wanted, span)
        return Page(await self._show_all(ledger_no, records), after)

    async def journal(self, ledger_id: str, after_seq: int, limit: int) -> list[Record]:
        """The journal from a cursor on, refusals included."""
        ledger_no = await self._ledger_no(ledger_id)
        async with self._entered(ledger_no) as connection:
            return await queries.read_journal(connection, ledger_no, after_seq, min(limit, MAX_PAGE))

    async def trial_balance(self, ledger_id: str) -> views.TrialBalanceView:
        """Debits and credits of every currency, in one snapshot."""
        ledger_no = await self._ledger_no(ledger_id)
        async with self._entered(ledger_no) as connection:
            rows = await queries.read_trial_balance(connection, ledger_no)
        return views.show_trial_balance(ledger_id, rows)

    # --- what views need ---

    async def _show_all(self, ledger_no: int, records: Sequence[Record]) -> list[views.TransactionView]:
        labels = await self._labels_of(ledger_no, records)
        named = sorted({record.target for record in records if record.target is not None})
        seqs = [record.seq for record in records]
        async with self._entered(ledger_no) as connection:
            relatives = await queries.read_relatives(connection, ledger_no, named, seqs)
        targets = {record.seq: record for record in relatives}
        resolutions = {record.target: record for record in relatives if record.target in seqs}
        ledger = await self._find(ledger_no)
        assert ledger is not None, "its records were read"
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

    async def _label(self, account_id: str) -> tuple[ids.Locator, views.Label]:
        """Where an account is, and what views show of it. Raises resource_unknown."""
        place, _ = await self._holder("acc", account_id)
        known = self._shared.labels.of(self._tenant_no, place.ledger_no).get(place.number)
        if known is None or known.account_id != account_id:
            known = self._remember(await self.account(account_id))
        return place, known

    async def _labels_of(self, ledger_no: int, records: Sequence[Record]) -> dict[int, views.Label]:
        """Labels of all accounts that these records have entries on, and maybe of more."""
        known = self._shared.labels.of(self._tenant_no, ledger_no)
        # `known` is only asked, never gone through or copied: it may hold a hundred thousand labels.
        numbers = [entry.account_no for record in records for entry in record.entries]
        missing = {account_no for account_no in numbers if account_no not in known}
        if not missing:
            return known
        # Whoever just posted on an account has it in the writer's book: no need to ask the database.
        writer = self._shared.writers.get(ledger_no)
        accounts = [] if writer is None else [writer.account(account_no) for account_no in missing]
        found = {a.account_no: self._remember(a) for a in accounts if a is not None}
        if unread := sorted(missing - found.keys()):
            async with self._entered(ledger_no) as connection:
                for account in await store.find_accounts(connection, ledger_no, unread):
                    found[account.account_no] = self._remember(account)
        return found | {account_no: known[account_no] for account_no in numbers if account_no not in missing}

    def _remember(self, account: Account) -> views.Label:
        return self._shared.labels.remember(self._tenant_no, account)


ReadAccount = Callable[[store.Connection, int, int], Awaitable[tuple[Account, int] | None]]


def _locate(prefix: str, text: str, code: str) -> ids.Locator:
    """Where an id points. What is no id at all may be told apart: that is seen without looking anywhere."""
    place = ids.parse(prefix, text)
    if place is None:
        raise FinFlowError(code, f"{text[:40]!r} is not an id of this kind")
    return place


def _no_resource(resource_id: str) -> FinFlowError:
    """The one answer for an account or transaction that is not there, or is there for somebody else."""
    return FinFlowError("resource_unknown", f"no account or transaction {resource_id[:40]!r}")


def _transaction_id(ledger_no: int, row: Any) -> str:
    return ids.mint("txn", to_micros(row["recorded_at"]), ledger_no, row["seq"])


def _expiry(ledger_no: int, row: Any, now: int) -> Request:
    # No client can send this key: the API takes printable ASCII only. The second in it lets several
    # processes share an attempt, and a later one try again.
    key = f"§expire:{row['seq']}:{now // 1_000_000}"
    return Request(key, ExpirePending(_transaction_id(ledger_no, row)), "finflow:sweeper")


def check_name(name: str) -> None:
    """Raises request_malformed for a name that no tenant and no ledger may have."""
    if not 1 <= len(name) <= MAX_NAME or "\0" in name:
        raise FinFlowError("request_malformed", f"A name has 1 to {MAX_NAME} characters.", "name")
