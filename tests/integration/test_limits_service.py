"""What tenants may do, kept in the database: changed under a version, followed by every process."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from finflow.db.pool import open_pool
from finflow.kernel import ids
from finflow.kernel.clock import to_micros
from finflow.kernel.errors import FinFlowError
from finflow.limits.buckets import Buckets
from finflow.limits.model import Limits
from finflow.limits.service import LimitService

# One request in a quarter of an hour: what a test counts does not come back while it runs.
SLOW = Limits(1, 5, 3)


@asynccontextmanager
async def limits(url: str, path: Path | None = None) -> AsyncIterator[tuple[LimitService, list[str]]]:
    """A process's limits, and the ids of two tenants."""
    pool, memory = await open_pool(url, max_size=2), Buckets(path)
    try:
        yield LimitService(pool, memory, SLOW, 5), await tenants(pool)
    finally:
        memory.close()
        await pool.close()


async def tenants(pool: "asyncpg.Pool[asyncpg.Record]") -> list[str]:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for number in (1, 2):
        await pool.execute(
            "insert into tenants (name, created_at) select 't', $2 where not exists"
            " (select from tenants where tenant_no = $1)",
            number,
            at,
        )
    return [ids.mint("ten", to_micros(at), 0, number) for number in (1, 2)]


def begun(service: LimitService, tenant_id: str | None) -> str | None:
    """The code of a refusal, or None for a request that has begun."""
    if service.enter(tenant_id).wait_s:
        return "rate_limited"
    return None if service.start(tenant_id) else "concurrency_limited"


def headers(entry_headers: tuple[tuple[bytes, bytes], ...]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in entry_headers}


async def test_a_tenant_is_held_to_the_default_and_another_is_not_touched(database_url: str) -> None:
    async with limits(database_url) as (service, (one, two)):
        assert [begun(service, one) for _ in range(3)] == [None] * 3
        # The fourth is one too many at a time, and is charged all the same.
        assert [begun(service, one) for _ in range(2)] == ["concurrency_limited"] * 2
        refused = service.enter(one)
        assert (refused.wait_s, refused.delay_s) == (1, 0)
        assert headers(refused.headers) == {
            "ratelimit-policy": '"requests";q=5;w=5, "concurrency";q=3;qu="concurrent-requests"',
            "ratelimit": '"requests";r=0;t=5, "concurrency";r=0',
        }
        entry = service.enter(two)
        assert (entry.wait_s, entry.delay_s) == (0, 0)
        assert headers(entry.headers)["ratelimit"] == '"requests";r=4;t=1, "concurrency";r=2'
        assert begun(service, None) is None, "the operator has a share of its own"


async def test_whoever_leaves_makes_room(database_url: str) -> None:
    async with limits(database_url) as (service, (one, _)):
        await service.change(one, {"burst": 1_000}, None, "op")
        for _ in range(20):
            entries = [begun(service, one) for _ in range(4)]
            assert entries == [None, None, None, "concurrency_limited"]
            for _ in range(3):
                service.leave(one)


async def test_beyond_the_burst_requests_wait_for_their_turn_evenly_and_then_no_more(
    database_url: str,
) -> None:
    async with limits(database_url) as (service, (one, _)):
        await service.change(one, {"requests_per_s": 100, "burst": 10, "concurrency": 100}, None, "op")
        began_s = time.monotonic()
        entries = [service.enter(one) for _ in range(60)]
        # Whatever time that took gave turns back, a hundred a second.
        came = math.ceil((time.monotonic() - began_s) * 100)
        waiting = [entry.delay_s for entry in entries if entry.delay_s]
        refused = [entry for entry in entries if entry.wait_s]
        assert 25 <= len(waiting) <= 25 + came
        assert 60 - 10 - 25 - came <= len(refused) <= 60 - 10 - 25
        assert all(0 < delay_s <= 0.25 for delay_s in waiting)
        assert waiting == sorted(waiting)
        assert {headers(entry.headers)["ratelimit"][:14] for entry in entries if entry.delay_s} == {
            '"requests";r=0'
        }


