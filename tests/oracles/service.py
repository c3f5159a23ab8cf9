"""A ledger service over a database of one's own, and small words for what tests ask of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import asyncpg

from finflow.db.pool import open_pool
from finflow.ledger import commands as c
from finflow.ledger.book import Record
from finflow.ledger.service import LedgerService


class Clock:
    """A clock that stands still until it is told, in microseconds."""

    def __init__(self, at: int = 1_767_225_600_000_000) -> None:
        self.at = at

    def __call__(self) -> int:
        return self.at


@dataclass
class Desk:
    """One ledger, its service, and keys that never repeat."""

    service: LedgerService
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
    url: str, *, clock: Clock | None = None, max_size: int = 4, name: str = "finflow"
) -> AsyncIterator[Desk]:
    """A tenant, a ledger and a service on a migrated database."""
    pool = await open_pool(url, max_size=max_size, application_name=name)
    clock = clock or Clock()
    service = LedgerService(pool, clock)
    try:
        tenant = await service.create_tenant("test")
        ledger = await service.create_ledger(tenant.tenant_id, "test")
        yield Desk(service, ledger.ledger_id, pool, clock)
    finally:
        await service.close()
        await pool.close()


@asynccontextmanager
async def second_desk(
    url: str, ledger_id: str, prefix: str, clock: Clock | None = None, command_timeout_s: float = 60
) -> AsyncIterator[Desk]:
    """Another process's service on the same ledger, as far as the database can tell."""
    pool = await open_pool(url, max_size=4, command_timeout_s=command_timeout_s)
    service = LedgerService(pool, clock or Clock())
    try:
        yield Desk(service, ledger_id, pool, service._clock, prefix)  # type: ignore[arg-type]
    finally:
        await service.close()
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
