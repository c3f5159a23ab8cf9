"""Where an acceptance runs: a clone made for it from a backup or a template, or one that is there already."""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import asyncpg

from finflow.acceptance import store
from finflow.db.pool import connect
from finflow.kernel.errors import FinFlowError
from finflow.stack.clone import cloned_server, remove
from finflow.stack.folder import DataFolder
from finflow.telemetry.redaction import redact

_COPY_TIMEOUT_S: Final = 240.0
_DATABASE: Final = "finflow_acceptance_"


@asynccontextmanager
async def clone_of_embedded(source_url: str) -> AsyncIterator[str]:
    """The URL of a second server on a base backup of the embedded one; both it and its files go at the end.

    The source only sends what it sends to any standby. Raises clone_failed.
    """
    folder = DataFolder(Path(tempfile.mkdtemp(prefix="ff-clone-")))
    try:
        async with cloned_server(source_url, folder) as server:
            await marked(server.url(), "clone")
            yield server.url()
    finally:
        await asyncio.shield(remove(folder))


@asynccontextmanager
async def clone_of_template(template_url: str) -> AsyncIterator[str]:
    """The URL of a new database copied from another one of the same server, dropped at the end.

    The template must be a restored backup that nobody else is connected to: PostgreSQL copies no other.
    Raises clone_failed.
    """
    name = _DATABASE + secrets.token_hex(6)
    template = unquote(urlsplit(template_url).path.lstrip("/"))
    maintenance, fresh = _with_database(template_url, "postgres"), _with_database(template_url, name)
    await _execute(maintenance, f"create database {name} template {_quoted(template)} strategy file_copy")
    try:
        await marked(fresh, "clone")
        yield fresh
    finally:
        await asyncio.shield(_execute(maintenance, f"drop database if exists {name} with (force)"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _with_database(url: str, name: str) -> str:
    parts = urlsplit(url)
    # urlunsplit() leaves out the empty host of a URL that names a socket folder in its query.
    return f"{parts.scheme}://{parts.netloc}/{quote(name)}" + (f"?{parts.query}" if parts.query else "")


async def _execute(url: str, statement: str) -> None:
    connection = await connect(url, application_name="finflow acceptance", command_timeout_s=_COPY_TIMEOUT_S)
    try:
        await connection.execute(statement)
    except asyncpg.PostgresError as error:
        raise FinFlowError("clone_failed", redact(str(error))) from error
    finally:
        await connection.close(timeout=5)


async def marked(url: str, what: str) -> None:
    """Marks the database as a clone."""
    connection = await connect(url, application_name="finflow acceptance", command_timeout_s=None)
    try:
        await store.mark(connection)
    except asyncpg.PostgresError as error:
        raise FinFlowError("clone_failed", f"the {what} cannot be marked: {error}") from error
    finally:
        await connection.close(timeout=5)
