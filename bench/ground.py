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
from typing import Any

import asyncpg

from finflow.db.migrations import migrate
from finflow.db.pool import open_pool
from finflow.stack.folder import DataFolder
from finflow.stack.postgres import EmbeddedPostgres

RESULTS = Path(__file__).parent / "results"


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
