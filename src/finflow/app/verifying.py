"""What the shipped verification of the bank needs before it can ask: a synthetic tenant, a ledger, tokens.

The tenant is found again by its name, so that years of verifications leave one tenant behind. Whatever a run
books it takes back; see verification/specs/bank.yaml.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    from finflow.client.service import Client
    from finflow.client.tokens import TokenProvider

SYNTHETIC: Final = "finflow-verify (synthetic)"
_TIMEOUT_S: Final = 10.0
_BUDGET_S: Final = 30.0


async def inputs_of_tenant(
    url: str, tenant: "TokenProvider", operator: "TokenProvider | None" = None, tenant_id: str | None = None
) -> Mapping[str, str]:
    """The bank spec's inputs for somebody who has a tenant's token already.

    Raises the API's refusals and api_unreachable.
    """
    from finflow.client.service import Client

    async with Client(url, token=tenant, timeout_s=_TIMEOUT_S, budget_s=_BUDGET_S) as api:
        ledger_id = await _ledger(api)
        tenant_id = tenant_id or (await api.ledger(ledger_id)).tenant_id
    found = {"token": await tenant(), "tenant_id": tenant_id, "ledger_id": ledger_id}
    return found if operator is None else {**found, "operator_token": await operator()}


async def synthetic_tenant(url: str, operator: "TokenProvider") -> str:
    """The id of the synthetic tenant, made if it is not there. Raises operator_required and the like."""
    from finflow.client.service import Client

    async with Client(url, token=operator, timeout_s=_TIMEOUT_S, budget_s=_BUDGET_S) as api:
        async for each in api.tenants():
            if each.name == SYNTHETIC:
                return each.tenant_id
        return (await api.create_tenant(SYNTHETIC)).tenant_id


async def _ledger(api: "Client") -> str:
    """The tenant's ledger for verifications. A token that sees other people's ledgers is refused."""
    ledgers = await api.ledgers()
    if len({each.tenant_id for each in ledgers}) > 1:
        raise FinFlowError("tenant_required", "FINFLOW_TOKEN is the operator's; verification books money.")
    for each in ledgers:
        if each.name == SYNTHETIC:
            return each.ledger_id
    return (await api.create_ledger(SYNTHETIC)).ledger_id
