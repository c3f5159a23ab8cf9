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
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import uvloop

from bench.ground import OUT_OF_REACH, ledgers, quantile, report, token
from bench.ledger import make_ledger
from finflow.kernel import ids
from finflow.ledger import model, save, store
from finflow.ledger.book import Book
from finflow.ledger.commands import EntryLine, PostTransaction, Request, ReverseTransaction, VoidPending
from finflow.stack.service import StackSettings, running

RATE_PER_S = 500
# A list of fifty is some forty times the work of a balance.
LISTS_PER_S = 50


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
            at = start + first * step
            before = book.seq
            posted = partial(_posted, at, place.ledger_no, before + 1 - first)
            numbers = range(first, min(first + 10_000, transactions))
            requests = [_history_request(n, accounts, rng, posted) for n in numbers]
            records = list(model.decide(book, requests, at))
            book.settle()
            async with connection.transaction():
                await store.advance_head(connection, place.ledger_no, book.head, before)
                await save.write(connection, place.ledger_no, save.pack(place.ledger_no, records))
        await connection.execute("vacuum (analyze) entries")
        await connection.execute("vacuum (analyze) journal")
    return {"first_at": start, "last_at": book.recorded_at, "last_seq": book.seq}


async def settle(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """What loading leaves to be done is done before measuring: vacuum, statistics, a checkpoint."""
    async with pool.acquire() as connection:
        await connection.execute("vacuum (analyze) journal, entries, accounts", timeout=600)
        await connection.execute("checkpoint", timeout=600)


def _posted(at: int, ledger_no: int, shift: int, number: int) -> str:
    """The id of the transaction that this request of the same batch becomes."""
    return ids.mint("txn", at, ledger_no, number + shift)


def _history_request(
    number: int, accounts: list[str], rng: random.Random, posted: Callable[[int], str]
) -> Request:
    """A posting under one of 100,000 references; in each hundred two holds, one voided, and a reversal."""
    if number % 100 == 51:
        return Request(f"h{number}", VoidPending(posted(number - 1)), "bench")
    if number % 100 == 61:
        return Request(f"h{number}", ReverseTransaction(posted(number - 1)), "bench")
    debit = accounts[0] if number % 5 == 0 else rng.choice(accounts)
    credit = rng.choice(accounts[1:])
    if credit == debit:
        credit = accounts[1] if debit != accounts[1] else accounts[2]
    if number % 10 == 0:
        debit, credit = credit, debit
    lines = [EntryLine(debit, "debit", "1.00", "SGD"), EntryLine(credit, "credit", "1.00", "SGD")]
    command = PostTransaction(lines, pending=number % 100 in (50, 70), reference=f"r{number % 100_000}")
    return Request(f"h{number}", command, "bench")


async def open_loop(
    url: str, bearer: str, paths: Callable[[], str], rate_per_s: int, seconds: int
) -> dict[str, float]:
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
    headers = {"Authorization": f"Bearer {bearer}"}
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        asyncio.TaskGroup() as group,
    ):
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


Paths = Callable[[], str]


def balances(accounts: list[str], span: dict[str, int], rng: random.Random) -> dict[str, Paths]:
    """Reads of one account; the first one has every fifth transaction of the ledger."""
    base = f"/v1/accounts/{accounts[0]}"

    def moment() -> str:
        return _moment(rng.randint(span["first_at"], span["last_at"]))

    return {
        "balance": lambda: f"{base}/balance",
        "last_50_entries": lambda: f"{base}/entries?limit=50",
        "as_of": lambda: f"/v1/accounts/{rng.choice(accounts)}/balance?as_of={moment()}",
        "effective_at": lambda: f"/v1/accounts/{rng.choice(accounts)}/balance?effective_at={moment()}",
        "at_seq": lambda: (
            f"/v1/accounts/{rng.choice(accounts)}/balance?at_seq={rng.randint(1, span['last_seq'])}"
        ),
        "large_account_as_of": lambda: f"{base}/balance?as_of={moment()}",
    }


def listings(
    ledger_id: str, accounts: list[str], span: dict[str, int], transactions: int, rng: random.Random
) -> dict[str, Paths]:
    """Lists of fifty transactions by each filter, somewhere in the ledger, oldest or newest first."""

    def some(filtered: Callable[[], str]) -> Paths:
        return lambda: (
            f"/v1/transactions?ledger_id={ledger_id}&limit=50&order={rng.choice(('oldest', 'newest'))}"
            f"&{filtered()}"
        )

    def within() -> tuple[str, str]:
        begin = rng.randint(span["first_at"], span["last_at"])
        return _moment(begin), _moment(begin + rng.randint(1, span["last_at"] - span["first_at"]))

    def dated(name: str) -> str:
        return "{0}_from={1}&{0}_before={2}".format(name, *within())

    references = min(transactions, 100_000)
    return {
        "list_after_seq": some(lambda: f"after_seq={rng.randint(0, span['last_seq'])}"),
        "list_account": some(lambda: f"account_id={rng.choice(accounts)}"),
        "list_large_account": some(lambda: f"account_id={accounts[0]}&{dated('recorded')}"),
        "list_account_value_dates": some(lambda: f"account_id={accounts[0]}&{dated('effective')}"),
        "list_reference": some(lambda: f"reference=r{rng.randrange(references)}"),
        "list_kind": some(lambda: f"kind={rng.choice(('hold', 'void', 'reverse'))}&{dated('recorded')}"),
        "list_status": some(lambda: f"status={rng.choice(('pending', 'voided', 'reversed'))}"),
        "list_dates": some(lambda: dated("recorded")),
    }


async def measure(transactions: int, seconds: int) -> dict[str, Any]:
    rng = random.Random(7)
    with tempfile.TemporaryDirectory(prefix="finflow-bench-") as folder:
        settings = StackSettings(data=Path(folder) / "data", workers=2, environment=OUT_OF_REACH)
        async with running(settings) as stack, ledgers(stack.database_url, 2) as (service, pool):
            tenant, ledger_id, accounts = await make_ledger(service, "reads")
            span = await lay_history(pool, ledger_id, transactions)
            await settle(pool)
            versions = await pool.fetchval(
                "select max(version) from entries where ledger_no = $1 and account_no = $2",
                *(ids.parse("acc", accounts[0]) or ()),
            )
            figures: dict[str, Any] = {"entries": 2 * transactions, "entries_of_large_account": versions}
            asked = [(RATE_PER_S, balances(accounts, span, rng))]
            asked += [(LISTS_PER_S, listings(ledger_id, accounts, span, transactions, rng))]
            for rate_per_s, kinds in asked:
                for name, paths in kinds.items():
                    # Fresh for each, because all of them together may take longer than a token lives.
                    bearer = token(stack, tenant.tenant_id)
                    await open_loop(stack.url, bearer, paths, min(100, rate_per_s), min(2, seconds))
                    found = await open_loop(stack.url, bearer, paths, rate_per_s, seconds)
                    figures |= {f"{name}_{key}": value for key, value in found.items()}
            return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="a small history: shows that it runs")
    options = parser.parse_args()
    transactions, seconds = (20_000, 1) if options.short else (5_000_000, 12)
    figures = uvloop.run(measure(transactions, seconds))
    report("reads", figures, seed=1993, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
