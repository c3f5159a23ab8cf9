"""A process that posts under load until it is killed, and writes down what it sent and what it was told.

Called as `teller.py NOTES PREFIX LEDGER_ID URL ACCOUNT...`. NOTES gets one line before a command is sent
(`S key`) and one when its answer is there (`A key seq code replayed`), each in one write before anything
else happens, so that whoever reads NOTES after a kill -9 knows what is acknowledged and what is unknown.
`E key error` is an answer that must not be. It ends by itself on SIGTERM, answering what it sent.
"""

import asyncio
import os
import signal
import sys
import zlib

import asyncpg

from finflow.db.pool import open_pool
from finflow.db.readers import Readers, open_readers
from finflow.kernel.errors import FinFlowError
from finflow.ledger.book import Record
from finflow.ledger.commands import EntryLine, PostTransaction, Request
from finflow.ledger.service import LedgerService
from finflow.ledger.tenant import TenantLedgers

TASKS = 6


def command_of(key: str, accounts: list[str]) -> PostTransaction:
    """The one command of a key, so that anybody can send it again; one in eight is refused."""
    number = zlib.crc32(key.encode())
    source, to = (
        accounts[number % len(accounts)],
        accounts[(number + 1 + number // 64 % (len(accounts) - 1)) % len(accounts)],
    )
    amount = f"{number % 9973 + 1}.{number % 100:02}" if number % 8 else "0.00"
    return PostTransaction(
        [EntryLine(source, "credit", amount, "SGD"), EntryLine(to, "debit", amount, "SGD")]
    )


class Teller:
    def __init__(self, notes: int, service: TenantLedgers, ledger_id: str, accounts: list[str]) -> None:
        self.notes = notes
        self.service = service
        self.ledger_id = ledger_id
        self.accounts = accounts
        self.ending = asyncio.Event()

    def note(self, *words: object) -> None:
        os.write(self.notes, (" ".join(map(str, words)) + "\n").encode())

    async def work(self, prefix: str, size: int) -> None:
        number = 0
        while not self.ending.is_set():
            keys = [f"{prefix}-{number + i}" for i in range(size)]
            number += size
            os.write(self.notes, "".join(f"S {key}\n" for key in keys).encode())
            for record in await self.send(
                [Request(key, command_of(key, self.accounts), "teller") for key in keys]
            ):
                self.note("A", record.key, record.seq, record.code, int(record.replayed))

    async def send(self, requests: list[Request]) -> list[Record]:
        """Sends the same requests until their outcome is known, as the errors' hints say."""
        while True:
            try:
                return await self.service.submit(self.ledger_id, requests)
            except FinFlowError as error:
                if not error.kind.retryable:
                    self.note("E", requests[0].key, repr(error))
                    raise
            await asyncio.sleep(0.02)


async def open_patiently(url: str, max_size: int = 4) -> "tuple[asyncpg.Pool[asyncpg.Record], Readers]":
    """The server may be down just when a teller starts."""
    while True:
        try:
            pool = await open_pool(url, max_size=max_size, application_name="teller")
            return pool, await open_readers(url, max_size=2, application_name="teller")
        except FinFlowError as error:
            if not error.kind.retryable:
                raise
        await asyncio.sleep(0.05)


async def tenant_of(service: LedgerService, ledger_id: str) -> str:
    """Whose ledger it is; the server may be killed while we ask."""
    while True:
        try:
            return (await service.ledger(ledger_id)).tenant_id
        except FinFlowError as error:
            if not error.kind.retryable:
                raise
        await asyncio.sleep(0.02)


async def main(notes: str, prefix: str, ledger_id: str, url: str, *accounts: str) -> None:
    pool, readers = await open_patiently(url)
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    service = LedgerService(pool, readers)
    tenant = service.of(await tenant_of(service, ledger_id))
    teller = Teller(file, tenant, ledger_id, list(accounts))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, teller.ending.set)
    await asyncio.gather(*(teller.work(f"{prefix}.{task}", 1 if task else 40) for task in range(TASKS)))
    await service.close()
    await readers.close()
    await pool.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
