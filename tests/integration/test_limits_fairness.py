"""One tenant's reads never take every connection: another one's find one free."""

import asyncio

from finflow.db.readers import open_readers
from oracles.service import desk


async def test_a_tenant_s_reads_leave_connections_to_others(database_url: str) -> None:
    async with desk(database_url) as one, desk(database_url) as _:
        readers = await open_readers(database_url, max_size=4)
        inside, done = 0, asyncio.Event()

        async def read() -> None:
            nonlocal inside
            async with readers.entered(1, None):
                inside += 1
                await done.wait()

        greedy = [asyncio.create_task(read()) for _ in range(20)]
        try:
            async with asyncio.timeout(30):
                while inside < 3:
                    await asyncio.sleep(0.01)
                # Connected and asked, while seventeen of the other tenant's wait.
                async with readers.entered(2, None) as connection:
                    assert await connection.fetchval("select entered_tenant()") == 2
                    assert await connection.fetchval("select count(*) from tenants") == 1
            assert inside == 3
        finally:
            done.set()
            await asyncio.gather(*greedy)
            await readers.close()
        assert inside == 20
        assert await one.value("select count(*) from tenants") == 2
