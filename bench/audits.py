"""Settlement audits over HTTP: everything about one order of a million, asked by 500 at once.

`settled(...)` lays the orders down as they would come: accepted in batches, cycle after cycle, each past its
cut-off and settled by a worker. `measure(...)` then has wrk ask for audits of orders at random. Used by
bench/settlement.py.
"""

import asyncio
import random
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.ground import OUT_OF_REACH, ledgers, token
from bench.http import CONNECTIONS, write_load, wrk
from finflow.settlement.orders import OrderDraft
from finflow.settlement.register import NewParticipant
from finflow.settlement.service import Settlement, SettlementService
from finflow.settlement.worker import Worker
from finflow.stack.service import Stack, StackSettings, running

MEMBERS: Final = [f"BANK{number:02}SG" for number in range(50)]
DAY_US: Final = 24 * 3_600_000_000
# A Monday, 09:00 in Singapore.
START_US: Final = int(datetime(2026, 6, 8, 1, tzinfo=UTC).timestamp()) * 1_000_000
SCRIPT: Final = """
local orders, bearer = {}, ""
local threads = 0
function setup(thread) thread:set("number", threads); threads = threads + 1 end
function init(args)
  for line in io.lines(args[1]) do orders[#orders + 1] = line end
  bearer = io.open(args[2]):read()
  math.randomseed(20022 + number)
end
function request()
  local path = "/v1/settlement/orders/" .. orders[math.random(#orders)] .. "/audit"
  return wrk.format("GET", path, {["Authorization"] = bearer})
end
function done(summary, latency, requests)
  local e = summary.errors
  print(string.format("RESULT %d %d %d %d %d %d", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.timeout + e.status, latency:percentile(50), latency:percentile(99),
    latency:percentile(99.9)))
end
"""


async def settled(
    settlement: Settlement, room: SettlementService, ledger_id: str, count: int, forward: Callable[[], None]
) -> list[str]:
    """Settle `count` orders in cycles of at most 100,000; their ids. `forward` passes a cut-off."""
    for name in MEMBERS:
        await settlement.add_participant(
            ledger_id, NewParticipant(name, "member", ["SGD"], overdraft_limit=None)
        )
    rng, worker, orders = random.Random(20022), Worker(room), []
    for first in range(0, count, 100_000):
        batches = []
        for start in range(first, min(first + 100_000, count), 10_000):
            numbers = range(start, min(start + 10_000, count))
            drafts = [
                OrderDraft(*rng.sample(MEMBERS, 2), "SGD", f"{rng.randint(1, 99_999)}.25", f"E{number}")
                for number in numbers
            ]
            batches.append(settlement.accept(ledger_id, drafts, f"batch-{start}"))
        orders += [each.order_id or "" for batch in await asyncio.gather(*batches) for each in batch]
        forward()
        await worker.until_idle()
    return orders


async def measure(count: int, seconds: int) -> dict[str, Any]:
    """Audits a second and their latency, of a ledger with so many settled orders, two workers."""
    with tempfile.TemporaryDirectory(prefix="finflow-bench-") as folder:
        settings = StackSettings(data=Path(folder) / "data", workers=2, environment=OUT_OF_REACH)
        async with running(settings) as stack:
            tenant_id, orders = await _lay(stack, count)
            listing, bearer = Path(folder) / "orders", Path(folder) / "bearer"
            rng = random.Random(1)
            write_load(
                listing, rng.sample(orders, min(len(orders), 100_000)), bearer, token(stack, tenant_id)
            )
            ask = (stack.url, SCRIPT, seconds, str(listing), str(bearer))
            await wrk(*ask, connections=50)
            run = await wrk(*ask, connections=CONNECTIONS)
    return {
        "audit_orders": count,
        "audits_per_s": round(run["per_s"]),
        "audit_p50_ms": run["p50_ms"],
        "audit_p99_ms": run["p99_ms"],
        "audit_errors": int(run["errors"]),
    }


async def _lay(stack: Stack, count: int) -> tuple[str, list[str]]:
    moments = [START_US]

    def forward() -> None:
        # Past the cut-off, and on to the next morning: the cycle after it has another one.
        moments[0] += DAY_US

    async with ledgers(stack.database_url, 8, lambda: moments[0]) as (service, pool):
        room = SettlementService(pool, service, lambda: moments[0])
        tenant = await service.create_tenant("audits")
        mine = service.of(tenant.tenant_id)
        ledger = await mine.create_ledger("audits")
        orders = await settled(room.of(mine), room, ledger.ledger_id, count, forward)
        async with pool.acquire() as connection:
            # The stack's own workers take cycles from the same queue, and may still be at the last one.
            while await connection.fetchval("select exists (select from settlement_work)"):  # noqa: ASYNC110 - rows of a table wake nobody
                await asyncio.sleep(0.1)
            # All tables, or autovacuum would work at the others while audits are asked for.
            await connection.execute("vacuum (analyze)", timeout=600)
            await connection.execute("checkpoint", timeout=600)
    return tenant.tenant_id, orders
