"""Fixtures for everybody: one embedded PostgreSQL a session, and a fresh database a test."""

import asyncio
import io
import itertools
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from pytest_socket import disable_socket, enable_socket

from finflow.db.migrations import migrate
from finflow.stack.folder import DataFolder
from finflow.stack.postgres import EmbeddedPostgres
from finflow.telemetry import logs

_UNIT = Path(__file__).parent / "unit"
_TEMPLATE = "finflow_template"
_numbers = itertools.count(1)


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Unit tests are pure: a socket (but for the event loop's own pair) fails them."""
    if _UNIT in item.path.parents:
        disable_socket(allow_unix_socket=True)


def pytest_runtest_teardown(item: pytest.Item) -> None:
    if _UNIT in item.path.parents:
        enable_socket()


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets, gone after the session."""
    folder = Path(tempfile.mkdtemp(prefix="ff-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def postgres(short_folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """One server for the session. It skips the disk's guarantees; tests that kill servers start their own."""
    server = EmbeddedPostgres(DataFolder(short_folder / "session"), durable=False)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
async def template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated database that others are copied from."""
    await _execute(postgres, f"CREATE DATABASE {_TEMPLATE}")
    await migrate(postgres.url(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
async def database_url(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """The URL of a fresh, migrated database, dropped after the test."""
    async for url in _fresh(postgres, template):
        yield url


@pytest.fixture
async def database_url_empty(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The URL of a fresh database without any table, dropped after the test."""
    async for url in _fresh(postgres, "template1"):
        yield url


async def _fresh(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    name = f"test_{next(_numbers)}"
    # FILE_COPY of a small template is several times faster than writing it to the log block by block.
    await _execute(postgres, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield postgres.url(name)
    await _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(postgres: EmbeddedPostgres, statement: str) -> None:
    connection = await asyncpg.connect(postgres.url("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await asyncio.shield(connection.close())


@pytest.fixture
def log_stream() -> Iterator[io.StringIO]:
    """What is logged at `info` and above; the root logger is as it was afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    found = io.StringIO()
    logs.configure("info", found, "2026.11")
    yield found
    root.handlers[:] = handlers
    root.setLevel(level)
