"""A pool that measures how long callers wait for a connection, and how many connections are in use."""

from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import asyncpg
from asyncpg.connection import Connection

from finflow.telemetry import instruments

if TYPE_CHECKING:
    _Pool = asyncpg.Pool[asyncpg.Record]
else:
    _Pool = asyncpg.Pool

# What `asyncpg.create_pool` would fill in.
_DEFAULTS: Final[dict[str, Any]] = {
    "max_queries": 50_000,
    "max_inactive_connection_lifetime": 300.0,
    "connection_class": Connection,
    "record_class": asyncpg.Record,
    "loop": None,
    "setup": None,
    "init": None,
}
_pools: "WeakSet[MeasuredPool]" = WeakSet()


class MeasuredPool(_Pool):
    """An asyncpg pool whose every acquisition is timed."""

    async def _acquire(self, timeout: float | None) -> Any:  # noqa: ASYNC109 - the signature is asyncpg's
        began_s = perf_counter()
        instruments.pool_pending.add(1)
        try:
            return await super()._acquire(timeout)  # type: ignore[misc] # what `acquire` awaits
        except TimeoutError:
            instruments.pool_timeouts.inc()
            raise
        finally:
            instruments.pool_pending.add(-1)
            instruments.pool_wait.observe(perf_counter() - began_s)


def create_pool(url: str, **options: Any) -> MeasuredPool:
    """What `asyncpg.create_pool` answers, measured; await it to open it."""
    pool = MeasuredPool(url, **(_DEFAULTS | options))
    _pools.add(pool)
    return pool


def sample() -> None:
    """Set the gauges to what all pools of this process are now."""
    live = [pool for pool in _pools if not pool.is_closing()]
    open_ = sum(pool.get_size() for pool in live)
    idle = sum(pool.get_idle_size() for pool in live)
    instruments.pool_idle.set(idle)
    instruments.pool_used.set(open_ - idle)
    instruments.pool_max.set(sum(pool.get_max_size() for pool in live))
