"""How fast the ledger posts, beside plain COPY of the same rows into the same tables in the same run.

`python -m bench.ledger [--json] [--keep] [--short]`. Durable: fsync and synchronous_commit on. Two-entry
transactions over 10,000 accounts with limits, each under an idempotency key of its own. Eight clients
post batches of 1,000 at once, so that group commit has something to group; batch 100 and 1 have one client.
Rounds of each kind alternate, and medians are reported, because the machine's speed drifts.
"""

import sys

if not __package__:
    # Run as a file, Python looks into this folder first, where http.py would stand for the library's http.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import asyncio
import gc
import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import uvloop

from bench.ground import RELEASE, durable_database, ledgers, median, report
from finflow.ledger import model, save, store
from finflow.ledger.book import Book, Head
from finflow.ledger.commands import EntryLine, OpenAccount, PostTransaction, Request
from finflow.ledger.service import LedgerService
from finflow.ledger.tenant import TenantLedgers

ACCOUNTS = 10_000
CLIENTS = 8
CURRENCY = "SGD"

Load = Callable[[int], list[Request]]


def open_requests() -> list[Request]:
    return [
        Request(
            f"open-{i}",
            OpenAccount(CURRENCY, "asset" if i % 2 else "liability", "1000000.00", "100000000.00"),
            "bench",
        )
        for i in range(ACCOUNTS)
    ]


def uniform(accounts: list[str], rng: random.Random) -> Load:
    return lambda count: [_transaction(*rng.sample(accounts, 2), rng) for _ in range(count)]


def hot(accounts: list[str], rng: random.Random) -> Load:
    """The first account stands on one side of every transaction, debited and credited in turn."""
    turn = itertools.cycle((True, False))
    others = accounts[1:]

    def make(count: int) -> list[Request]:
        pairs = ((accounts[0], rng.choice(others)) for _ in range(count))
        return [_transaction(*(pair if next(turn) else pair[::-1]), rng) for pair in pairs]

    return make


def _transaction(debit: str, credit: str, rng: random.Random) -> Request:
    minor = rng.randint(1, 99_999)
    amount = f"{minor // 100}.{minor % 100:02d}"
    lines = [EntryLine(debit, "debit", amount, CURRENCY), EntryLine(credit, "credit", amount, CURRENCY)]
    return Request(str(uuid.UUID(int=rng.getrandbits(128))), PostTransaction(lines), "bench")