async def test_processes_share_the_rate_but_not_the_concurrency(database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "limits"
    async with limits(database_url, path) as (here, (one, _)), limits(database_url, path) as (there, _):
        assert [begun(service, one) for service in (here, there, here, there, here)] == [None] * 5
        assert [begun(service, one) for service in (here, there)] == ["rate_limited"] * 2


async def test_a_change_counts_here_at_once_and_elsewhere_after_a_look(database_url: str) -> None:
    async with limits(database_url) as (here, (one, two)), limits(database_url) as (there, _):
        assert begun(there, one) is None
        before = await here.read(one)
        assert (before.requests_per_s, before.burst, before.concurrency) == SLOW
        assert (before.overridden, before.version) == ([], 0)
        changed = await here.change(one, {"burst": 2, "concurrency": 1}, ["0"], "op")
        assert (changed.burst, changed.concurrency, changed.requests_per_s) == (2, 1, 1)
        assert (changed.overridden, changed.version) == (["burst", "concurrency"], 1)
        assert [begun(here, one) for _ in range(3)] == [None, "concurrency_limited", "rate_limited"]
        await there.refresh()
        assert '"requests";q=2;w=2' in headers(there.enter(one).headers)["ratelimit-policy"]
        assert '"requests";q=5;w=5' in headers(there.enter(two).headers)["ratelimit-policy"]
        # Back to the default, field by field; what is not named stays.
        again = await there.change(one, {"burst": None}, ["1"], "op")
        assert (again.burst, again.concurrency, again.overridden, again.version) == (5, 1, ["concurrency"], 2)
        assert await here.read(one) == again


async def test_a_change_that_another_one_overtook_is_refused(database_url: str) -> None:
    async with limits(database_url) as (service, (one, _)):
        await service.change(one, {"burst": 7}, ["0"], "first")
        with pytest.raises(FinFlowError, match="precondition_failed"):
            await service.change(one, {"burst": 8}, ["0"], "second")
        assert (await service.read(one)).burst == 7
        # What changes nothing makes no version.
        assert (await service.change(one, {"burst": 7}, None, "third")).version == 1
        pool = await open_pool(database_url, max_size=1)
        rows = await pool.fetch("select version, changed_by, burst from tenant_limits")
        await pool.close()
        assert [tuple(row) for row in rows] == [(1, "first", 7)]


async def test_whatever_the_database_says_changes_are_followed_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finflow.limits.service.REFRESH_AGAIN_S", 0.01)
    monkeypatch.setattr("finflow.limits.service.REFRESH_S", 0.01)
    async with limits(database_url) as (here, (one, _)), limits(database_url) as (there, _):
        pool = await open_pool(database_url, max_size=1)
        await pool.execute("alter table tenant_limits rename to elsewhere")
        watching = asyncio.create_task(there.watch())
        await asyncio.sleep(0.1)
        await pool.execute("alter table elsewhere rename to tenant_limits")
        await here.change(one, {"burst": 77}, None, "x" * 300)
        async with asyncio.timeout(30):
            while '"requests";q=77' not in headers(there.enter(one).headers)["ratelimit-policy"]:
                await asyncio.sleep(0.01)
        assert await pool.fetchval("select changed_by from tenant_limits") == "x" * 255
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await pool.close()


@pytest.mark.parametrize(
    "tenant_id",
    [
        "ten_x",
        "",
        "acc_01kdv3n00000080000000000g2",
        ids.mint("ten", 1, 0, 1),
        ids.mint("ten", to_micros(datetime(2026, 1, 1, tzinfo=UTC)), 0, 77),
    ],
)
async def test_a_tenant_that_is_not_there_has_no_limits(database_url: str, tenant_id: str) -> None:
    async with limits(database_url) as (service, _):
        with pytest.raises(FinFlowError, match="tenant_unknown"):
            await service.read(tenant_id)
        with pytest.raises(FinFlowError, match="tenant_unknown"):
            await service.change(tenant_id, {"burst": 1}, None, "op")


async def test_strangers_are_bounded_by_their_address(database_url: str) -> None:
    async with limits(database_url) as (service, _):
        assert [service.stranger("10.0.0.1") for _ in range(11)] == [0] * 10 + [1]
        assert (service.stranger("10.0.0.1", cost=0), service.stranger("10.0.0.2", cost=0)) == (1, 0)


async def test_shares_are_forgotten_when_they_are_many_but_not_who_is_inside(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finflow.limits.service.MAX_SHARES", 3)
    async with limits(database_url) as (service, (one, _)):
        assert begun(service, one) is None
        for number in range(100, 120):
            tenant = ids.mint("ten", 1, 0, number)
            assert begun(service, tenant) is None
            service.leave(tenant)
        assert [begun(service, one) for _ in range(3)] == [None, None, "concurrency_limited"]
