"""A ledger service over a database of one's own, and small words for what tests ask of it."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import asyncpg

from finflow.db.pool import open_pool
from finflow.db.readers import open_readers
from finflow.kernel.clock import system_clock
from finflow.ledger import commands as c
from finflow.ledger.book import Record
from finflow.ledger.service import LedgerService
from finflow.ledger.tenant import TenantLedgers


class Clock:
    """A clock that stands still until it is told, in microseconds."""

    def __init__(self, at: int = 1_767_225_600_000_000) -> None:
        self.at = at

    def __call__(self) -> int:
        return self.at


@dataclass
class Desk:
    """One ledger, the service of its tenant, the process's, and keys that never repeat."""

    service: TenantLedgers
    ledgers: LedgerService
    ledger_id: str
    pool: "asyncpg.Pool[asyncpg.Record]"
    clock: Clock
    prefix: str = "k"
    numbers: Any = field(default_factory=count)

    def request(self, command: c.Command, key: str | None = None) -> c.Request:
        return c.Request(key or f"{self.prefix}{next(self.numbers)}", command, "test")

    async def do(self, *commands: c.Command, atomic: bool = False) -> list[Record]:
        return await self.service.submit(self.ledger_id, [self.request(each) for each in commands], atomic)

    async def codes(self, *commands: c.Command, atomic: bool = False) -> list[str | None]:
        return [record.code for record in await self.do(*commands, atomic=atomic)]

    async def open(self, count: int = 1, currency: str = "SGD", **changes: Any) -> list[str]:
        """Ids of new accounts: assets without a limit unless told otherwise."""
        opening = c.OpenAccount(currency, **{"kind": "asset", "overdraft_limit": None, **changes})
        records = await self.do(*[opening] * count)
        return [record.account.account_id for record in records if record.account is not None]

    async def rows(self, sql: str, *arguments: Any) -> list[Any]:
        async with self.pool.acquire() as connection:
            return list(await connection.fetch(sql, *arguments))

    async def value(self, sql: str, *arguments: Any) -> Any:
        return (await self.rows(sql, *arguments))[0][0]


def transfer(
    source: str, to: str, amount: str = "1", currency: str = "SGD", **rest: Any
) -> c.PostTransaction:
    """Credit one account, debit the other."""
    entries = [c.EntryLine(source, "credit", amount, currency), c.EntryLine(to, "debit", amount, currency)]
    return c.PostTransaction(entries, **rest)


@asynccontextmanager
async def desk(
    url: str,
    *,
    clock: Clock | None = None,
    max_size: int = 4,
    name: str = "finflow",
    release: str | None = None,
) -> AsyncIterator[Desk]:
    """A tenant, a ledger and a service on a migrated database."""
    async with process(url, clock or Clock(), release=release, max_size=max_size, application_name=name) as (
        ledgers,
        pool,
    ):
        service = ledgers.of((await ledgers.create_tenant("test")).tenant_id)
        ledger = await service.create_ledger("test")
        yield Desk(service, ledgers, ledger.ledger_id, pool, ledgers._clock)  # type: ignore[arg-type]


@asynccontextmanager
async def second_desk(
    url: str,
    ledger_id: str,
    prefix: str,
    clock: Clock | None = None,
    command_timeout_s: float = 60,
    release: str | None = None,
) -> AsyncIterator[Desk]:
    """Another process's service on the same ledger, as far as the database can tell."""
    settings = {"max_size": 4, "command_timeout_s": command_timeout_s, "release": release}
    async with process(url, clock or Clock(), **settings) as (ledgers, pool):
        service = ledgers.of((await ledgers.ledger(ledger_id)).tenant_id)
        yield Desk(service, ledgers, ledger_id, pool, ledgers._clock, prefix)  # type: ignore[arg-type]


@asynccontextmanager
async def process(
    url: str, clock: Callable[[], int] = system_clock, *, release: str | None = None, **settings: Any
) -> "AsyncIterator[tuple[LedgerService, asyncpg.Pool[asyncpg.Record]]]":
    """The ledgers as a process of the interface has them, and the pool that it writes through."""
    pool = await open_pool(url, **settings)
    readers = await open_readers(url, **settings)
    service = LedgerService(pool, readers, clock, release)
    try:
        yield service, pool
    finally:
        await service.close()
        await readers.close()
        await pool.close()


ENTRY_SUMS = """
select a.ledger_no, a.account_no, a.floor, a.normal, e.version, e.amount, e.held,
       e.posted_debits, e.posted_credits, e.pending_debits, e.pending_credits, e.seq
  from entries e join accounts a using (ledger_no, account_no) order by e.ledger_no, e.account_no, e.version
"""


async def audit(rows: Sequence[Any]) -> None:
    """Every account's entries from the first on: versions dense, running totals equal to their sum."""
    totals: dict[object, list[int]] = {}
    versions: dict[object, int] = {}
    for row in rows:
        number = (row["ledger_no"], row["account_no"])
        debits, credited = totals.setdefault(number, [0, 0])
        versions[number] = versions.get(number, 0) + 1
        totals[number] = [debits + max(row["amount"], 0), credited + max(-row["amount"], 0)]
        assert row["version"] == versions[number], f"account {number}: version {row['version']} out of order"
        booked = [row["posted_debits"], row["posted_credits"]]
        assert booked == totals[number], f"account {number} version {row['version']}: {booked}"
