"""The shadow as a process of its own: killed, cut off, stopped; it neither loses nor doubles anything."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from finflow.app.shadow import ShadowFolder, start, stop
from finflow.db.migrations import migrate
from finflow.kernel.errors import FinFlowError
from finflow.shadow import store
from finflow.shadow.report import Report, read_cases, read_report
from finflow.shadow.service import ShadowSettings, shadowing
from finflow.stack.folder import DataFolder
from finflow.stack.postgres import EmbeddedPostgres
from oracles.service import Desk, desk, transfer
from oracles.shadowing import rows


@pytest.fixture
async def live(short_folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A server of the test's own, since it is stopped and started."""
    server = EmbeddedPostgres(DataFolder(short_folder / f"live-{random.getrandbits(32):x}"), durable=False)
    await server.start()
    await migrate(server.url())
    yield server
    await server.stop()


@pytest.fixture
async def folder(short_folder: Path) -> AsyncIterator[ShadowFolder]:
    place = ShadowFolder(short_folder / f"shadow-{random.getrandbits(32):x}")
    yield place
    if place.runner() is not None or place.clone.root.exists():
        await stop(place)


class Load:
    """Payments that go on until they are told to end, in batches of a few."""

    def __init__(self, one: Desk, accounts: list[str]) -> None:
        self.one = one
        self.accounts = accounts
        self.ending = False

    async def run(self) -> None:
        dice = random.Random(7)  # noqa: S311 - a test that can be repeated
        while not self.ending:
            self.one.clock.at += 1_000
            pairs = [dice.sample(self.accounts, 2) for _ in range(dice.randrange(1, 40))]
            await self.one.do(*[transfer(*pair, str(dice.randrange(1, 900))) for pair in pairs])
            await asyncio.sleep(0.005)


async def caught_up(place: ShadowFolder, seq: int, within_s: float = 60) -> Report:
    async with asyncio.timeout(within_s):
        while True:
            report = read_report(place.root)
            if report is not None and report.ledgers and report.ledgers[0].shadow_seq >= seq:
                return report
            await asyncio.sleep(0.1)


async def test_killed_at_random_it_goes_on(live: EmbeddedPostgres, folder: ShadowFolder) -> None:
    async with desk(live.url()) as one:
        load = Load(one, await one.open(6))
        await start(folder, live.url(), baseline="1.0")
        running = asyncio.create_task(load.run())
        dice = random.Random(3)  # noqa: S311 - a test that can be repeated
        for _ in range(3):
            await asyncio.sleep(dice.random() * 1.5)
            runner = folder.runner()
            assert runner is not None
            os.kill(runner.pid, signal.SIGKILL)
            while folder.runner() is not None:
                await asyncio.sleep(0.02)
            assert folder.marked
            await start(folder, live.url(), baseline="1.0")
        load.ending = True
        await running
        head = await one.value("select seq from heads")
        report = await caught_up(folder, head)
        journal = "select seq, recorded_at, key, legs, code from journal order by seq"
        assert await rows(live.url(), journal) == await rows(folder.clone_url(), journal)
        tallies = await rows(folder.clone_url(), "select sum(comparisons) from shadow.tallies")
    base = report.ledgers[0].base_seq
    assert tallies[0][0] == head - base > 100
    assert (report.wrong, read_cases(folder.root)) == (0, [])
    last = await stop(folder)
    assert last is not None
    assert last.state == "stopped"
    assert not folder.clone.root.exists()
    assert not list(folder.root.glob("clone*"))


async def test_it_outlives_a_restart_of_the_live_database(
    live: EmbeddedPostgres, folder: ShadowFolder
) -> None:
    async with desk(live.url()) as one:
        accounts = await one.open(2)
        await start(folder, live.url(), baseline="1.0")
        await one.do(*[transfer(*accounts)] * 20)
        await caught_up(folder, 22)
    runner = folder.runner()
    # Its own server is killed as well, which it starts again by itself.
    first = int((folder.clone.postgres / "postmaster.pid").read_text().splitlines()[0])
    os.kill(first, signal.SIGKILL)
    await live.stop()
    await asyncio.sleep(1.5)
    report = read_report(folder.root)
    assert report is not None
    assert report.last_error is not None
    await live.start()
    async with desk(live.url()) as one:
        accounts = await one.open(2)
        await one.do(*[transfer(*accounts)] * 5)
        async with asyncio.timeout(30):
            while sum(each.shadow_seq for each in (read_report(folder.root) or report).ledgers) < 29:
                await asyncio.sleep(0.1)
    assert folder.runner() == runner
    assert read_cases(folder.root) == []


async def test_a_clone_that_was_cut_off_is_made_anew(database_url: str, folder: ShadowFolder) -> None:
    folder.create()
    # As pg_basebackup leaves it when it is killed, and as a clone is that nobody has marked yet.
    (folder.clone.root / "postgres.new").mkdir(parents=True)
    (folder.clone.root / "postgres.new" / "PG_VERSION").write_text("18")
    await start(folder, database_url, baseline="1.0")
    assert not (folder.clone.root / "postgres.new").exists()
    with pytest.raises(FinFlowError, match="shadow_running"):
        await start(folder, database_url, baseline="1.0")
    # Nobody else replays on that clone, whatever folder it keeps.
    settings = ShadowSettings(live_url=database_url, clone_url=folder.clone_url(), folder=folder.root)
    with pytest.raises(FinFlowError, match="shadow_running"):
        async with shadowing(settings):
            pass
    connection = await asyncpg.connect(folder.clone_url())
    with pytest.raises(FinFlowError, match="shadow_target_live"):
        await store.mark(connection)
    with pytest.raises(FinFlowError, match="shadow_target_live"):
        await store.check_apart(connection, connection)
    with pytest.raises(asyncpg.PostgresError, match="history"):
        await connection.execute("delete from shadow.cases")
    await connection.close()
    await stop(folder, keep_clone=True)
    assert folder.clone.root.exists()
    await stop(folder)
    assert not folder.clone.root.exists()
    with pytest.raises(FinFlowError, match="shadow_not_running"):
        await stop(folder)


async def test_it_never_replays_on_the_live_database(database_url: str, tmp_path: Path) -> None:
    async with desk(database_url) as one:
        await one.open(1)
    settings = ShadowSettings(live_url=database_url, clone_url=database_url, folder=tmp_path)
    async with shadowing(settings) as shadow:
        with pytest.raises(FinFlowError, match="shadow_target_live"):
            await shadow.run(asyncio.Event())
    connection = await asyncpg.connect(database_url)
    with pytest.raises(FinFlowError, match="shadow_target_live"):
        await store.wipe(connection)
    await connection.close()
    assert await rows(database_url, "select count(*) from journal") == [(1,)]
