"""A live ledger with its shadow beside it: cloned when asked, replayed when asked, its cases at hand."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from finflow.shadow import store
from finflow.shadow.cases import Allowance, Case
from finflow.shadow.report import Report, read_cases
from finflow.shadow.service import Shadow, ShadowSettings, shadowing
from finflow.stack.clone import copy_database


async def cloned(live_url: str, clone_url: str) -> None:
    """Make the empty database a marked copy of the live one."""
    await copy_database(live_url, clone_url)
    connection = await asyncpg.connect(clone_url)
    await store.mark(connection)
    await connection.close()


async def damage(url: str, sql: str) -> None:
    """Change what nobody may change, as a fault of the storage would."""
    connection = await asyncpg.connect(url)
    for table in ("entries", "journal"):
        await connection.execute(f"alter table {table} disable trigger all")
    await connection.execute(sql)
    await connection.close()


class Watched:
    """A shadow that is driven by the test instead of by itself."""

    def __init__(self, shadow: Shadow, folder: Path) -> None:
        self.shadow = shadow
        self._folder = folder

    async def catch_up(self) -> Report:
        """Replay until there is nothing left."""
        async with asyncio.timeout(60):
            while await self.shadow.round():
                pass
            # The settings of accounts are compared when the head stands still.
            await self.shadow.round()
            self.shadow._cycles_due_s = 0.0
            await self.shadow.round()
        return await self.shadow.report("running")

    @property
    def cases(self) -> list[Case]:
        return read_cases(self._folder)


@asynccontextmanager
async def watched(
    live_url: str, clone_url: str, folder: Path, allowances: Sequence[Allowance] = ()
) -> AsyncIterator[Watched]:
    """The shadow of these two databases, standing where the clone stands."""
    folder.mkdir(exist_ok=True)
    settings = ShadowSettings(live_url=live_url, clone_url=clone_url, folder=folder, allowances=allowances)
    async with shadowing(settings) as shadow:
        await shadow.resume()
        yield Watched(shadow, folder)


async def rows(url: str, sql: str, *arguments: Any) -> list[Any]:
    """One query of a database."""
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(sql, *arguments))
    finally:
        await connection.close()
