"""A consistent copy of a live database, for whoever must see all of it and may touch none of it.

Of an embedded server: pg_basebackup, which copies files while the server runs, into a data folder of its
own; a server without the disk's guarantees runs on it. Of any other PostgreSQL: every table as of one
snapshot, by binary COPY, into an empty database that is named.
"""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg

from finflow.db.migrations import migrate
from finflow.db.pool import CONNECT_ERRORS, connect, unreachable
from finflow.kernel.errors import FinFlowError
from finflow.stack import children
from finflow.stack.folder import DataFolder
from finflow.stack.postgres import USER, EmbeddedPostgres, binaries, failure

_log = logging.getLogger(__name__)

Connection = Any

BACKUP_TIMEOUT_S: Final = 1_800.0
_PIECES: Final = 16
_TABLES: Final = """
select c.oid, c.relname as name, array(
           select confrelid from pg_constraint f
            where f.conrelid = c.oid and f.contype = 'f' and f.confrelid <> c.oid
       ) as needs
  from pg_class c where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r'
   and c.relname <> 'schema_migrations'
"""
_COLUMNS: Final = """
select attname from pg_attribute
 where attrelid = to_regclass($1) and attnum > 0 and not attisdropped and attgenerated = '' order by attnum
"""
_ALWAYS: Final = """
select c.relname, t.tgname from pg_trigger t join pg_class c on c.oid = t.tgrelid
 where not t.tgisinternal and t.tgenabled = 'A' and c.relnamespace = current_schema()::regnamespace
"""
_SEQUENCES: Final = """
select sequencename, last_value from pg_sequences where schemaname = current_schema()
"""


@asynccontextmanager
async def cloned_server(source_url: str, folder: DataFolder) -> AsyncIterator[EmbeddedPostgres]:
    """A running copy of the embedded server behind a socket, in this folder; stopped at the end of the block.

    The folder keeps its data: what it has already is started as it is. Whoever is done removes it (`remove`).
    Raises clone_failed, and what an embedded server raises.
    """
    server = EmbeddedPostgres(folder, durable=False)
    if not (folder.postgres / "PG_VERSION").exists():
        await back_up(source_url, folder)
    await server.start()
    keeping = asyncio.create_task(_keep(server))
    try:
        yield server
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await server.stop()


async def _keep(server: EmbeddedPostgres) -> None:
    """Start the server again whenever somebody kills it."""
    while True:
        status = await server.exited()
        _log.error("the clone's postgres ended", extra={"status": status})
        await server.start()


async def back_up(source_url: str, folder: DataFolder) -> None:
    """Copy the files of a running embedded server; a copy that was cut off leaves nothing that counts."""
    folder.create()
    socket_folder = socket_of(source_url)
    program = binaries() / "pg_basebackup"
    identity = await children.identity_for(program)
    children.check_reachable(identity, folder.root)
    fresh = folder.root / "postgres.new"
    shutil.rmtree(fresh, ignore_errors=True)
    children.hand_over(identity, folder.root)
    # The source's socket opens to its owner alone, which a user namespace of ours is as well.
    options = ["-h", str(socket_folder), "-U", USER, "-D", str(fresh), "-X", "stream", "-c", "fast"]
    try:
        status, output = await children.run(
            identity, program, *options, "--no-sync", "--no-manifest", "-w", timeout_s=BACKUP_TIMEOUT_S
        )
    except TimeoutError as error:
        raise FinFlowError("clone_failed", "pg_basebackup took longer than it may") from error
    if status != 0:
        shutil.rmtree(fresh, ignore_errors=True)
        raise FinFlowError("clone_failed", failure("pg_basebackup", output).detail)
    fresh.rename(folder.postgres)


def socket_of(url: str) -> Path:
    """The folder of the socket that a URL names. Raises clone_failed where it names none."""
    found = parse_qs(urlsplit(url).query).get("host", [""])[0]
    if not found.startswith("/"):
        raise FinFlowError("clone_failed", "only an embedded server, behind a socket, is copied file by file")
    return Path(found)


