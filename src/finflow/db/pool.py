"""Connections to PostgreSQL, with a bound and a deadline on everything.

`search_path` is never touched. Readers (readers.py) keep a role and a place in their session, so a pooler in
between has to pool sessions. What the network and the disk do becomes an error of the catalogue here.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from finflow.db import traced
from finflow.db.measured import create_pool
from finflow.kernel.errors import FinFlowError
from finflow.telemetry.redaction import redact

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    PoolConnection = PoolConnectionProxy[asyncpg.Record]

MINIMUM_VERSION: Final = 15
CONNECT_TIMEOUT_S: Final = 10.0
COMMAND_TIMEOUT_S: Final = 60.0
STATEMENT_CACHE_SIZE: Final = 256

# What a connection attempt can raise when the server is not there, not ready or not letting us in.
CONNECT_ERRORS: Final = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InterfaceError,
)

# What a server says to whoever may not have the role that the connection asks for, or where there is none.
_NO_ROLE: Final = (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError)


async def open_pool(
    url: str,
    *,
    min_size: int = 1,
    max_size: int = 8,
    application_name: str = "finflow",
    command_timeout_s: float = COMMAND_TIMEOUT_S,
    statement_cache_size: int = STATEMENT_CACHE_SIZE,
    role: str | None = None,
    connection_class: "type[asyncpg.Connection[Any]] | None" = None,
) -> "asyncpg.Pool[asyncpg.Record]":
    """A pool of min_size to max_size connections, the first ones open, all of them in `role` if one is given.

    Raises database_unreachable, and database_role_unusable where the server does not give us the role.
    """
    settings = {"application_name": application_name} | ({"role": role} if role else {})
    try:
        return await create_pool(
            url,
            min_size=min_size,
            max_size=max_size,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=command_timeout_s,
            statement_cache_size=statement_cache_size,
            # Prepared statements are few and fixed, so none of them grows stale.
            max_cached_statement_lifetime=0,
            reset=_leave_as_it_is,
            connection_class=connection_class or traced.connection_class(),
            server_settings=settings,
        )
    except _NO_ROLE as error:
        raise FinFlowError("database_role_unusable", f"{role}: {error}") from error
    except CONNECT_ERRORS as error:
        raise unreachable(url, error) from error


async def _leave_as_it_is(_: object) -> None:
    """A connection goes back without a round trip that would clear what nobody has set.

    What a reader has entered it remembers itself. The pool still rolls back what was left open.
    """


async def connect(
    url: str,
    *,
    application_name: str = "finflow",
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    command_timeout_s: float | None = COMMAND_TIMEOUT_S,
    statement_cache_size: int = STATEMENT_CACHE_SIZE,
) -> "asyncpg.Connection[Any]":
    """One connection; the caller closes it. A transaction pooler in between wants no statement cache.

    Raises database_unreachable, or database_full.
    """
    try:
        return await asyncpg.connect(
            url,
            timeout=connect_timeout_s,
            command_timeout=command_timeout_s,
            statement_cache_size=statement_cache_size,
            server_settings={"application_name": application_name},
            connection_class=traced.connection_class(),
        )
    except asyncpg.DiskFullError as error:
        raise FinFlowError("database_full", str(error)) from error
    except CONNECT_ERRORS as error:
        raise unreachable(url, error) from error


def unreachable(url: str, error: BaseException) -> FinFlowError:
    """The database_unreachable error that says which server and why, without its password."""
    reason = str(error) or type(error).__name__
    return FinFlowError("database_unreachable", f"{redact(url)}: {redact(reason)}")


async def check_version(connection: "asyncpg.Connection[Any]") -> int:
    """The server's major version. Raises postgres_too_old below 15."""
    number: int = await connection.fetchval("SELECT current_setting('server_version_num')::int")
    major = number // 10_000
    if major < MINIMUM_VERSION:
        raise FinFlowError("postgres_too_old", f"The server runs PostgreSQL {major}.")
    return major


def is_open(connection: "asyncpg.Connection[Any] | PoolConnection") -> bool:
    """Whether it can be asked anything. One that was lost its pool has taken back already."""
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False


@asynccontextmanager
async def acquired(pool: "asyncpg.Pool[asyncpg.Record]") -> "AsyncIterator[PoolConnection]":
    """A connection of the pool for a read. What the network does becomes database_unreachable, retryable."""
    try:
        async with pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
            yield connection
    # The driver calls a connection that was lost while it was idle an internal error of its own.
    except (*CONNECT_ERRORS, asyncpg.InternalClientError, asyncpg.OperatorInterventionError) as error:
        raise FinFlowError("database_unreachable", type(error).__name__) from error