async def posting_per_s(
    tenant: TenantLedgers, ledger_id: str, load: Load, count: int, size: int, clients: int
) -> float:
    """Transactions a second, `clients` posting batches of `size` at once; every one must be accepted."""
    batches = [load(size) for _ in range(count // size)]
    waiting = iter(batches)
    refused = 0

    async def client(mine: Iterator[list[Request]]) -> None:
        nonlocal refused
        for batch in mine:
            records = await tenant.submit(ledger_id, batch)
            refused += sum(record.code is not None for record in records)

    # The load is the benchmark's, not the ledger's: the collector need not walk it.
    gc.collect()
    gc.freeze()
    started = time.perf_counter()
    await asyncio.gather(*(client(waiting) for _ in range(clients)))
    elapsed = time.perf_counter() - started
    assert refused == 0, f"{refused} transactions were refused"
    return len(batches) * size / elapsed


class CopyLimit:
    """The same kind of rows, packed beforehand, written with nothing but COPY, head and commit."""

    def __init__(self, connection: Any, ledger_no: int, book: Book) -> None:
        self._connection = connection
        self._ledger_no = ledger_no
        self._book = book

    async def per_s(self, load: Load, count: int, size: int) -> float:
        batches = [self._pack(load(size)) for _ in range(count // size)]
        started = time.perf_counter()
        for packed, head in batches:
            async with self._connection.transaction():
                await store.advance_head(self._connection, self._ledger_no, head, head.seq - size)
                await save.write(self._connection, self._ledger_no, packed, RELEASE)
        return len(batches) * size / (time.perf_counter() - started)

    def _pack(self, requests: list[Request]) -> tuple[list[save.Packed], Head]:
        at = max(time.time_ns() // 1000, self._book.recorded_at)
        records = list(model.decide(self._book, requests, at))
        assert all(record.code is None for record in records)
        self._book.settle()
        return save.pack(self._ledger_no, records, RELEASE), self._book.head


async def copy_limit(pool: "asyncpg.Pool[asyncpg.Record]", ledger_id: str) -> CopyLimit:
    """A second ledger of the same shape, its book in memory, so that its rows can be made ahead."""
    connection = await pool.acquire()
    ledger_no = store.ids.parse("led", ledger_id).ledger_no  # type: ignore[union-attr] # an id just given
    book = Book(ledger_no)
    async with connection.transaction():
        head = await store.lock_head(connection, ledger_no)
        assert head is not None
        book.reset(head)
        for account in await store.find_accounts(connection, ledger_no, range(1, head.account_no + 1)):
            book.add(account)
    return CopyLimit(connection, ledger_no, book)


async def make_ledger(service: LedgerService, name: str) -> tuple[TenantLedgers, str, list[str]]:
    """A tenant, its ledger, and the accounts of it."""
    tenant = service.of((await service.create_tenant("bench")).tenant_id)
    ledger = await tenant.create_ledger(name)
    records = await tenant.submit(ledger.ledger_id, open_requests())
    return tenant, ledger.ledger_id, [record.account.account_id for record in records if record.account]


async def measure(rounds: int, count: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    async with durable_database() as url, ledgers(url) as (service, pool):
        made = {name: await make_ledger(service, name) for name in ("posting", "limit", "hot")}
        limit = await copy_limit(pool, made["limit"][1])

        async def posted(name: str, load: Callable[..., Load], count: int, size: int, clients: int) -> float:
            tenant, ledger_id, accounts = made[name]
            return await posting_per_s(tenant, ledger_id, load(accounts, rng), count, size, clients)

        seen: dict[str, list[float]] = {
            "batch_1000": [],
            "copy": [],
            "hot": [],
            "batch_100": [],
            "batch_1": [],
        }
        await posted("posting", uniform, 20_000, 1_000, CLIENTS)
        for _ in range(rounds):
            seen["batch_1000"].append(await posted("posting", uniform, count, 1_000, CLIENTS))
            seen["copy"].append(await limit.per_s(uniform(made["limit"][2], rng), count, 5_000))
            seen["hot"].append(await posted("hot", hot, count, 1_000, CLIENTS))
            seen["batch_100"].append(await posted("posting", uniform, count // 5, 100, 1))
            seen["batch_1"].append(await posted("posting", uniform, count // 50, 1, 1))
        balanced = [
            (await tenant.trial_balance(ledger_id)).balanced for tenant, ledger_id, _ in made.values()
        ]
    return _figures(seen, all(balanced))


def _figures(seen: dict[str, list[float]], balanced: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {f"{name}_per_s": round(median(values)) for name, values in seen.items()}
    # Ratios are taken round by round: both sides of one saw the same machine.
    figures["copy_ratio"] = median([a / b for a, b in zip(seen["batch_1000"], seen["copy"], strict=True)])
    figures["hot_ratio"] = median([a / b for a, b in zip(seen["hot"], seen["batch_1000"], strict=True)])
    figures["best_batch_1000_per_s"] = round(max(seen["batch_1000"]))
    figures["books_balanced"] = balanced
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="one small round: shows that it runs")
    parser.add_argument("--seed", type=int, default=1993)
    options = parser.parse_args()
    rounds, count = (1, 10_000) if options.short else (5, 100_000)
    figures = uvloop.run(measure(rounds, count, options.seed))
    report("ledger", figures, seed=options.seed, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
