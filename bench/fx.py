"""How fast quotes are made and conversions booked, beside plain transactions in the same run.

`python -m bench.fx [--json] [--keep] [--short]`. Durable: fsync and synchronous_commit on. One ledger, 256
requests at once, each one quote, one conversion or one plain two-entry transaction, as an API worker would
call the services; no HTTP. A conversion reads its quote and books six entries through the bank's accounts.
Rounds of each kind alternate, and medians are reported, because the machine's speed drifts.
"""

import argparse
import asyncio
import gc
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import uvloop

from bench.ground import durable_database, ledgers, median, report
from finflow.fx.service import Exchange, FxService, QuoteDraft, RateDraft
from finflow.ledger.commands import EntryLine, OpenAccount, PostTransaction, Request
from finflow.ledger.tenant import TenantLedgers

AT_ONCE: Final = 256
CUSTOMERS: Final = 1_000
RATES: Final = (("EUR", "USD", "1.1172"), ("EUR", "SGD", "1.4282"))


class Market:
    """A ledger with rates, customers with an account in two currencies each, and keys that never repeat."""

    def __init__(self, ledger: TenantLedgers, fx: Exchange, ledger_id: str, seed: int) -> None:
        self.ledger = ledger
        self.fx = fx
        self.ledger_id = ledger_id
        self.chance = random.Random(seed)
        self.keys = (f"bench-{number}" for number in itertools.count())
        self.singapore: list[str] = []
        self.america: list[str] = []

    async def set_up(self) -> None:
        at = datetime.now(UTC)
        drafts = [RateDraft(*rate, "bench", at, at + timedelta(days=1)) for rate in RATES]
        await self.fx.add_rates(self.ledger_id, drafts)
        self.singapore = await self._open("SGD")
        self.america = await self._open("USD")

    async def _open(self, currency: str) -> list[str]:
        opening = OpenAccount(currency, "liability", "1000000000.00")
        requests = [Request(next(self.keys), opening, "bench") for _ in range(CUSTOMERS)]
        records = await self.ledger.submit(self.ledger_id, requests)
        return [record.account.account_id for record in records if record.account]

    def amount(self) -> str:
        return f"{self.chance.randint(1, 99_999)}.{self.chance.randint(0, 99):02}"

    async def quote(self) -> str:
        # Through the pivot, as most pairs are.
        draft = QuoteDraft("SGD", "USD", "sell", self.amount(), "0.0037", 86_400)
        view, _ = await self.fx.quote(self.ledger_id, draft, None, "bench")
        return view.quote_id

    async def convert(self, quote_id: str) -> None:
        place = self.chance.randrange(CUSTOMERS)
        _, command = await self.fx.conversion(quote_id, self.singapore[place], self.america[place])
        await self._book(command)

    async def transfer(self) -> None:
        debit, credit = self.chance.sample(self.singapore, 2)
        amount = self.amount()
        await self._book(
            PostTransaction(
                [EntryLine(debit, "debit", amount, "SGD"), EntryLine(credit, "credit", amount, "SGD")]
            )
        )

    async def _book(self, command: PostTransaction) -> None:
        [record] = await self.ledger.submit(self.ledger_id, [Request(next(self.keys), command, "bench")])
        assert record.code is None, record.code


async def per_s(jobs: Iterable[Callable[[], Awaitable[object]]], count: int) -> float:
    """Jobs a second, AT_ONCE at a time."""
    waiting = iter(jobs)

    async def client() -> None:
        for job in waiting:
            await job()

    gc.collect()
    gc.freeze()
    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return count / (time.perf_counter() - started)


async def measure(rounds: int, count: int, seed: int) -> dict[str, Any]:
    seen: dict[str, list[float]] = {"quotes": [], "conversions": [], "transactions": []}
    async with durable_database() as url, ledgers(url) as (service, pool):
        tenant = service.of((await service.create_tenant("bench")).tenant_id)
        ledger_id = (await tenant.create_ledger("bench")).ledger_id
        market = Market(tenant, FxService(pool).of(tenant), ledger_id, seed)
        await market.set_up()
        await market.convert(await market.quote())
        for _ in range(rounds):
            quotes: list[str] = []

            async def make(kept: list[str] = quotes) -> None:
                kept.append(await market.quote())

            seen["quotes"].append(await per_s([make] * count, count))
            conversions = [lambda each=each: market.convert(each) for each in quotes]
            seen["conversions"].append(await per_s(conversions, count))
            seen["transactions"].append(await per_s([market.transfer] * count, count))
        books = await tenant.trial_balance(ledger_id)
    return _figures(seen, books.balanced)


def _figures(seen: dict[str, list[float]], balanced: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {f"{name}_per_s": round(median(values)) for name, values in seen.items()}
    # The ratio is taken round by round: both sides of one saw the same machine.
    pairs = zip(seen["conversions"], seen["transactions"], strict=True)
    figures["conversions_ratio"] = median([conversions / plain for conversions, plain in pairs])
    figures["books_balanced"] = balanced
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="one small round: shows that it runs")
    parser.add_argument("--seed", type=int, default=1999)
    options = parser.parse_args()
    rounds, count = (1, 2_000) if options.short else (5, 10_000)
    figures = uvloop.run(measure(rounds, count, options.seed))
    report("fx", figures, seed=options.seed, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
