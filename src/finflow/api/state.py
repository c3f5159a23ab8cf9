"""Where handlers find what they work with: the services that start-up put on the application."""

from typing import Any, Protocol

from finflow.api.decoding import HttpRequest
from finflow.fx.service import Exchange, FxService
from finflow.ledger.service import LedgerService


class Services(Protocol):
    """What the interface needs of the composition root."""

    @property
    def ledger(self) -> LedgerService: ...

    @property
    def fx(self) -> FxService: ...

    async def reachable(self, within_s: float) -> bool:
        """Whether the database answers within so many seconds."""
        ...


def services_of(request: HttpRequest) -> Services:
    found: Services = request.scope["litestar_app"].state.services
    return found


def ledger_of(request: HttpRequest) -> LedgerService:
    return services_of(request).ledger


def fx_of(request: HttpRequest) -> Exchange:
    return services_of(request).fx.of(ledger_of(request))


def put(app: Any, services: Services) -> None:
    app.state.services = services
