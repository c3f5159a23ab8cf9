"""The demonstration's bank: a tenant with customers who have money, rates, and participants that settle."""

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from finflow.client.fx import NewRate
from finflow.client.model import Account, Leg, NewAccount, NewTransaction
from finflow.client.service import Client
from finflow.demo.intents import FOREIGN, HOME, Customer

# What one unit of the home currency buys. Rates are the demonstration's own, near those of 2026.
_RATES: Final = {"USD": "0.77", "EUR": "0.66", "VND": "20150"}
_MEMBERS: Final = ("ALFA", "BETA", "GAMMA")
_PLENTY: Final = "100000"
_SOURCE: Final = "demo"


class World(msgspec.Struct, frozen=True):
    """Where the live traffic happens: ids that requests name."""

    tenant_id: str
    ledger_id: str
    vault: str
    customers: list[Customer]
    members: tuple[str, ...] = _MEMBERS


async def open_world(api: Client, tenant_id: str, count: int) -> World:
    """Open a ledger with so many customers, each with money at home and an account in each currency."""
    ledger_id = (await api.create_ledger("live")).ledger_id
    vault = await api.open_account(NewAccount(ledger_id, HOME, "asset", "live:vault", overdraft_limit=None))
    customers = [await _customer(api, ledger_id, number) for number in range(count)]
    gifts = [_gift(vault, customer) for customer in customers]
    results = await api.post_batch(ledger_id, gifts, key="live:gifts")
    assert all(each.code is None for each in results), "a vault without limit can give"
    await _push_rates(api, ledger_id)
    for name in _MEMBERS:
        await api.settlement.add_participant(ledger_id, name, "member", [HOME], overdraft_limit=None)
    return World(tenant_id, ledger_id, vault.account_id, customers)


async def _customer(api: Client, ledger_id: str, number: int) -> Customer:
    accounts = {}
    for currency in (HOME, *FOREIGN):
        new = NewAccount(ledger_id, currency, "liability", f"live:{number}:{currency}")
        accounts[currency] = (await api.open_account(new)).account_id
    return Customer(f"customer-{number:05}", accounts)


def _gift(vault: Account, customer: Customer) -> NewTransaction:
    legs = (
        Leg(vault.account_id, "debit", _PLENTY, HOME),
        Leg(customer.accounts[HOME], "credit", _PLENTY, HOME),
    )
    return NewTransaction(f"live:gift:{customer.key}", legs, "opening balance")


async def _push_rates(api: Client, ledger_id: str) -> None:
    now = datetime.now(UTC)
    rates = [
        NewRate(HOME, currency, rate, _SOURCE, now, now + timedelta(days=1))
        for currency, rate in _RATES.items()
    ]
    await api.fx.push_rates(ledger_id, rates)
