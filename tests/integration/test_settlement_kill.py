"""kill -9 at every place that settlement comes to, a database that goes away: once in the books."""

import asyncio
import os
import signal
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from finflow.db.migrations import migrate
from finflow.kernel import ids
from finflow.ledger import directory
from finflow.stack.folder import DataFolder
from finflow.stack.postgres import EmbeddedPostgres
from oracles.killing import kill_family
from oracles.service import ENTRY_SUMS, audit
from oracles.settler import BATCHES, LETTER, drafts
from oracles.settling import bank, neighbour

SETTLER = Path(__file__).parent.parent / "oracles" / "settler.py"
TESTS = Path(__file__).parent.parent
MATCHED = """
select m.amount_minor, x.rule, x.line_no from settlement_movements m
  left join settlement_matches x using (ledger_no, movement_no) order by m.amount_minor
"""

PLACES = (
    ("orders kept", 1), ("orders kept", 3), ("paid here", 1), ("paid here", 2), ("gross posted here", 1),
    ("orders paid", 1), ("orders paid", 3), ("close kept", 1), ("orders held", 1), ("net kept", 1),
    ("submit kept", 1), ("positions held", 1), ("submission kept", 1), ("message sent", 1),
    ("answer kept", 1), ("decided accepted", 1), ("positions posted", 1), ("page booked", 1),
    ("orders posted", 1), ("peers posted", 1), ("settle kept", 1), ("message kept", 1),
    ("message's batch taken", 2), ("movements kept", 1), ("lines kept", 1), ("matches written", 2),
    ("matches kept", 3),
)  # fmt: skip


async def prepared(url: str) -> tuple[str, str]:
    """Two ledgers that know each other, members with money, and a rail: a ledger's id, an account there."""
    async with bank(url) as here:
        there = await neighbour(here)
        for name in ("ALFA", "BETA", "CITI"):
            await here.add(name, "100000")
        await here.add("BIFAST", kind="rail")
        await here.settlement.add_nostro(here.ledger_id, "BIFAST", "SGD", "N-1", "treasury")
        await there.add("DELTA")
        await here.add("THERE", kind="ledger", peer_ledger_id=there.ledger_id)
        await there.add("HERE", kind="ledger", peer_ledger_id=here.ledger_id)
        return here.ledger_id, there.ids["DELTA"][0]


async def settler(url: str, *words: str) -> int:
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    process = await asyncio.create_subprocess_exec(sys.executable, str(SETTLER), url, *words, env=environment)
    try:
        async with asyncio.timeout(150):
            return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()


async def check(url: str, folder: Path, peer_account: str) -> None:
    """Each order is paid once, whatever happened; the rail was sent each of its payments once."""
    async with bank(url) as one:
        wanted = [draft for batch in range(BATCHES) for draft in drafts(batch, peer_account)]
        rows = await one.one.rows("select end_to_end_id, amount_minor from settlement_orders")
        named = [(each.end_to_end_id, each.amount) for each in wanted] + LETTER
        assert sorted((row["end_to_end_id"], row["amount_minor"]) for row in rows) == sorted(
            (name, int(Decimal(amount) * 100)) for name, amount in named
        )
        settled = await one.one.value(
            "select count(*) from settlement_orders o where posted_on(o.ledger_no, o.ledger_no, o.order_no)"
        )
        assert settled == len(named)
        place = ids.parse("acc", peer_account)
        assert place is not None
        async with one.one.pool.acquire() as connection:
            peer = await directory.read_ledger(connection, place.ledger_no)
        assert peer is not None
        there = await one.one.ledgers.of(peer.tenant_id).balance(peer_account)
        to_peer = sum(Decimal(each.amount) for each in wanted if each.payee == "THERE")
        assert Decimal(there.balance) == 1000 + to_peer
        assert len(list((folder / "out").glob("*.xml"))) == 1
        by_rail = sorted(-int(Decimal(each.amount) * 100) for each in wanted if each.payee == "BIFAST")
        found = await one.one.rows(MATCHED)
        assert [row["amount_minor"] for row in found] == by_rail, "each payment is found once"
        assert {row["rule"] for row in found} == {"uetr"}
        assert len({row["line_no"] for row in found}) == len(by_rail)
        assert await one.one.value("select count(*) from settlement_unmatched") == 0
        assert await one.one.value("select sum(matched) from settlement_match_counts") == len(by_rail)
        assert await one.one.value("select count(*) from settlement_work") == 0
        assert await one.worker.check_mirrors() == []
        await one.whole()
        await audit(await one.one.rows(ENTRY_SUMS))


@pytest.mark.parametrize(("place", "count"), PLACES)
async def test_killed_at(place: str, count: int, database_url: str, tmp_path: Path) -> None:
    ledger_id, peer_account = await prepared(database_url)
    died = await settler(database_url, str(tmp_path), ledger_id, place, str(count), peer_account)
    assert died == -signal.SIGKILL, f"it never came to {place!r} {count} times"
    assert await settler(database_url, str(tmp_path), ledger_id, "never", "1", peer_account) == 0
    await check(database_url, tmp_path, peer_account)


async def test_two_at_the_same_work_and_one_is_killed(database_url: str, tmp_path: Path) -> None:
    ledger_id, peer_account = await prepared(database_url)
    words = (str(tmp_path), ledger_id)
    codes = await asyncio.gather(
        settler(database_url, *words, "page booked", "1", peer_account),
        settler(database_url, *words, "never", "1", peer_account),
    )
    assert codes[1] == 0
    await check(database_url, tmp_path, peer_account)


async def test_the_database_goes_away_and_comes_back(short_folder: Path, tmp_path: Path) -> None:
    server = EmbeddedPostgres(DataFolder(short_folder / "settle-away"), durable=True)
    await server.start()
    try:
        await migrate(server.url())
        ledger_id, peer_account = await prepared(server.url())
        running = asyncio.create_task(
            settler(server.url(), str(tmp_path), ledger_id, "never", "1", peer_account)
        )
        for pause in (1.2, 0.6, 0.9):
            await asyncio.sleep(pause)
            assert server.process is not None
            kill_family(server.process.pid)
            await server.exited()
            await server.start()
        assert await running == 0, "it waits for the database, and goes on"
        await check(server.url(), tmp_path, peer_account)
    finally:
        await server.stop()
