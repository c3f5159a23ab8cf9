"""Reads of large histories over HTTP: an account with a million entries, a ledger with ten million.

`python -m bench.reads [--json] [--keep] [--short]`. The history is laid down with the ledger's own COPY
rows. Requests arrive at a fixed rate whatever the answers do (an open loop), and each is timed from the
moment it was due, so that a slow answer is not hidden by the requests it delayed.
"""

import sys

if not __package__:
    # Run as a file, Python looks into this folder first, where http.py would stand for the library's http.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import uvloop

from bench.ground import pool_of, quantile, report
from bench.ledger import make_ledger
from finflow.kernel import ids
from finflow.ledger import model, save, store
from finflow.ledger.book import Book
from finflow.ledger.commands import EntryLine, PostTransaction, Request
from finflow.ledger.service import LedgerService
from finflow.stack.service import StackSettings, running

RATE_PER_S = 500
ONE_HOUR_US = 3_600_000_000

Ask = Callable[[aiohttp.ClientSession], Awaitable[int]]


async def lay_history(
    pool: "asyncpg.Pool[asyncpg.Record]", ledger_id: str, transactions: int
) -> dict[str, int]:
    """Post `transactions`, every fifth on the first account, at booking times spread over the last day."""
    place = ids.parse("led", ledger_id)
    assert place is not None
    rng = random.Random(1993)
    book = Book(place.ledger_no)
    async with pool.acquire() as connection:
        async with connection.transaction():
            head = await store.lock_head(connection, place.ledger_no)
            assert head is not None
            book.reset(head)
            for account in await store.find_accounts(
                connection, place.ledger_no, range(1, head.account_no + 1)
            ):
                book.add(account)
        accounts = list(book.accounts)
        start, step = head.recorded_at, 1_000
        for first in range(0, transactions, 10_000):
            requests = [
                _history_request(n, accounts, rng) for n in range(first, min(first + 10_000, transactions))
            ]
            at = start + first * step
            before = book.seq
            records = list(model.decide(book, requests, at))
            book.settle()
            async with connection.transaction():
                await store.advance_head(connection, place.ledger_no, book.head, before)
                await save.write(connection, place.ledger_no, save.pack(place.ledger_no, records))
        await connection.execute("vacuum (analyze) entries")
        await connection.execute("vacuum (analyze) journal")
    return {"first_at": start, "last_at": book.recorded_at, "last_seq": book.seq}


async def settle(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """What loading leaves to be done is done before anything is measured: vacuum, statistics, a checkpoint."""
    async with pool.acquire() as connection:
        await connection.execute("vacuum (analyze) journal, entries, accounts", timeout=600)
        await connection.execute("checkpoint", timeout=600)


def _history_request(number: int, accounts: list[str], rng: random.Random) -> Request:
    debit = accounts[0] if number % 5 == 0 else rng.choice(accounts)
    credit = rng.choice(accounts[1:])
    if credit == debit:
        credit = accounts[1] if debit != accounts[1] else accounts[2]
    if number % 10 == 0:
        debit, credit = credit, debit
    lines = [EntryLine(debit, "debit", "1.00", "SGD"), EntryLine(credit, "credit", "1.00", "SGD")]
    return Request(f"h{number}", PostTransaction(lines), "bench")


async def open_loop(url: str, paths: Callable[[], str], rate_per_s: int, seconds: int) -> dict[str, float]:
    """Latency quantiles in milliseconds of GETs that start at a fixed rate, and how many failed."""
    latencies: list[float] = []
    errors = 0

    async def one(session: aiohttp.ClientSession, due: float) -> None:
        nonlocal errors
        async with session.get(url + paths()) as response:
            await response.read()
            errors += response.status != 200
        latencies.append((time.perf_counter() - due) * 1e3)

    connector = aiohttp.TCPConnector(limit=64)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        start = time.perf_counter()
        for number in range(rate_per_s * seconds):
            due = start + number / rate_per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(session, due))
    return {
        "p50_ms": round(quantile(latencies, 0.50), 3),
        "p99_ms": round(quantile(latencies, 0.99), 3),
        "errors": errors,
    }


def _moment(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def measure(transactions: int, seconds: int) -> dict[str, Any]:
    rng = random.Random(7)
    with tempfile.TemporaryDirectory(prefix="finflow-bench-") as folder:
        settings = StackSettings(data=Path(folder) / "data", workers=2)
        async with running(settings) as stack:
            pool = await pool_of(stack.database_url, 2)
            ledger_id, accounts = await make_ledger(LedgerService(pool), "reads")
            span = await lay_history(pool, ledger_id, transactions)
            await settle(pool)
            large, base = accounts[0], f"/v1/accounts/{accounts[0]}"
            versions = await pool.fetchval(
                "select max(version) from entries where ledger_no = $1 and account_no = $2",
                *(ids.parse("acc", large) or ()),
            )

            def as_of(name: str) -> Callable[[], str]:
                return lambda: (
                    f"/v1/accounts/{rng.choice(accounts)}/balance"
                    f"?{name}={_moment(rng.randint(span['first_at'], span['last_at']))}"
                )

            asked: dict[str, Callable[[], str]] = {
                "balance": lambda: f"{base}/balance",
                "last_50_entries": lambda: f"{base}/entries?limit=50",
                "as_of": as_of("as_of"),
                "effective_at": as_of("effective_at"),
                "at_seq": lambda: (
                    f"/v1/accounts/{rng.choice(accounts)}/balance?at_seq={rng.randint(1, span['last_seq'])}"
                ),
                "large_account_as_of": lambda: (
                    f"{base}/balance?as_of={_moment(rng.randint(span['first_at'], span['last_at']))}"
                ),
            }
            figures: dict[str, Any] = {"entries": 2 * transactions, "entries_of_large_account": versions}
            for name, paths in asked.items():
                await open_loop(stack.url, paths, 100, 2)
                found = await open_loop(stack.url, paths, RATE_PER_S, seconds)
                figures |= {f"{name}_{key}": value for key, value in found.items()}
            pool.terminate()
            return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="a small history: shows that it runs")
    options = parser.parse_args()
    transactions, seconds = (20_000, 2) if options.short else (5_000_000, 20)
    figures = uvloop.run(measure(transactions, seconds))
    report("reads", figures, seed=1993, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
