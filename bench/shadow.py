"""What a shadow costs and how fast it sees: clone, replay, clean run, the live ledger beside it, detection.

`python -m bench.shadow [--json] [--keep] [--short]`. The live server is durable, the clone is not. Commands
of all kinds go through the services, no HTTP. The live p99 is that of single payments that come at their own
times, whatever those before them do.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter, time
from typing import Any

import asyncpg

from bench.ground import durable_database, ledgers, quantile, report
from finflow.app.shadow import ShadowFolder, start, stop
from finflow.fx.service import Exchange, FxService, QuoteDraft, RateDraft
from finflow.kernel import ids, money
from finflow.kernel.clock import to_micros
from finflow.ledger import commands as c
from finflow.ledger import copy
from finflow.ledger import model as rules
from finflow.ledger.service import LedgerService
from finflow.ledger.tenant import TenantLedgers
from finflow.shadow.report import read_cases, read_report
from finflow.stack.clone import cloned_server, remove
from finflow.stack.folder import DataFolder

SEED = 7
ACCOUNTS = 200
# Entries as they come of payments between two accounts, made by the database itself: only their bulk matters.
FILL = """
insert into entries (ledger_no, account_no, version, seq, amount, held, posted_debits, posted_credits,
                     pending_debits, pending_credits, effective_max, late_at)
select 1, 1 + side, n, n, case side when 0 then 100 else -100 end, 0,
       case side when 0 then n * 100 else 0 end, case side when 1 then n * 100 else 0 end, 0, 0,
       now() + n * interval '1 millisecond', null
  from generate_series(1, $1::bigint) n, generate_series(0, 1) side
"""
FILL_JOURNAL = """
insert into journal (ledger_no, seq, recorded_at, kind, key, caller, legs)
select 1, n, now() + n * interval '1 millisecond', 'post', 'bulk-' || n, 'bench',
       int4send(1) || int8send(n) || int4send(2) || int8send(n)
  from generate_series(1, $1::bigint) n
