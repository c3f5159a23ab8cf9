"""The retry storm: 500 clients with retries against settlement whose tables somebody holds locked.

`python -m bench.storm [--json] [--keep] [--short]`. One process, one database. A calm phase tells the rate;
then a lock is held on settlement_orders for some seconds, and let go. `storm_amplification` is attempts per
intent, `storm_waiting` the most sessions that waited for a lock at once, `storm_recovery_s` the time from the
end of the lock until a second with four fifths of the calm rate. For comparison, the same with clients that
give up early and ask again at once, and with acceptance and locks without bounds.
"""

import sys

if not __package__:
    # Run as a file, Python looks into this folder first, where http.py would stand for the library's http.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bench.ground import durable_database, ledgers, report
from finflow.client.retries import retry_delay_s
from finflow.kernel.clock import system_clock
from finflow.kernel.errors import FinFlowError
from finflow.settlement import acceptance, database
from finflow.settlement.database import Bound
from finflow.settlement.orders import OrderDraft
from finflow.settlement.register import NewParticipant
from finflow.settlement.service import Settlement, SettlementService

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

SEED: Final = 500
CLIENTS: Final = 500
LOCKED_S: Final = 5.0
RETRY_AFTER_S: Final = 1.0
_WAITING: Final = """
select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
"""
_LOCK: Final = "lock table settlement_orders in access exclusive mode"


class Intent(NamedTuple):
    """What a client wants done once: orders under a key."""

    key: str
    drafts: Sequence[OrderDraft]


class Storm(NamedTuple):
    """What was seen: attempts and intents, sessions that waited for locks, moments of the ends (s)."""

    intents: int
    attempts: int
    most_waiting: int
    waiting_after: int
    done_at_s: list[float]
    released_at_s: float

    @property
    def amplification(self) -> float:
        return self.attempts / self.intents

    def recovery_s(self, calm_per_s: float) -> float:
        """From the end of the lock to the first second with four fifths of the calm rate."""
        after = sorted(each for each in self.done_at_s if each >= self.released_at_s)
        for start in after:
            if sum(start <= each < start + 1 for each in after) >= min(0.8 * calm_per_s, len(after)):
                return start - self.released_at_s
        return (after[-1] if after else time.monotonic()) - self.released_at_s


Attempt = Callable[[Intent], Any]


class Clients:
    """Many clients, each with intents one after the other. They repeat as ours do or, `naive`, give up after
    so many seconds and ask again at once."""

    def __init__(self, attempt: Attempt, naive_s: float | None = None) -> None:
        self._attempt = attempt
        self._naive_s = naive_s
        self._random = random.Random(SEED)
        self.attempts = 0
        self.done_at_s: list[float] = []

    async def run(self, work: Sequence[Sequence[Intent]]) -> None:
        await asyncio.gather(*(self._client(mine) for mine in work))

    async def _client(self, mine: Sequence[Intent]) -> None:
        for intent in mine:
            attempt = 0
            while not await self._try(intent):
                attempt += 1
                if self._naive_s is None:
                    await asyncio.sleep(retry_delay_s(attempt, self._random.random(), RETRY_AFTER_S))
            self.done_at_s.append(time.monotonic())

    async def _try(self, intent: Intent) -> bool:
        self.attempts += 1
        try:
            async with asyncio.timeout(self._naive_s):
                await self._attempt(intent)
        except TimeoutError:
            return False
        except FinFlowError as error:
            if not error.kind.retryable:
                raise
            return False
        return True


@asynccontextmanager
async def unbounded(room: SettlementService) -> "AsyncIterator[None]":
    """Acceptance without its bounds: everybody at once, and locks waited for as long as it takes."""
    limits, database._LIMITS = database._LIMITS, "set local lock_timeout = 0"  # type: ignore[misc] # put back below
    bound, room.acceptance._bound = room.acceptance._bound, Bound(100_000, 100_000)
    try:
        yield
    finally:
        database._LIMITS, room.acceptance._bound = limits, bound  # type: ignore[misc] # as it was