def is_embedded(url: str) -> bool:
    """Whether a URL leads to an embedded server of this machine."""
    place = urlsplit(url)
    return place.username == USER and parse_qs(place.query).get("host", [""])[0].startswith("/")


async def remove(folder: DataFolder) -> None:
    """End what runs over the folder of a clone, and remove all of it."""
    if folder.root.is_symlink():
        raise FinFlowError("data_unusable", f"{folder.root} is a link")
    if folder.root.exists():
        from finflow.stack.orphans import end_orphans

        await end_orphans(folder)
        folder.drop_socket_folder()
        await asyncio.to_thread(shutil.rmtree, folder.root)


# --- any PostgreSQL ----------------------------------------------------------------------------------


async def copy_database(source_url: str, target_url: str) -> int:
    """Copy every table of one database, as of one moment, into another that is empty; how many rows.

    The copy gets this release's schema, and of each table the columns that both have. Raises clone_failed.
    """
    source = await connect(source_url, application_name="finflow clone", command_timeout_s=None)
    try:
        target = await connect(target_url, application_name="finflow clone", command_timeout_s=None)
        try:
            return await _copy_all(source, target)
        except CONNECT_ERRORS as error:
            raise unreachable(target_url, error) from error
        except asyncpg.PostgresError as error:
            raise FinFlowError("clone_failed", str(error)) from error
        finally:
            await target.close(timeout=5)
    finally:
        await source.close(timeout=5)


async def _copy_all(source: Connection, target: Connection) -> int:
    if await target.fetchval("select count(*) from pg_tables where schemaname = current_schema()"):
        raise FinFlowError("clone_failed", "the database to copy to is not empty")
    await migrate(target)
    async with source.transaction(isolation="repeatable_read", readonly=True), target.transaction():
        always = await target.fetch(_ALWAYS)
        await _set_triggers(target, always, "disable")
        rows = 0
        for table in in_order(await target.fetch(_TABLES)):
            rows += await _copy_table(source, target, table)
        for row in await source.fetch(_SEQUENCES):
            if row["last_value"] is not None:
                name = row["sequencename"]
                await target.execute("select setval(to_regclass($1), $2)", name, row["last_value"])
        await _set_triggers(target, always, "enable always")
    return rows


async def _set_triggers(target: Connection, triggers: Sequence[Any], how: str) -> None:
    # The checks were passed once already; a copy of history is not history being changed.
    for row in triggers:
        await target.execute(f'alter table "{row["relname"]}" {how} trigger "{row["tgname"]}"')


def in_order(tables: Sequence[Any]) -> list[str]:
    """Names of tables, each after those that its rows refer to."""
    names = {row["oid"]: row["name"] for row in tables}
    needs = {row["oid"]: {oid for oid in row["needs"] if oid in names} for row in tables}
    found: list[str] = []
    while needs:
        ready = sorted((oid for oid, wanted in needs.items() if not wanted), key=names.__getitem__)
        assert ready, "tables do not refer to each other in a circle"
        for oid in ready:
            del needs[oid]
            found.append(names[oid])
        for wanted in needs.values():
            wanted.difference_update(ready)
    return found


async def _copy_table(source: Connection, target: Connection, table: str) -> int:
    mine = [row[0] for row in await source.fetch(_COLUMNS, table)]
    columns = [row[0] for row in await target.fetch(_COLUMNS, table) if row[0] in set(mine)]
    if not columns:
        return 0
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES)

    async def read() -> None:
        try:
            await source.copy_from_table(table, output=pieces.put, columns=columns, format="binary")
        finally:
            await pieces.put(None)

    async def arriving() -> AsyncIterator[bytes]:
        while (piece := await pieces.get()) is not None:
            yield piece

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        written = tasks.create_task(
            target.copy_to_table(table, source=arriving(), columns=columns, format="binary")
        )
    return int(str(written.result()).split()[-1])
