"""The first act: a bank's history replayed over HTTP, every balance and the books checked."""

import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager

from finflow.client.model import Account, Leg, NewAccount, NewTransaction
from finflow.client.service import Client
from finflow.demo.model import Summary, summarise
from finflow.imports.mapping import Mapping
from finflow.imports.report import LineFault
from finflow.imports.service import Importer

SINGLE_TRANSACTIONS = 400
_CURRENCY = "SGD"


async def replay(
    platform: Client,
    client_of: Callable[[str], AbstractAsyncContextManager[Client]],
    mapping: Mapping,
    lines: Iterable[bytes],
    *,
    max_rows: int | None = None,
    on_fault: Callable[[LineFault], None],
) -> Summary:
    """Post a history into a fresh ledger, check every balance, time single requests, check the books.

    `platform` asks as the operator; `client_of` gives a client that asks as the tenant of this id.
    """
    tenant = await platform.create_tenant("demo")
    async with client_of(tenant.tenant_id) as api:
        ledger_id = (await api.create_ledger(f"demo {mapping.name}")).ledger_id
        importer = Importer(api, ledger_id, mapping, verify=True, max_rows=max_rows, on_fault=on_fault)
        report = await importer.run(lines)
        latencies_ms = await single_latencies_ms(api, ledger_id, SINGLE_TRANSACTIONS)
        trial_balance = await api.trial_balance(ledger_id)
    return summarise(report, trial_balance.balanced, latencies_ms)


async def single_latencies_ms(api: Client, ledger_id: str, count: int) -> list[float]:
    """How long each of `count` single transactions took, sent one after another over one connection."""
    payer = await _open(api, ledger_id, "demo:payer")
    payee = await _open(api, ledger_id, "demo:payee")
    legs = (
        Leg(payer.account_id, "debit", "1.00", _CURRENCY),
        Leg(payee.account_id, "credit", "1.00", _CURRENCY),
    )
    latencies_ms = []
    for _ in range(count):
        transaction = NewTransaction(str(uuid.uuid4()), legs, "demo")
        started_s = time.perf_counter()
        await api.post(ledger_id, transaction)
        latencies_ms.append((time.perf_counter() - started_s) * 1000)
    return latencies_ms


async def _open(api: Client, ledger_id: str, reference: str) -> Account:
    new = NewAccount(ledger_id, _CURRENCY, "liability", reference, overdraft_limit=None)
    return await api.ensure_account(new)
