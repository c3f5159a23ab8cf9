"""What every benchmark stands on: a durable server of its own, the machine's description, dated results."""

import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Any, Final

import asyncpg

from finflow.db.migrations import migrate
from finflow.db.pool import open_pool
from finflow.db.readers import open_readers
from finflow.identity.keys import KeyFolder
from finflow.identity.model import SCOPES
from finflow.identity.tokens import mint
from finflow.kernel.clock import Clock, system_clock
from finflow.ledger.service import LedgerService
from finflow.stack.folder import DataFolder
from finflow.stack.postgres import EmbeddedPostgres
from finflow.stack.service import Stack

RESULTS = Path(__file__).parent / "results"
# What writes says its release, as in production: the journal keeps it with every row.
RELEASE: Final = "2026.11.28-a1b2c3d"
# For loads that measure how fast the house is, not how it holds somebody back: the limits are checked all
# the same, and never reached.
OUT_OF_REACH: Final = {
    "FINFLOW_TENANT_REQUESTS_PER_S": "1000000",
    "FINFLOW_TENANT_BURST": "10000000",
    "FINFLOW_TENANT_CONCURRENCY": "100000",
}


@asynccontextmanager
async def durable_database() -> AsyncIterator[str]:
    """A fresh embedded server with fsync and synchronous_commit on, migrated; stopped and removed after."""
    with tempfile.TemporaryDirectory(prefix="finflow-bench-") as folder:
        data = DataFolder(Path(folder) / "data")
        data.create()
        server = EmbeddedPostgres(data)
        await server.start()
        try:
            await migrate(server.url())
            yield server.url()
        finally:
            await server.stop()


async def pool_of(url: str, size: int = 6) -> "asyncpg.Pool[asyncpg.Record]":
    return await open_pool(url, min_size=size, max_size=size)


@asynccontextmanager
async def ledgers(
    url: str, size: int = 6, clock: Clock = system_clock
) -> "AsyncIterator[tuple[LedgerService, asyncpg.Pool[Any]]]":
    """The ledgers of a database beside whatever runs on it, and the pool that they use."""
    pool = await pool_of(url, size)
    readers = await open_readers(url, max_size=2)
    service = LedgerService(pool, readers, clock, RELEASE)
    try:
        yield service, pool
    finally:
        await service.close()
        await readers.close()
        pool.terminate()


def token(stack: Stack, tenant_id: str | None) -> str:
    """A fresh access token with every scope, for a tenant or, without one, for the operator."""
    key = KeyFolder(stack.folder.root / "keys").ensure(time())
    return mint(key, issuer=stack.url, subject="bench", tenant_id=tenant_id, scopes=SCOPES, now_s=time())


def median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "interpreter": sys.version,
        "kernel": platform.release(),
        "load_1m": os.getloadavg()[0],
    }


def report(name: str, figures: dict[str, Any], *, seed: int, as_json: bool, keep: bool) -> None:
    """Print the figures; with `keep`, also write them to results/ under today's date."""
    now = datetime.now(UTC)
    document = {
        "benchmark": name,
        "at": now.isoformat(timespec="seconds"),
        "seed": seed,
        "machine": machine(),
        **figures,
    }
    if keep:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{now:%Y-%m-%d}-{name}.json"
        path.write_text(json.dumps(document, indent=2) + "\n")
    if as_json:
        print(json.dumps(document))
    else:
        width = max(len(key) for key in figures)
        for key, value in figures.items():
            print(f"{key:<{width}}  {value}")
    sys.stdout.flush()
