"""Row-level security must not change how reads find rows: a reader touches no more pages than the owner.

Every statement that the reads of a tenant send is explained twice, as the role that reads and as the owner of
the tables, on accounts with thousands of entries. A plan that walks them shows at once.
"""

import json
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from finflow.db.readers import ROLE
from finflow.kernel.clock import to_micros
from finflow.ledger.lists import Span, TransactionFilter
from oracles.service import Desk, desk, transfer

COUNT = 6_000
# A plan may look into the catalogue of an index once more; it may not grow with the ledger.
SLACK_PAGES = 40


async def ask_everything(one: Desk, account: str, transaction: str) -> None:
    """Every read there is, in every form that chooses a statement of its own."""
    service, ledger = one.service, one.ledger_id
    at = to_micros(datetime(2026, 1, 1, tzinfo=UTC))
    await service.account(account)
    for moment in ({}, {"at_seq": COUNT // 2}, {"as_of": at}, {"effective_at": at}):
        await service.balance(account, **moment)
    await service.accounts(ledger, Span())
    await service.accounts_by_reference(ledger, "customer-1")
    await service.transaction(transaction)
    await service.journal(ledger, COUNT // 2, 50)
    for newest in (False, True):
        await service.entries(account, Span(newest=newest))
        await service.holds(account, Span(newest=newest))
        await service.changes(ledger, Span(newest=newest))
        for wanted in (
            TransactionFilter(), TransactionFilter(reference="r"), TransactionFilter(kind="hold"),
            TransactionFilter(status="reversed"), TransactionFilter(effective_from=at, recorded_from=at),
        ):  # fmt: skip
            for account_id in (None, account):
                await service.transactions(ledger, wanted, Span(newest=newest), account_id)


async def test_a_reader_touches_no_more_pages_than_the_owner(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        await one.open(1, external_reference="customer-1")
        for _ in range(2):
            await one.do(*[transfer(a, b)] * (COUNT // 2))
        [held] = await one.do(transfer(a, b, pending=True, reference="r"))
        await one.rows("analyze")
        sent = collected(monkeypatch)
        await ask_everything(one, a, held.transaction_id(1))
        monkeypatch.undo()
        assert len(sent) > 25
        owner = await asyncpg.connect(database_url)
        reader = await asyncpg.connect(database_url, server_settings={"role": ROLE})
        await reader.fetchval("select enter_ledger(1, 1)")
        for query, arguments in sent.items():
            allowed = await pages(owner, query, arguments) * 2 + SLACK_PAGES
            assert await pages(reader, query, arguments) <= allowed, query
        await owner.close()
        await reader.close()


def collected(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The statements that are sent from here on, each with its last arguments."""
    sent: dict[str, Any] = {}
    execute = asyncpg.Connection._execute  # type: ignore[attr-defined]

    async def noted(self: Any, query: str, arguments: Any, *rest: Any, **options: Any) -> Any:
        if "enter_ledger" not in query and " due" not in query:
            sent[query] = arguments
        return await execute(self, query, arguments, *rest, **options)

    monkeypatch.setattr(asyncpg.Connection, "_execute", noted)
    return sent


async def pages(connection: Any, query: str, arguments: Any) -> int:
    """Pages that the statement touches, those of the functions that it calls included."""
    found = await connection.fetchval(f"explain (analyze, buffers, format json) {query}", *arguments)
    plan = json.loads(found)[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
