"""A process that posts: reads its plan as JSON from stdin, prints one JSON line per answered command.

Half of the commands go one by one from several tasks, half in batches; the keys `all-N` are sent by every
process of the plan, with the same payload, so that only one of them may book it.
"""

import asyncio
import random
import sys
from collections.abc import Coroutine
from typing import Any

import msgspec

from finflow.db.pool import open_pool
from finflow.db.readers import open_readers
from finflow.kernel.errors import FinFlowError
from finflow.ledger.commands import EntryLine, PostTransaction, Request
from finflow.ledger.service import LedgerService
from finflow.ledger.tenant import TenantLedgers


class Plan(msgspec.Struct):
    url: str
    name: str
    accounts: dict[str, list[str]]
    own: int
    shared: int


def transfer(accounts: list[str], number: int, amount: str = "1.00") -> PostTransaction:
    source, to = accounts[number % len(accounts)], accounts[(number * 7 + 1) % len(accounts)]
    to = to if to != source else accounts[(number + 1) % len(accounts)]
    return PostTransaction(
        [EntryLine(source, "credit", amount, "SGD"), EntryLine(to, "debit", amount, "SGD")]
    )


async def send(service: TenantLedgers, ledger_id: str, requests: list[Request]) -> None:
    """Sends until every request has an answer that is not about its key being busy."""
    while requests:
        records = await service.submit(ledger_id, requests)
        for record in records:
            if record.code is None:
                line = {
                    "ledger_id": ledger_id,
                    "key": record.key,
                    "seq": record.seq,
                    "replayed": record.replayed,
                }
                print(msgspec.json.encode(line).decode(), flush=True)
            elif record.code != "idempotency_in_progress":
                raise SystemExit(f"{record.key}: {record.code}")
        requests = [r for r, record in zip(requests, records, strict=True) if record.code]
        await asyncio.sleep(0.005 if requests else 0)


async def work(service: TenantLedgers, ledger_id: str, requests: list[Request]) -> None:
    while requests:
        size = random.choice([1, 1, 1, 7])  # noqa: S311 - the mix of a load, not a secret
        await send_patiently(service, ledger_id, requests[:size])
        requests = requests[size:]


async def send_patiently(service: TenantLedgers, ledger_id: str, requests: list[Request]) -> None:
    while True:
        try:
            return await send(service, ledger_id, requests)
        except FinFlowError as error:
            if error.kind.code != "idempotency_in_progress":
                raise
            await asyncio.sleep(0.005)


async def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    pool, readers = await open_pool(plan.url, max_size=6), await open_readers(plan.url, max_size=2)
    service = LedgerService(pool, readers)
    work = [job for each in plan.accounts.items() for job in await jobs(plan, service, *each)]
    await asyncio.gather(*work)
    await service.close()
    await readers.close()
    await pool.close()


async def jobs(
    plan: Plan, service: LedgerService, ledger_id: str, accounts: list[str]
) -> list[Coroutine[Any, Any, None]]:
    """Four tasks that post on one ledger."""
    tenant = service.of((await service.ledger(ledger_id)).tenant_id)
    keys = [f"{plan.name}-{i}" for i in range(plan.own)] + [f"all-{i}" for i in range(plan.shared)]
    random.Random(plan.name).shuffle(keys)  # noqa: S311 - the order of a load, not a secret
    requests = [Request(key, transfer(accounts, int(key.split("-")[1])), plan.name) for key in keys]
    return [work(tenant, ledger_id, requests[start::4]) for start in range(4)]


if __name__ == "__main__":
    asyncio.run(main())
