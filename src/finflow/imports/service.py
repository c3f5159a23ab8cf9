"""The import's shell: reads a file, opens accounts, posts batches in order, counts what happened."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Final

from finflow.client.model import BatchResult, Ledger, Leg, NewAccount, NewTransaction
from finflow.client.service import Client
from finflow.imports.mapping import Mapping
from finflow.imports.model import Planned, lines_to_plans
from finflow.imports.report import LineFault, Report
from finflow.imports.rows import MAX_LINE_BYTES, AccountSpec, Fault
from finflow.imports.verification import ExpectedBalances, count_equal
from finflow.kernel import money
from finflow.kernel.errors import FinFlowError

DEFAULT_BATCH: Final = 1000
MAX_BATCH: Final = 10_000
_ACCOUNTS_AT_ONCE = 16


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file of any size; of a line beyond the limit only the beginning, enough to refuse it."""
    while line := file.readline(MAX_LINE_BYTES + 2):
        yield line
        while not line.endswith(b"\n") and (line := file.readline(MAX_LINE_BYTES)):
            pass


class Importer:
    """Imports one file into one ledger. `on_fault` gets bad lines, `on_posted` the size of each batch."""

    def __init__(
        self,
        api: Client,
        ledger_id: str,
        mapping: Mapping,
        *,
        batch_size: int = DEFAULT_BATCH,
        verify: bool = False,
        max_rows: int | None = None,
        on_fault: Callable[[LineFault], None] = lambda fault: None,
        on_posted: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._api = api
        self._ledger_id = ledger_id
        self._mapping = mapping
        self._batch_size = batch_size
        self._verify = verify and mapping.balance is not None
        # Counted in posting order, so that a shortened history ends where its balances still follow.
        self._max_rows = max_rows
        self._on_fault = on_fault
        self._on_posted = on_posted
        self._account_ids: dict[AccountSpec, str] = {}
        self.report = Report()

    async def run(self, lines: Iterable[bytes]) -> Report:
        """Post every line, then check the balances if asked to. Raises FinFlowError when it cannot go on."""
        with ExpectedBalances(self._verify) as expected:
            started_s = time.monotonic()
            await self._post_all(lines, expected)
            report = self.report
            report.seconds = round(time.monotonic() - started_s, 3)
            done = report.posted + report.replayed
            report.transactions_per_s = round(done / report.seconds, 1) if report.seconds else 0.0
            if self._verify:
                report.balances_checked, report.balances_equal = await count_equal(self._api, expected)
        return self.report

    async def _post_all(self, lines: Iterable[bytes], expected: ExpectedBalances) -> None:
        """One batch is on its way while the next is read; never two, since order is history."""
        on_its_way: asyncio.Task[None] | None = None
        try:
            for batch in self._batches(lines):
                if on_its_way is not None:
                    await on_its_way
                on_its_way = asyncio.create_task(self._post(batch, expected))
                # Lets the request leave before the next lines are read.
                await asyncio.sleep(0)
            if on_its_way is not None:
                await on_its_way
        finally:
            if on_its_way is not None and not on_its_way.done():
                # A fault in the file stops the reading; what was sent is still waited for and counted.
                await asyncio.wait([on_its_way])

    def _batches(self, lines: Iterable[bytes]) -> Iterator[list[Planned]]:
        batch: list[Planned] = []
        for item in lines_to_plans(lines, self._mapping):
            if self.report.rows == self._max_rows:
                break
            if isinstance(item, Fault):
                self._count_fault(item)
                continue
            self.report.rows += 1
            if not item.entries:
                self.report.unmoved += 1
                continue
            batch.append(item)
            if len(batch) >= self._batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _count_fault(self, fault: Fault) -> None:
        if fault.kind == "broken":
            self.report.rows += 1
            self.report.broken += 1
        else:
            self.report.unchained += 1
        self._on_fault(LineFault(fault.line, fault.kind, fault.reason))

    async def _post(self, batch: list[Planned], expected: ExpectedBalances) -> None:
        await self._open_accounts(batch)
        members = [self._transaction(planned) for planned in batch]
        results = await self._api.post_batch(self._ledger_id, members)
        for planned, result in zip(batch, results, strict=True):
            self._count(planned, result, expected)
        self._on_posted(len(batch))

    async def _open_accounts(self, batch: list[Planned]) -> None:
        needed = dict.fromkeys(entry.account for planned in batch for entry in planned.entries)
        new = [spec for spec in needed if spec not in self._account_ids]
        for first in range(0, len(new), _ACCOUNTS_AT_ONCE):
            some = new[first : first + _ACCOUNTS_AT_ONCE]
            ids = await asyncio.gather(*(self._open_account(spec) for spec in some))
            self._account_ids.update(zip(some, ids, strict=True))

    async def _open_account(self, spec: AccountSpec) -> str:
        # History has happened: no limit may refuse it, so the overdraft is unlimited.
        new = NewAccount(self._ledger_id, spec.currency, spec.kind, spec.reference, overdraft_limit=None)
        return (await self._api.ensure_account(new)).account_id

    def _transaction(self, planned: Planned) -> NewTransaction:
        row = planned.row
        legs = tuple(
            Leg(
                self._account_ids[entry.account],
                entry.direction,
                money.to_text(entry.amount, row.exponent),
                entry.account.currency,
            )
            for entry in planned.entries
        )
        return NewTransaction(
            row.key, legs, row.description or None, row.reference, row.effective_at, row.metadata
        )

    def _count(self, planned: Planned, result: BatchResult, expected: ExpectedBalances) -> None:
        row, report = planned.row, self.report
        if result.status != 201 or result.transaction_id is None:
            report.refused += 1
            code = result.code or "internal"
            self._on_fault(LineFault(row.line, code, result.detail or code))
            return
        report.replayed += result.replayed
        report.posted += not result.replayed
        report.rounding_legs += planned.rounding != 0
        if row.balance is not None:
            balance = money.to_text(row.balance, row.exponent)
            expected.add(self._account_ids[row.customer], result.transaction_id, balance)


async def ledger_named(api: Client, name: str) -> Ledger | None:
    """The first ledger of this name that the caller may see."""
    return next((ledger for ledger in await api.ledgers() if ledger.name == name), None)


def check_batch_size(size: int) -> int:
    """The size, if the batch route takes it. Raises FinFlowError `batch_too_large` or `batch_empty`."""
    if size > MAX_BATCH:
        raise FinFlowError("batch_too_large", f"a batch of {size}; the most is {MAX_BATCH}")
    if size < 1:
        raise FinFlowError("batch_empty", f"a batch of {size}")
    return size
