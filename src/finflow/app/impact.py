"""The blast radius over the database that the configuration names, whether FinFlow runs or not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from finflow.app import Config
from finflow.kernel.errors import FinFlowError
from finflow.rollout.ports import BlastRadius


@asynccontextmanager
async def blast_radius(config: Config) -> AsyncIterator[BlastRadius]:
    """Raises database_unreachable, schema_absent, stack_running, and what an embedded server may raise."""
    from finflow.db.pool import open_pool
    from finflow.shadow.impact import JournalBlastRadius
    from finflow.stack.folder import DataFolder
    from finflow.stack.service import database

    state = DataFolder(config.data).read_state()
    # The state file masks the password of a server that is not ours.
    running = config.database_url is None and state is not None and state.postgres is not None
    url = state.database_url if running and state is not None else config.database_url
    async with database(config.data, url) as found:
        pool = await open_pool(found, max_size=2, application_name="finflow impact")
        try:
            yield JournalBlastRadius(pool)
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            raise FinFlowError("schema_absent", f"{error}.") from error
        finally:
            await pool.close()
