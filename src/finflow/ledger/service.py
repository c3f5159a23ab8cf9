"""The shell of the ledger: what a process has one of. Tenants come in through `of`; see tenant.py."""

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from finflow.db.pool import acquired
from finflow.db.readers import Readers
from finflow.kernel import ids
from finflow.kernel.clock import Clock, system_clock
from finflow.kernel.errors import FinFlowError
from finflow.ledger import directory, queries, views
from finflow.ledger.lists import Page, Span
from finflow.ledger.tenant import Shared, TenantLedgers, check_name
from finflow.telemetry import tracing
from finflow.telemetry.instruments import queued_commands

if TYPE_CHECKING:
    import asyncpg

log = logging.getLogger(__name__)

SWEEP_EVERY_S: Final = 1.0
# Clocks of several machines differ: a sweep looks a day back again, which the index makes cheap.
SWEEP_OVERLAP_US: Final = 86_400_000_000
MAX_TENANTS: Final = 10_000


class LedgerService:
    """The ledgers of all tenants: `of(tenant_id)` for those of one, which is where money is.

    By itself it knows the directory alone, which is what the platform's operator may see: the names of
    tenants and ledgers. Unknown ids raise tenant_unknown or ledger_unknown. `release` is kept with whatever
    this process writes.
    """

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        readers: Readers,
        clock: Clock = system_clock,
        release: str | None = None,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._shared = Shared(pool, readers, clock, release)
        self._tenants: dict[str, TenantLedgers] = {}
        # Up to when holds that timed out are known to be released, in microseconds.
        self._swept = 0

    def of(self, tenant_id: str) -> TenantLedgers:
        """The ledgers of one tenant. Raises tenant_unknown for what is no tenant's id.

        Whether there is such a tenant is found out by what is asked of them.
        """
        found = self._tenants.get(tenant_id)
        if found is None:
            place = ids.parse("ten", tenant_id)
            if place is None:
                raise FinFlowError("tenant_unknown", f"no tenant {tenant_id[:40]!r}")
            if len(self._tenants) >= MAX_TENANTS:
                self._tenants.clear()
            found = self._tenants[tenant_id] = TenantLedgers(self._shared, tenant_id, place.number)
        return found

    # --- the directory ---

    async def create_tenant(self, name: str) -> views.TenantView:
        """A new tenant, without any ledger."""
        check_name(name)
        async with acquired(self._pool) as connection:
            return await directory.add_tenant(connection, name, self._clock())

    async def tenants(self, span: Span) -> Page[views.TenantView]:
        """A page of tenants in the order of their making."""
        async with acquired(self._pool) as connection:
            return await directory.read_tenants(connection, span)

    async def tenant(self, tenant_id: str) -> views.TenantView:
        """One tenant. Raises tenant_unknown."""
        async with acquired(self._pool) as connection:
            return await directory.read_tenant(connection, tenant_id)

    async def ledger_page(self, span: Span) -> Page[views.LedgerView]:
        """A page of all ledgers in the order of their opening."""
        async with acquired(self._pool) as connection:
            return await directory.read_ledger_page(connection, span)

    async def ledger(self, ledger_id: str) -> views.LedgerView:
        """One ledger, whosever it is. Raises ledger_unknown."""
        place = ids.parse("led", ledger_id)
        found = None
        if place is not None:
            async with acquired(self._pool) as connection:
                found = await directory.read_ledger(connection, place.ledger_no)
        if found is None or found.ledger_id != ledger_id:
            raise FinFlowError("ledger_unknown", f"no ledger {ledger_id[:40]!r}")
        return found

    # --- what runs beside the requests ---

    async def sweep(self) -> None:
        """Release expired holds of all ledgers, once a second, until cancelled."""
        while True:
            try:
                with tracing.root("ledger.sweep"):
                    for ledger in await self._due_ledgers():
                        await self.of(ledger.tenant_id).expire_due(ledger.ledger_id)
            except FinFlowError as error:
                log.warning("sweep of expired holds failed", extra={"error": repr(error)})
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _due_ledgers(self) -> list[views.LedgerView]:
        since, now = self._swept, self._clock()
        async with acquired(self._pool) as connection:
            due = await queries.read_due_ledgers(connection, since, now)
        if not due:
            self._swept = max(since, now - SWEEP_OVERLAP_US)
        return due

    def sample(self) -> None:
        """Set the gauge of commands that wait for their answer."""
        queued_commands.set(sum(writer.queued for writer in self._shared.writers.values()))

    async def close(self) -> None:
        """Write what is queued, then stop."""
        await asyncio.gather(*(writer.close() for writer in self._shared.writers.values()))