"""


class Desk:
    """One ledger with accounts, and commands of every kind for it."""

    def __init__(
        self, service: LedgerService, tenant: TenantLedgers, ledger_id: str, accounts: list[str]
    ) -> None:
        self.service = service
        self.tenant = tenant
        self.ledger_id = ledger_id
        self.accounts = accounts
        self.dice = random.Random(SEED)
        self.number = 0
        self.open_holds: list[str] = []
        self.posted: list[str] = []
        self.yen: list[str] = []

    def key(self) -> str:
        self.number += 1
        return f"b{self.number:09d}-{self.dice.getrandbits(32):08x}"

    def payment(self, pending: bool = False) -> c.Request:
        payer, payee = self.dice.sample(self.accounts, 2)
        amount = f"{self.dice.randrange(1, 90_000) / 100:.2f}"
        lines = [c.EntryLine(payer, "credit", amount, "SGD"), c.EntryLine(payee, "debit", amount, "SGD")]
        timeout_s = 1 if pending and self.dice.randrange(9) == 0 else None
        return c.Request(self.key(), c.PostTransaction(lines, pending, timeout_s), "bench")

    def any(self) -> c.Request:
        """Mostly payments; holds, captures, voids, reversals, refusals and changes of accounts among them."""
        place = self.dice.randrange(20)
        if place == 0 and self.open_holds:
            return c.Request(self.key(), c.PostPending(self.open_holds.pop()), "bench")
        if place == 1 and self.open_holds:
            return c.Request(self.key(), c.VoidPending(self.open_holds.pop()), "bench")
        if place == 2 and self.posted:
            return c.Request(self.key(), c.ReverseTransaction(self.posted.pop()), "bench")
        if place == 3 and self.dice.randrange(10) == 0:
            account = self.dice.choice(self.accounts)
            change = c.ChangeAccount(account, metadata={"n": str(self.number)})
            return c.Request(self.key(), change, "bench")
        if place == 4:
            nobody = c.EntryLine("acc_nobody", "credit", "1", "SGD")
            return c.Request(self.key(), c.PostTransaction([nobody, nobody]), "bench")
        return self.payment(place in (5, 6))

    async def post(self, requests: list[c.Request]) -> None:
        for record in await self.tenant.submit(self.ledger_id, requests):
            if record.code is None and record.kind == "hold":
                self.open_holds.append(record.transaction_id(self.ledger_no))
            elif record.code is None and record.kind == "post" and self.dice.randrange(8) == 0:
                self.posted.append(record.transaction_id(self.ledger_no))

    async def group(self) -> None:
        """All or nothing; one in three is refused as a whole."""
        requests = [self.payment() for _ in range(4)]
        if self.dice.randrange(3) == 0:
            nobody = c.EntryLine("acc_nobody", "credit", "1", "SGD")
            requests.append(c.Request(self.key(), c.PostTransaction([nobody, nobody]), "bench"))
        await self.tenant.submit(self.ledger_id, requests, atomic=True)

    async def convert(self, exchange: Exchange) -> None:
        """A quote of either side, and the conversion that uses it."""
        fixed: Any = self.dice.choice(["sell", "buy"])
        draft = QuoteDraft("SGD", "JPY", fixed, str(self.dice.randrange(100, 9_000)), "0.004", 60)
        quote, _ = await exchange.quote(self.ledger_id, draft, None, "bench")
        _, command = await exchange.conversion(
            quote.quote_id, self.dice.choice(self.accounts), self.yen[self.dice.randrange(len(self.yen))]
        )
        await self.tenant.submit(self.ledger_id, [c.Request(self.key(), command, "bench")])

    @property
    def ledger_no(self) -> int:
        place = ids.parse("led", self.ledger_id)
        assert place is not None
        return place.ledger_no


async def desk_on(service: LedgerService) -> Desk:
    tenant = service.of((await service.create_tenant("bench")).tenant_id)
    ledger = await tenant.create_ledger("bench")
    opening = [c.Request(f"open-{n}", c.OpenAccount("SGD", "asset", None), "bench") for n in range(ACCOUNTS)]
    records = await tenant.submit(ledger.ledger_id, opening)
    accounts = [record.account.account_id for record in records if record.account]
    return Desk(service, tenant, ledger.ledger_id, accounts)


async def exchange_of(desk: Desk, pool: Any) -> Exchange:
    """A rate, and accounts in the other currency."""
    exchange = FxService(pool).of(desk.tenant)
    at = datetime.now(UTC)
    rate = RateDraft("SGD", "JPY", "114.37", "bench", at, at + timedelta(days=1))
    await exchange.add_rates(desk.ledger_id, [rate])
    opening = [c.Request(f"yen-{n}", c.OpenAccount("JPY", "liability"), "bench") for n in range(50)]
    records = await desk.tenant.submit(desk.ledger_id, opening)
    desk.yen = [record.account.account_id for record in records if record.account]
    # The first ones open the bank's own accounts, which two at once would both try.
    for _ in range(20):
        await desk.convert(exchange)
    return exchange


async def replayed(place: ShadowFolder, seq: int) -> float:
    """Seconds until the shadow has compared up to this row."""
    began = perf_counter()
    while True:
        found = read_report(place.root)
        if found is not None and found.ledgers and found.ledgers[0].shadow_seq >= seq:
            return perf_counter() - began
        await asyncio.sleep(0.1)


async def clean_run(commands: int) -> dict[str, Any]:
    """Post commands of all kinds, then have the shadow compare them with the live database at rest."""
    folder = Path(tempfile.mkdtemp(prefix="ffb-"))
    place = ShadowFolder(folder / "shadow")
    try:
        async with durable_database() as url, ledgers(url) as (service, pool):
            desk = await desk_on(service)
            await start(place, url, baseline="bench")
            await stop(place, keep_clone=True)
            exchange = await exchange_of(desk, pool)
            began, head, before = perf_counter(), 0, await _head(url)
            while head < before + commands:
                jobs = [[desk.any() for _ in range(50)] for _ in range(40)]
                await asyncio.gather(
                    *(desk.post(job) for job in jobs), *(desk.convert(exchange) for _ in range(60)),
                    *(desk.group() for _ in range(10)),
                )  # fmt: skip
                await desk.tenant.expire_due(desk.ledger_id)
                head = await _head(url)
            posting_s = perf_counter() - began
            await start(place, url, baseline="bench")
            await replayed(place, head)
            await asyncio.sleep(1.5)
            found = read_report(place.root)
            assert found is not None
            await stop(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "compared": found.compared,
        "baseline_vs_baseline_mismatches": found.wrong,
        "commands": head - before,
        "live_posting_per_s": round((head - before) / posting_s),
        "replay_per_s": found.commands_per_s,
    }


async def _head(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("select max(seq) from heads"))
    finally:
        await connection.close()


async def clone_time(entries: int) -> dict[str, Any]:
    """Seconds from nothing to a clone that answers, of a ledger with so many entries."""
    folder = Path(tempfile.mkdtemp(prefix="ffb-"))
    try:
        async with durable_database() as url:
            async with ledgers(url) as (service, _):
                await desk_on(service)
            connection = await asyncpg.connect(url)
            for table in ("entries", "journal"):
                await connection.execute(f"alter table {table} disable trigger all; truncate {table}")
            await connection.execute(FILL, entries // 2)
            await connection.execute(FILL_JOURNAL, entries // 2)
            size = await connection.fetchval("select pg_database_size(current_database())")
            await connection.close()
            began = perf_counter()
            clone = DataFolder(folder / "clone")
            async with cloned_server(url, clone) as server:
                seconds = perf_counter() - began
                other = await asyncpg.connect(server.url())
                count = await other.fetchval("select count(*) from entries")
                await other.close()
            await remove(clone)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"clone_entries": count, "clone_gib": round(size / 2**30, 2), "clone_s": round(seconds, 1)}


async def open_loop(desk: Desk, per_s: float, seconds: float) -> list[float]:
    """Latencies in ms of single payments that come at their own times, whatever the ones before do."""
    latencies: list[float] = []

    async def one(due_s: float) -> None:
        await desk.tenant.submit(desk.ledger_id, [desk.payment()])
        latencies.append((perf_counter() - due_s) * 1_000)

    tasks, began = [], perf_counter()
    for n in range(int(per_s * seconds)):
        due_s = began + n / per_s
        await asyncio.sleep(max(0.0, due_s - perf_counter()))
        tasks.append(asyncio.create_task(one(due_s)))
    await asyncio.gather(*tasks)
    return latencies


async def beside(per_s: float, seconds: float, rounds: int) -> dict[str, Any]:
    """The live ledger's p99 with and without a shadow, in turns; and how far the shadow falls behind.

    The rise is the median of the rounds': what a disk does in one of them says nothing of shadows.
    """
    folder = Path(tempfile.mkdtemp(prefix="ffb-"))
    place = ShadowFolder(folder / "shadow")
    without: list[float] = []
    beside_it: list[float] = []
    lag = 0.0
    try:
        async with durable_database() as url, ledgers(url) as (service, _):
            desk = await desk_on(service)
            await open_loop(desk, per_s, seconds)
            for number in range(rounds):
                # Which comes first changes, so that neither always has the larger ledger.
                if number % 2 == 0:
                    without.append(quantile(await open_loop(desk, per_s, seconds), 0.99))
                await start(place, url, baseline="bench")
                await replayed(place, await _head(url))
                beside_it.append(quantile(await open_loop(desk, per_s, seconds), 0.99))
                found = read_report(place.root)
                lag = max(lag, found.lag_s if found else 0.0)
                await stop(place, keep_clone=True)
                if number % 2:
                    without.append(quantile(await open_loop(desk, per_s, seconds), 0.99))
    finally:
        await stop(place)
        shutil.rmtree(folder, ignore_errors=True)
    rises = sorted(with_it / alone for with_it, alone in zip(beside_it, without, strict=True))
    before, after = sorted(without)[len(without) // 2], sorted(beside_it)[len(beside_it) // 2]
    return {
        "live_per_s": per_s,
        "live_p99_ms": round(before, 2),
        "live_p99_ms_beside_shadow": round(after, 2),
        "live_p99_rise_percent": round((rises[len(rises) // 2] - 1) * 100, 1),
        "live_p99_rises_percent": [round((rise - 1) * 100, 1) for rise in rises],
        "lag_s_max": lag,
    }


async def detection(per_s: float, seconds: float) -> dict[str, Any]:
    """Seconds from the first wrong posting of a candidate with 5 % of the requests to its case."""
    folder = Path(tempfile.mkdtemp(prefix="ffb-"))
    place = ShadowFolder(folder / "shadow")
    copy.keep_commands_whole(True)
    try:
        async with durable_database() as url, ledgers(url) as (service, _):
            desk = await desk_on(service)
            await start(place, url, baseline="bench")
            loop = asyncio.create_task(open_loop(desk, per_s * 0.95, seconds))
            await asyncio.sleep(3)
            told = ["--candidate", url, desk.ledger_id, str(per_s * 0.05)]
            candidate = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.shadow", *told, cwd=Path(__file__).parents[1]
            )
            while not read_cases(place.root):  # noqa: ASYNC110 - the cases are another process's file
                await asyncio.sleep(0.02)
            seen_s = time()
            candidate.terminate()
            await candidate.wait()
            await loop
            first = min(case.recorded_at for case in read_cases(place.root))
            await stop(place)
    finally:
        copy.keep_commands_whole(False)
        shutil.rmtree(folder, ignore_errors=True)
    return {"detect_s": round(seen_s - to_micros(first) / 1e6, 2)}


async def candidate_on(url: str, ledger_id: str, per_s: float) -> None:
    """A second process that books ten times what it is asked to."""
    copy.keep_commands_whole(True)
    right = money.to_minor
    rules.money.to_minor = lambda text, exponent: 10 * right(text, exponent)  # type: ignore[attr-defined] # the fault
    async with ledgers(url, 2) as (service, _):
        tenant = service.of((await service.ledger(ledger_id)).tenant_id)
        from finflow.ledger.lists import Span

        accounts = [a.account_id for a in (await tenant.accounts(ledger_id, Span(limit=50))).items]
        desk = Desk(service, tenant, ledger_id, accounts)
        desk.dice = random.Random(99)
        await open_loop(desk, per_s, 60)


async def all_of(short: bool) -> dict[str, Any]:
    scale = 50 if short else 1
    figures = await clean_run(100_000 // scale)
    figures |= await beside(400, 2 if short else 15, 1 if short else 9)
    figures |= await detection(200, 7 if short else 15)
    figures |= await clone_time(5_000_000 // scale)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write the result to bench/results")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--candidate", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.candidate:
        url, ledger_id, per_s = options.candidate
        asyncio.run(candidate_on(url, ledger_id, float(per_s)))
        return
    figures = asyncio.run(all_of(options.short))
    report("shadow", figures, seed=SEED, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
