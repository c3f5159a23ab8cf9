"""Where an acceptance runs: a clone made for it from a backup or a template, or one that is there already."""

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

import asyncpg

from finflow.acceptance import store
from finflow.db.pool import connect
from finflow.kernel.errors import FinFlowError
from finflow.stack import children
from finflow.stack.folder import DataFolder
from finflow.stack.postgres import USER, EmbeddedPostgres, binaries
from finflow.telemetry.redaction import redact

_BACKUP_TIMEOUT_S: Final = 240.0
_DATABASE: Final = "finflow_acceptance_"


@asynccontextmanager
async def clone_of_embedded(source_url: str, *, keep: Path | None = None) -> AsyncIterator[str]:
    """The URL of a second server on a base backup of the embedded one; both it and its files go at the end.

    The source only sends what it sends to any standby. With `keep` the files stay in that folder. Raises
    clone_not_made.
    """
    root = keep or Path(tempfile.mkdtemp(prefix="ff-clone-"))
    folder = DataFolder(root)
    folder.create()
    try:
        await _back_up(source_url, folder)
        server = EmbeddedPostgres(folder, durable=False)
        await server.start()
        try:
            await marked(server.url(), "clone")
            yield server.url()
        finally:
            await asyncio.shield(server.stop())
    finally:
        if keep is None:
            await asyncio.to_thread(shutil.rmtree, root, True)


async def _back_up(source_url: str, folder: DataFolder) -> None:
    program = binaries() / "pg_basebackup"
    identity = await children.identity_for(program)
    children.check_reachable(identity, folder.root)
    children.hand_over(identity, folder.root)
    host = parse_qs(urlsplit(source_url).query).get("host", [""])[0]
    arguments = [
        "-h",
        host,
        "-U",
        USER,
        "-D",
        str(folder.postgres),
        "-X",
        "stream",
        "-c",
        "fast",
        "--no-sync",
    ]
    try:
        status, output = await children.run(
            identity, program, *arguments, "--no-password", timeout_s=_BACKUP_TIMEOUT_S
        )
    except TimeoutError as error:
        raise FinFlowError(
            "clone_not_made", f"the backup took longer than {_BACKUP_TIMEOUT_S:.0f} s"
        ) from error
    if status != 0:
        raise FinFlowError(
            "clone_not_made", (output.strip().splitlines() or ["pg_basebackup wrote nothing"])[-1]
        )


@asynccontextmanager
async def clone_of_template(template_url: str, *, keep: bool = False) -> AsyncIterator[str]:
    """The URL of a new database copied from another one of the same server, dropped at the end.

    The template must be a restored backup that nobody else is connected to: PostgreSQL copies no other.
    Raises clone_not_made.
    """
    name = _DATABASE + secrets.token_hex(6)
    template = unquote(urlsplit(template_url).path.lstrip("/"))
    maintenance, fresh = _with_database(template_url, "postgres"), _with_database(template_url, name)
    await _execute(maintenance, f"create database {name} template {_quoted(template)} strategy file_copy")
    try:
        await marked(fresh, "clone")
        yield fresh
    finally:
        if not keep:
            await asyncio.shield(_execute(maintenance, f"drop database if exists {name} with (force)"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _with_database(url: str, name: str) -> str:
    parts = urlsplit(url)
    # urlunsplit() leaves out the empty host of a URL that names a socket folder in its query.
    return f"{parts.scheme}://{parts.netloc}/{quote(name)}" + (f"?{parts.query}" if parts.query else "")


async def _execute(url: str, statement: str) -> None:
    connection = await connect(
        url, application_name="finflow acceptance", command_timeout_s=_BACKUP_TIMEOUT_S
    )
    try:
        await connection.execute(statement)
    except asyncpg.PostgresError as error:
        raise FinFlowError("clone_not_made", redact(str(error))) from error
    finally:
        await connection.close(timeout=5)


async def marked(url: str, what: str) -> None:
    """Marks the database as a clone."""
    connection = await connect(url, application_name="finflow acceptance", command_timeout_s=None)
    try:
        await store.mark(connection)
    except asyncpg.PostgresError as error:
        raise FinFlowError("clone_not_made", f"the {what} cannot be marked: {error}") from error
    finally:
        await connection.close(timeout=5)
