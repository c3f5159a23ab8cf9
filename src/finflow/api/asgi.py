"""The application that a worker serves: routes, error handling, start-up and shutdown.

`finflow.api.asgi:application` is made from the environment when it is first asked for.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from litestar import Litestar
from litestar.datastructures import State

from finflow import __version__
from finflow.api import (
    accounts,
    batches,
    clients,
    docs_page,
    fx,
    health,
    identity,
    ledgers,
    limits,
    oauth,
    openapi,
    settlement,
    settlement_messages,
    state,
    transactions,
)
from finflow.api.admission import Doorkeeper
from finflow.api.decoding import BATCH_BODY_LIMIT
from finflow.api.direct import Routes
from finflow.api.envelope import DEADLINE_S, Door, Envelope
from finflow.api.forwarded import Forwarded
from finflow.api.metrics_page import MetricsPage
from finflow.api.problems import on_error
from finflow.api.state import Services
from finflow.api.watching import Watch
from finflow.kernel.tasks import is_cancelled
from finflow.settlement.worker import Worker
from finflow.telemetry import instruments, vitals
from finflow.telemetry.exposition import Exposition

log = logging.getLogger(__name__)

SWEEP_AGAIN_S: Final = 5.0
SETTLE_AGAIN_S: Final = 5.0
# Work is taken up within a second, and done in one go: an idle process asks the database no more often.
POLL_S: Final = 1.0
GC_THRESHOLDS: Final = (20_000, 20, 50)

HANDLERS: Final = (
    health.healthz,
    health.readyz,
    openapi.openapi_json,
    docs_page.docs_page,
    docs_page.docs_file,
    ledgers.create_tenant,
    ledgers.list_tenants,
    ledgers.read_tenant,
    ledgers.create_ledger,
    ledgers.list_ledgers,
    ledgers.read_ledger,
    ledgers.read_trial_balance,
    ledgers.list_changes,
    ledgers.declare_asset,
    oauth.get_token,
    oauth.read_jwks,
    oauth.read_metadata,
    clients.create_client,
    clients.list_clients,
    clients.read_client,
    clients.add_client_key,
    clients.revoke_client_key,
    clients.revoke_client,
    limits.read_limits,
    limits.change_limits,
    accounts.open_account,
    accounts.change_account,
    accounts.freeze_account,
    accounts.unfreeze_account,
    accounts.close_account,
    accounts.list_accounts,
    accounts.read_account,
    accounts.read_balance,
    accounts.list_entries,
    accounts.list_holds,
    transactions.post_transaction,
    transactions.post_pending,
    transactions.void_pending,
    transactions.reverse_transaction,
    transactions.expire_pending,
    transactions.read_transaction,
    transactions.list_transactions,
    batches.post_batch,
    *fx.HANDLERS,
    *settlement.HANDLERS,
    *settlement_messages.HANDLERS,
)

OpenServices = Callable[[], AbstractAsyncContextManager[Services]]


def build(
    open_services: OpenServices,
    deadline_s: float = DEADLINE_S,
    door: Door | None = None,
    exposition: Exposition | None = None,
    release: str = __version__,
    access_ratio: float = 0.0,
    proof: bytes | None = None,
) -> Envelope | Forwarded:
    """The ASGI application over these services, which are opened at start-up and closed at shutdown.

    Requests pass a Doorkeeper unless there is another `door`, which is for measurements alone. `proof` is
    what the ingress in front proves itself by, if there is one.
    """
    app = Litestar(
        list(HANDLERS),
        lifespan=[_lifespan(open_services, lambda: instruments.active_requests.set(envelope.underway))],
        guards=[identity.guard],
        exception_handlers={Exception: on_error},
        logging_config=None,
        openapi_config=None,
        state=State({"handlers": HANDLERS}),
        request_max_body_size=BATCH_BODY_LIMIT,
    )
    door = door or Doorkeeper(lambda: app.state.services)
    watch = Watch(HANDLERS, release, access_ratio)
    envelope = Envelope(app, deadline_s, Routes(app, HANDLERS), door, watch, MetricsPage(exposition))
    return Forwarded(envelope, proof) if proof else envelope


def _lifespan(
    open_services: OpenServices, sample: Callable[[], None]
) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with open_services() as services:
            state.put(app, services)
            beside = [
                asyncio.create_task(
                    _keep("the sweep of expired holds", services.ledger.sweep, SWEEP_AGAIN_S),
                    name="sweep-expired-holds",
                ),
                asyncio.create_task(services.limits.watch(), name="watch-limits"),
                asyncio.create_task(
                    _keep("settlement", Worker(services.settlement, poll_s=POLL_S).run, SETTLE_AGAIN_S),
                    name="settle",
                ),
                asyncio.create_task(vitals.sampled(sample), name="sample-requests"),
            ]
            try:
                yield
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)

    return lifespan


async def _keep(name: str, work: Callable[[], Awaitable[None]], again_in_s: float) -> None:
    """Do this again and again until cancelled, whatever it runs into."""
    while not is_cancelled():
        try:
            await work()
        except Exception:
            log.exception("%s broke off", name, extra={"again_in_s": again_in_s})
        if not is_cancelled():
            await asyncio.sleep(again_in_s)


def from_environment() -> Envelope | Forwarded:
    """The application that the FINFLOW_* variables describe. Raises setting_malformed."""
    from finflow.app import Config, measuring, proof, services, traced
    from finflow.telemetry import levels, logs

    config = Config.load()
    logs.configure(config.log_level, release=config.release)
    levels.watch(config.data, config.log_level)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Services]:
        async with traced(config), services(config) as found:
            _rest_the_collector()
            yield found

    return build(
        opened,
        exposition=measuring(config),
        release=config.release,
        access_ratio=config.access_log_ratio,
        proof=proof(config),
    )


def _rest_the_collector() -> None:
    """Look for garbage cycles less often: requests make few, and what start-up made lives for ever."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def __getattr__(name: str) -> Any:
    if name != "application":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = made = from_environment()
    return made
