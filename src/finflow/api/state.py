"""Where handlers find what they work with: the services that start-up put on the application."""

from typing import Any, Protocol

from finflow.api.decoding import HttpRequest
from finflow.api.identity import Verifies, principal_of
from finflow.fx.service import Exchange, FxService
from finflow.identity.service import IdentityService
from finflow.ledger.lists import Page, Span
from finflow.ledger.service import LedgerService
from finflow.ledger.tenant import TenantLedgers
from finflow.ledger.views import LedgerView, TenantView
from finflow.limits.service import LimitService
from finflow.settlement.service import Settlement, SettlementService


class Services(Protocol):
    """What the interface needs of the composition root."""

    @property
    def ledger(self) -> LedgerService: ...

    @property
    def verifier(self) -> Verifies: ...

    @property
    def identity(self) -> IdentityService: ...

    @property
    def limits(self) -> LimitService: ...

    @property
    def fx(self) -> FxService: ...

    @property
    def settlement(self) -> SettlementService: ...

    async def reachable(self, within_s: float) -> bool:
        """Whether the database answers within so many seconds."""
        ...


def services_of(request: HttpRequest) -> Services:
    found: Services = request.scope["litestar_app"].state.services
    return found


class Directory(Protocol):
    """The tenants and ledgers that a caller may see: all of them, or one tenant's."""

    async def tenants(self, span: Span) -> Page[TenantView]: ...
    async def tenant(self, tenant_id: str) -> TenantView: ...
    async def ledger_page(self, span: Span) -> Page[LedgerView]: ...
    async def ledger(self, ledger_id: str) -> LedgerView: ...


def ledger_of(request: HttpRequest) -> TenantLedgers:
    """The ledgers of the caller's tenant, which its token names and nothing else does."""
    tenant_id = principal_of(request).tenant_id
    assert tenant_id is not None, "the guard asked for a tenant"
    return services_of(request).ledger.of(tenant_id)


def directory_of(request: HttpRequest) -> Directory:
    """The directory of the caller's tenant, or for the operator that of all."""
    ledgers, tenant_id = services_of(request).ledger, principal_of(request).tenant_id
    return ledgers if tenant_id is None else ledgers.of(tenant_id)


def fx_of(request: HttpRequest) -> Exchange:
    return services_of(request).fx.of(ledger_of(request))


def settlement_of(request: HttpRequest) -> Settlement:
    return services_of(request).settlement.of(ledger_of(request))


def put(app: Any, services: Services) -> None:
    app.state.services = services
