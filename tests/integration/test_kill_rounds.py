"""kill -9 of a writer, of a PostgreSQL process and of all of PostgreSQL, at random moments under load.

Afterwards each acknowledged command is in the journal exactly once, at the place that was acknowledged;
each command of unknown outcome is there exactly once when its key has been sent again; the books balance.
FINFLOW_KILL_ROUNDS and FINFLOW_KILL_SEED repeat a run or make a longer one.
"""

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from time import monotonic

import asyncpg
import pytest_asyncio

from finflow.db.migrations import migrate
from finflow.ledger.commands import Request
from finflow.stack.folder import DataFolder
from finflow.stack.postgres import EmbeddedPostgres
from oracles.killing import kill_family
from oracles.service import ENTRY_SUMS, Desk, audit, desk, second_desk
from oracles.teller import command_of

ROUNDS = int(os.environ.get("FINFLOW_KILL_ROUNDS", "50"))
SEED = os.environ.get("FINFLOW_KILL_SEED", "7")
TELLER = Path(__file__).parent.parent / "oracles" / "teller.py"
WRITERS = 2
TARGETS = ("writer", "writer", "backend", "background process", "postmaster")


class Bank:
    """A durable server, writers on one ledger of it, and the notes that they take."""

    def __init__(self, server: EmbeddedPostgres, folder: Path, one: Desk, accounts: list[str]) -> None:
        self.server = server
        self.notes = folder / "notes"
        self.ledger_id = one.ledger_id
        self.accounts = accounts
        self.writers: list[asyncio.subprocess.Process] = []
        self.started = 0
        self.read = self.seen = 0

    async def hire(self) -> None:
        self.started += 1
        arguments = [str(self.notes), f"w{self.started}", self.ledger_id, self.server.url(), *self.accounts]
        self.writers.append(await asyncio.create_subprocess_exec(sys.executable, str(TELLER), *arguments))

    async def kill(self, target: str, chance: random.Random) -> str:
        """Kills one target, brings back what does not come back by itself, and says what it was."""
        if target == "writer":
            writer = self.writers.pop(chance.randrange(len(self.writers)))
            writer.kill()
            await writer.wait()
            await self.hire()
            return f"writer {writer.pid}"
        process = self.server.process
        assert process is not None
        if target != "postmaster":
            pid = chance.choice(await self.pids(client=target == "backend"))
            os.kill(pid, signal.SIGKILL)
            return f"{target} {pid}"
        others = kill_family(process.pid)
        await self.server.exited()
        await self.server.start()
        return f"postmaster {process.pid} and {others} more"

    async def pids(self, client: bool) -> list[int]:
        """Server processes that serve a writer, or the server's own."""
        sql = "select pid from pg_stat_activity where application_name = 'teller'"
        own = "select pid from pg_stat_activity where backend_type in ('walwriter', 'checkpointer')"
        while True:
            try:
                connection = await asyncpg.connect(self.server.url(), timeout=5)
                try:
                    found = [row[0] for row in await connection.fetch(sql if client else own)]
                finally:
                    await connection.close(timeout=5)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                found = []
            if found:
                return found
            await asyncio.sleep(0.02)

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.notes.read_text().splitlines()]

    def answered(self) -> int:
        with self.notes.open("ab+") as file:
            file.seek(self.read)
            fresh = file.read()
        self.read += len(fresh)
        self.seen += fresh.count(b"A ")
        return self.seen

    async def progress(self) -> None:
        """Until answers come again, or half a minute has passed."""
        before, deadline = self.answered(), monotonic() + 30
        while self.answered() < before + 5:
            assert monotonic() < deadline, "nobody answers any more"
            assert all(writer.returncode is None for writer in self.writers), "a writer gave up"
            await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def bank(short_folder: Path) -> AsyncIterator[Bank]:
    server = EmbeddedPostgres(DataFolder(short_folder / "kill"), durable=True)
    await server.start()
    try:
        await migrate(server.url())
        async with desk(server.url()) as one:
            accounts = await one.open(8)
            bank = Bank(server, short_folder, one, accounts)
        try:
            yield bank
        finally:
            for writer in bank.writers:
                if writer.returncode is None:
                    writer.kill()
                    await writer.wait()
    finally:
        await server.stop()


async def test_fifty_kills_lose_nothing_and_double_nothing(bank: Bank) -> None:
    chance = random.Random(SEED)  # noqa: S311 - a test that can be repeated
    for _ in range(WRITERS):
        await bank.hire()
    start = monotonic()
    for number in range(1, ROUNDS + 1):
        await bank.progress()
        await asyncio.sleep(chance.uniform(0.0, 0.25))
        killed = await bank.kill(chance.choice(TARGETS), chance)
        print(f"round {number:3} {monotonic() - start:6.2f} s  answers {bank.answered():6}  killed {killed}")
    await bank.progress()
    # The last kill leaves some outcomes unknown for sure.
    for writer in bank.writers:
        writer.kill()
        await writer.wait()
    await settle(bank)


async def settle(bank: Bank) -> None:
    """Send every unknown key again, then compare the journal with the notes."""
    notes = bank.lines()
    assert not [line for line in notes if line[0] == "E"]
    told = {key: (int(seq), code) for mark, key, seq, code, _ in (n for n in notes if n[0] == "A")}
    unknown = [line[1] for line in notes if line[0] == "S" and line[1] not in told]
    assert set(told) <= {line[1] for line in notes if line[0] == "S"}
    async with resumed(bank) as one:
        again = 0
        for key in unknown:
            [record] = await one.service.submit(
                bank.ledger_id, [Request(key, command_of(key, bank.accounts), "teller")]
            )
            told[key] = (record.seq, str(record.code))
            again += record.replayed
        print(f"{len(told)} commands, {len(unknown)} of unknown outcome, of which {again} had been booked")
        await compare(one, told)


async def compare(one: Desk, told: dict[str, tuple[int, str]]) -> None:
    rows = await one.rows("select seq, key, code from journal where caller = 'teller' order by seq")
    assert Counter(row["key"] for row in rows) == Counter(told.keys())
    assert {row["key"]: (row["seq"], str(row["code"])) for row in rows} == told
    seqs = [row[0] for row in await one.rows("select seq from journal order by seq")]
    assert seqs == list(range(1, len(seqs) + 1))
    assert await one.value("select seq from heads") == len(seqs)
    accepted = sum(code == "None" for _, code in told.values())
    assert 0 < accepted < len(told), "the load must have both"
    assert await one.value("select count(*) from entries") == 2 * accepted
    assert (await one.service.trial_balance(one.ledger_id)).balanced
    await audit(await one.rows(ENTRY_SUMS))


def resumed(bank: Bank) -> AbstractAsyncContextManager[Desk]:
    return second_desk(bank.server.url(), bank.ledger_id, "after")
