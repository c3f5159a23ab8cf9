"""A process that converts until it is killed or has tried every quote, and writes down what it was told.

Called as `trader.py NOTES NAME LEDGER_ID URL FROM TO QUOTES`. QUOTES is a file with a quote a line, which
several traders want at once, each under keys of its own; between two of them a trader makes a quote of its
own and converts by that. NOTES gets `S key quote` before a conversion is sent, `A key code seq` when its
answer is there, `Q key quote` for a quote that was made, each in one write, so that whoever reads NOTES after
a kill -9 knows what is acknowledged and what is unknown. `E key error` is an answer that must not be.
"""

import asyncio
import os
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from finflow.fx.service import Exchange, FxService, QuoteDraft
from finflow.kernel.errors import FinFlowError
from finflow.ledger.book import Record
from finflow.ledger.commands import Request
from finflow.ledger.service import LedgerService
from finflow.ledger.tenant import TenantLedgers
from oracles.teller import open_patiently, tenant_of

T = TypeVar("T")

TASKS = 4
DRAFT = QuoteDraft("EUR", "USD", "sell", "7.77", "0.0025", 86_400)


class Trader:
    def __init__(self, notes: int, ledger: TenantLedgers, fx: Exchange, ledger_id: str) -> None:
        self.notes = notes
        self.ledger = ledger
        self.fx = fx
        self.ledger_id = ledger_id

    def note(self, *words: object) -> None:
        os.write(self.notes, (" ".join(map(str, words)) + "\n").encode())

    async def convert(self, key: str, quote_id: str, source: str, to: str) -> Record:
        """One conversion, sent again until its outcome is known, as the errors' hints say."""

        async def attempt() -> Record:
            ledger_id, command = await self.fx.conversion(quote_id, source, to)
            [record] = await self.ledger.submit(ledger_id, [Request(key, command, "trader")])
            return record

        self.note("S", key, quote_id)
        record = await self.patiently(key, attempt)
        self.note("A", key, record.code, record.seq)
        return record

    async def quote(self, key: str) -> str:
        async def attempt() -> str:
            view, _ = await self.fx.quote(self.ledger_id, DRAFT, key, "trader")
            return view.quote_id

        quote_id = await self.patiently(key, attempt)
        self.note("Q", key, quote_id)
        return quote_id

    async def patiently(self, key: str, attempt: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await attempt()
            except FinFlowError as error:
                if not error.kind.retryable:
                    self.note("E", key, repr(error))
                    raise
            await asyncio.sleep(0.02)


async def work(trader: Trader, name: str, quotes: list[str], source: str, to: str) -> None:
    for number, quote_id in enumerate(quotes):
        await trader.convert(f"{name}-{number}", quote_id, source, to)
        own = await trader.quote(f"{name}-q{number}")
        await trader.convert(f"{name}-o{number}", own, source, to)


async def main(notes: str, name: str, ledger_id: str, url: str, source: str, to: str, quotes: str) -> None:
    wanted = Path(quotes).read_text().split()
    random.Random(name).shuffle(wanted)  # noqa: S311 - the order of a load, not a secret
    pool, readers = await open_patiently(url)
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    ledger = LedgerService(pool, readers)
    tenant = ledger.of(await tenant_of(ledger, ledger_id))
    trader = Trader(file, tenant, FxService(pool, reading=readers.entered).of(tenant), ledger_id)
    await asyncio.gather(
        *(work(trader, f"{name}.{task}", wanted[task::TASKS], source, to) for task in range(TASKS))
    )
    await ledger.close()
    await readers.close()
    await pool.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
