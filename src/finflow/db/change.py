"""A change of a schema as four verbs, in their order: expand, backfill, verify, contract.

Every verb may be repeated and interrupted. Until contract the release that runs can use the schema as it is,
so a rollout may stop after any of them.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import msgspec

from finflow.db import contracting, indexes, phases, steps, verifying
from finflow.db.apply import prepare_ledger
from finflow.db.backfill import LEASE_S, Backfill, Told
from finflow.db.contracting import OldSession, Permit
from finflow.db.migrations import DEADLINE_S, PACKAGED, apply_step, rehearse
from finflow.db.phases import Migration, Phase
from finflow.db.plan import PlannedStep, plan
from finflow.db.pool import CONNECT_ERRORS, check_version, connect, unreachable
from finflow.db.throttle import Pace
from finflow.db.verifying import Finding
from finflow.kernel.errors import FinFlowError

PENDING = "pending"


class StepStatus(msgspec.Struct, frozen=True):
    """One step as files and ledger have it: pending, begun, paused or done."""

    name: str
    change: str
    phase: Phase
    state: str
    applied_at: datetime | None = None
    progress: dict[str, Any] = {}
    holder: str | None = None


class SchemaChange:
    """The steps of a folder, or of one change in it, on one database. `change` is NNNN_name, or NNNN."""

    def __init__(
        self,
        url: str,
        folder: Path = PACKAGED,
        *,
        change: str | None = None,
        pace: Pace | None = None,
        deadline_s: float = DEADLINE_S,
        lease_s: float = LEASE_S,
    ) -> None:
        self._url = url
        self._pace = pace or Pace()
        self._deadline_s = deadline_s
        self._lease_s = lease_s
        self._all = phases.load(folder)
        self._steps = [step for step in self._all if change is None or _is_of(step, change)]
        if change is not None and not self._steps:
            raise FinFlowError("file_unreadable", f"{folder} has no change {change}.")

    async def expand(self, *, dry_run: bool = False) -> list[str]:
        """Adds what the new release needs; the names of the steps that this call applied."""
        async with self._opened(dry_run) as (connection, ledger):
            missing = self._missing(Phase.EXPAND, ledger)
            if dry_run:
                return await rehearse(connection, missing, self._deadline())
            return await self._applied(connection, missing)

    async def backfill(self, told: Told | None = None, *, dry_run: bool = False) -> list[str]:
        """Fills in what expand has made room for, in batches; the names of those that ended here.

        Raises phase_missing before anything is done.
        """
        async with self._opened(dry_run) as (connection, ledger):
            missing = self._missing(Phase.BACKFILL, ledger)
            self._check_before(missing, ledger)
            ended = []
            for step in missing:
                work = Backfill(connection, step, pace=self._pace, lease_s=self._lease_s, **_told(told))
                if await (work.rehearse() if dry_run else work.run()):
                    ended.append(step.name)
            return ended

    async def verify(self) -> list[Finding]:
        """Asks the verify files of all changes that are not contracted yet; every query's answer."""
        async with self._opened() as (connection, ledger):
            asked = [step for step in self._steps if step.phase is Phase.VERIFY]
            open_ones = [step for step in asked if not self._is_contracted(step.change, ledger)]
            self._check_before(open_ones, ledger)
            return [each for step in open_ones for each in await verifying.verify(connection, step)]

    async def contract(self, permit: Permit, *, dry_run: bool = False) -> list[str]:
        """Takes away what only the old release used; the names of the steps that this call applied.

        Raises phase_missing, contract_too_early, release_still_connected or schema_not_verified before
        anything is taken away. What was verified once is asked again: the old release wrote until now.
        """
        async with self._opened(dry_run) as (connection, ledger):
            missing = self._missing(Phase.CONTRACT, ledger)
            if not missing:
                return []
            self._check_before(missing, ledger)
            contracting.check_time(permit, await contracting.server_time(connection))
            sessions = await self._old_sessions(connection, permit, missing, ledger)
            contracting.check_sessions(sessions)
            ask = verifying.ask if dry_run else verifying.verify
            for step in self._verifies(missing):
                verifying.raise_unless_held(await ask(connection, step))
            if dry_run:
                return await rehearse(connection, missing, self._deadline())
            return await self._applied(connection, missing)

    async def sees_sessions(self) -> bool:
        """Whether this user may see whose sessions are connected; contract cannot tell otherwise."""
        async with self._connected() as connection:
            return await contracting.sees_sessions(connection)

    async def status(self) -> list[StepStatus]:
        """Every step of the files and what the ledger says of it. Raises migration_changed."""
        async with self._connected() as connection:
            ledger = await steps.applied(connection)
        steps.check_unchanged(self._steps, ledger)
        return [_status(step, ledger.get(step.name)) for step in self._steps]

    async def plan(self) -> list[PlannedStep]:
        """What is to come, with its locks and the sizes of its tables. Raises extra_missing."""
        async with self._connected() as connection:
            return await plan(connection, self._steps)

    async def pause(self, paused: bool = True) -> list[str]:
        """Stops the backfills that have begun, or lets them go on; whoever runs them hears it at once."""
        async with self._opened() as (connection, _):
            backfills = [step for step in self._steps if step.phase is Phase.BACKFILL]
            return [step.name for step in backfills if await steps.set_paused(connection, step.name, paused)]

    async def adopt(self) -> None:
        """Lets unfinished steps go on with their files as they are now: what was mended after a failure."""
        async with self._connected() as connection, connection.transaction():
            for step in self._steps:
                await steps.adopt(connection, step)

    @asynccontextmanager
    async def _connected(self) -> "AsyncIterator[asyncpg.Connection[Any]]":
        connection = await connect(
            self._url,
            application_name=f"finflow db {os.getpid()}",
            command_timeout_s=None,
            statement_cache_size=0,
        )
        try:
            async with connection.transaction():
                await check_version(connection)
            yield connection
        except CONNECT_ERRORS as error:
            raise unreachable(self._url, error) from error
        finally:
            try:
                await connection.close(timeout=5)
            except (*CONNECT_ERRORS, asyncpg.PostgresError):
                # What was done is done; a server that does not say goodbye changes nothing about it.
                connection.terminate()

    @asynccontextmanager
    async def _opened(
        self, dry_run: bool = False
    ) -> "AsyncIterator[tuple[asyncpg.Connection[Any], dict[str, steps.Applied]]]":
        async with self._connected() as connection:
            if not dry_run:
                await prepare_ledger(connection, self._deadline())
            ledger = await steps.applied(connection)
            steps.check_unchanged(self._all, ledger)
            yield connection, ledger

    async def _applied(self, connection: "asyncpg.Connection[Any]", missing: list[Migration]) -> list[str]:
        lease_s = min(self._lease_s, indexes.LEASE_S)
        return [
            step.name for step in missing if await apply_step(connection, step, self._deadline(), lease_s)
        ]

    async def _old_sessions(
        self,
        connection: "asyncpg.Connection[Any]",
        permit: Permit,
        missing: list[Migration],
        ledger: dict[str, steps.Applied],
    ) -> list[OldSession]:
        changes = {step.change for step in missing}
        expanded = [
            ledger[step.name].applied_at
            for step in self._all
            if step.change in changes and step.phase is Phase.EXPAND
        ]
        # Sessions from before the change run what was not made for it; a contract alone dates nothing.
        since = max(expanded, default=None) or datetime.fromtimestamp(0).astimezone()
        return await contracting.old_sessions(connection, permit, since)

    def _verifies(self, contracts: list[Migration]) -> list[Migration]:
        changes = {step.change for step in contracts}
        return [step for step in self._all if step.change in changes and step.phase is Phase.VERIFY]

    def _missing(self, phase: Phase, ledger: dict[str, steps.Applied]) -> list[Migration]:
        return [step for step in self._steps if step.phase is phase and not steps.is_done(step, ledger)]

    def _check_before(self, missing: list[Migration], ledger: dict[str, steps.Applied]) -> None:
        order = list(Phase)
        for step in missing:
            earlier = order[: order.index(step.phase)]
            of_change = [each for each in self._all if each.change == step.change]
            undone = [each for each in of_change if each.phase in earlier and not steps.is_done(each, ledger)]
            if undone:
                raise FinFlowError("phase_missing", f"{step.name} waits for {undone[0].name}.")
            held = {each.phase for each in of_change}
            if step.phase is Phase.CONTRACT and Phase.BACKFILL in held and Phase.VERIFY not in held:
                detail = f"{step.change} has a backfill and a contract, but no verify file."
                raise FinFlowError("schema_not_verified", detail)

    def _is_contracted(self, change: str, ledger: dict[str, steps.Applied]) -> bool:
        contracts = [step for step in self._all if step.change == change and step.phase is Phase.CONTRACT]
        return bool(contracts) and all(steps.is_done(step, ledger) for step in contracts)

    def _deadline(self) -> float:
        return monotonic() + self._deadline_s


def _is_of(step: Migration, change: str) -> bool:
    return change in (step.change, step.change.partition("_")[0])


def _told(told: Told | None) -> dict[str, Told]:
    return {} if told is None else {"told": told}


def _status(step: Migration, row: steps.Applied | None) -> StepStatus:
    if row is None or row.checksum != step.checksum:
        return StepStatus(step.name, step.change, step.phase, PENDING)
    return StepStatus(step.name, step.change, step.phase, row.state, row.applied_at, row.progress, row.holder)
