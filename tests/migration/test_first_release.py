"""The first release's schema, with money in it, brought up to date under a service that keeps running."""

import shutil
from pathlib import Path

from finflow.db.migrations import PACKAGED, load, migrate
from finflow.ledger import commands as c
from oracles.service import ENTRY_SUMS, audit, desk, second_desk, transfer

FIRST = "0001_ledger.sql"


async def test_a_running_service_writes_before_and_after_every_migration(
    database_url_empty: str, tmp_path: Path, template: str
) -> None:
    # What runs all along here is today's service, which reads as a role that its cluster has already: of the
    # template's migrations. The first release's own service knew of no such role.
    shutil.copy(PACKAGED / FIRST, tmp_path)
    assert await migrate(database_url_empty, tmp_path) == [FIRST.removesuffix(".sql")]
    later = [migration.name for migration in load() if f"{migration.name}.sql" != FIRST]
    async with desk(database_url_empty) as one:
        a, b = await one.open(2)
        [held] = await one.do(transfer(a, b, "5", pending=True))
        assert await migrate(database_url_empty) == later
        # the service that ran all along, with its prepared statements, and a new one beside it
        assert await one.codes(transfer(a, b, "1"), c.PostPending(held.transaction_id(1))) == [None, None]
        async with second_desk(database_url_empty, one.ledger_id, "new") as other:
            assert await other.codes(transfer(a, b, "2")) == [None]
            assert (await other.service.transaction(held.transaction_id(1))).status == "posted"
        assert await one.codes(transfer(a, b, "4")) == [None]
        assert (await one.service.balance(b)).balance == "12.00"
        assert (await one.service.trial_balance(one.ledger_id)).balanced
        await audit(await one.rows(ENTRY_SUMS))
    assert await migrate(database_url_empty) == []