async def weather(
    pool: "asyncpg.Pool[asyncpg.Record]", url_connection: Any, clients: Clients, work: Any, locked_s: float
) -> Storm:
    """Clients at work while the table is locked for some seconds from the start."""
    waiting: list[int] = []

    async def watch() -> None:
        while True:
            waiting.append(await watcher.fetchval(_WAITING))
            await asyncio.sleep(0.1)

    locker, watcher = await url_connection(), await url_connection()
    watching = asyncio.create_task(watch())
    try:
        async with locker.transaction():
            await locker.execute(_LOCK)
            running = asyncio.create_task(clients.run(work))
            await asyncio.sleep(locked_s)
        released = time.monotonic()
        await running
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        after = await watcher.fetchval(_WAITING)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await asyncio.gather(locker.close(), watcher.close())
    count = sum(len(mine) for mine in work)
    return Storm(count, clients.attempts, max(waiting), after, clients.done_at_s, released)


def made_work(clients: int, each: int, names: str, members: Sequence[str]) -> list[list[Intent]]:
    """Intents: one order each but, for every tenth client, a batch of twenty."""
    rng = random.Random(SEED)
    work = []
    for client in range(clients):
        mine = []
        for number in range(each):
            key, size = f"{names}-{client}-{number}", 20 if client % 10 == 0 else 1
            drafts = [
                OrderDraft(*rng.sample(list(members), 2), "SGD", "1.25", f"{key}-{n}") for n in range(size)
            ]
            mine.append(Intent(key, drafts))
        work.append(mine)
    return work


def accepting(settlement: Settlement, ledger_id: str) -> Attempt:
    async def attempt(intent: Intent) -> None:
        for outcome in await settlement.accept(ledger_id, intent.drafts, intent.key):
            if outcome.code is not None:
                raise FinFlowError(outcome.code, outcome.order_id)

    return attempt


async def measure(clients: int, locked_s: float) -> dict[str, Any]:
    members = [f"BANK{number:02}" for number in range(20)]
    async with durable_database() as url, ledgers(url, 8, system_clock) as (service, pool):
        room = SettlementService(pool, service)
        tenant = service.of((await service.create_tenant("storm")).tenant_id)
        ledger_id = (await tenant.create_ledger("storm")).ledger_id
        settlement = room.of(tenant)
        for name in members:
            await settlement.add_participant(
                ledger_id, NewParticipant(name, "member", ["SGD"], overdraft_limit=None)
            )
        attempt = accepting(settlement, ledger_id)
        calm = Clients(attempt)
        start = time.monotonic()
        await calm.run(made_work(clients, 2, "calm", members))
        calm_per_s = len(calm.done_at_s) / (time.monotonic() - start)

        async def connection() -> Any:
            import asyncpg

            return await asyncpg.connect(url)

        ours = await weather(
            pool, connection, Clients(attempt), made_work(clients, 2, "ours", members), locked_s
        )
        hasty = await weather(
            pool, connection, Clients(attempt, 1.0), made_work(clients, 1, "hasty", members), locked_s
        )
    return {
        "storm_clients": clients,
        "storm_locked_s": locked_s,
        "storm_calm_intents_per_s": round(calm_per_s),
        "storm_amplification": round(ours.amplification, 3),
        "storm_waiting": ours.most_waiting,
        "storm_recovery_s": round(ours.recovery_s(calm_per_s), 2),
        "storm_hasty_clients_amplification": round(hasty.amplification, 3),
        "storm_hasty_clients_waiting": hasty.most_waiting,
        "storm_accepting_at_once": acceptance.ACCEPTING_AT_ONCE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="few clients: shows that it runs")
    options = parser.parse_args()
    clients, locked_s = (50, 1.0) if options.short else (CLIENTS, LOCKED_S)
    figures = asyncio.run(measure(clients, locked_s))
    report("storm", figures, seed=SEED, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
