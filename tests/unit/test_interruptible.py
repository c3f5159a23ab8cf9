"""A cancelled task ends, also where the server cancelled the statement after the one that was meant."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from finflow.db.apply import guarded, interruptible
from finflow.kernel.tasks import is_cancelled

PASSING = (asyncpg.QueryCanceledError,)


async def rolled_back_late() -> None:
    """What a transaction does whose ROLLBACK the server cancels in the statement's place."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise asyncpg.QueryCanceledError("canceling statement due to user request") from None


async def timed_out() -> None:
    raise asyncpg.QueryCanceledError("canceling statement due to statement timeout")


@pytest.mark.parametrize("asked", [interruptible, lambda work: guarded("0001_x.backfill", work, PASSING)])
async def test_the_interruption_comes_through(asked: Callable[[Awaitable[None]], Any]) -> None:
    async def rounds() -> None:
        while True:
            try:
                await asked(rolled_back_late())
            except asyncpg.QueryCanceledError:
                # As a backfill does that met a timeout: the next batch is smaller.
                await asyncio.sleep(0)

    task = asyncio.create_task(rounds())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)


@pytest.mark.parametrize("asked", [interruptible, lambda work: guarded("0001_x.backfill", work, PASSING)])
async def test_a_timeout_of_the_server_is_no_interruption(asked: Callable[[Awaitable[None]], Any]) -> None:
    with pytest.raises(asyncpg.QueryCanceledError):
        await asked(timed_out())


async def test_who_was_not_asked_to_stop_is_not_cancelled() -> None:
    assert not is_cancelled()
