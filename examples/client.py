"""A bank's first day with FinFlow's own client: keys, retries and pages are its business.

Needs a FinFlow that runs (`finflow up`). What it prints is beside it: client.out. FINFLOW_URL names the API,
FINFLOW_TOKEN holds a tenant's token: `finflow token --tenant ID`.
"""

import asyncio
import os

from finflow.client.model import Leg, NewAccount, NewTransaction
from finflow.client.service import Client
from finflow.client.tokens import StaticToken
from finflow.kernel.errors import FinFlowError

API = os.environ.get("FINFLOW_URL", "http://127.0.0.1:8400")


def transfer(debit: str, credit: str, amount: str, description: str, pending: bool = False) -> NewTransaction:
    legs = (Leg(debit, "debit", amount, "SGD"), Leg(credit, "credit", amount, "SGD"))
    return NewTransaction(entries=legs, description=description, pending=pending)


async def main() -> None:
    async with Client(API, token=StaticToken(os.environ["FINFLOW_TOKEN"])) as api:
        ledger_id = (await api.create_ledger("Retail")).ledger_id
        vault = await api.open_account(NewAccount(ledger_id, "SGD", "asset", "vault", overdraft_limit=None))
        alice = await api.open_account(NewAccount(ledger_id, "SGD", "liability", "alice"))
        bob = await api.open_account(NewAccount(ledger_id, "SGD", "liability", "bob"))

        await api.post(ledger_id, transfer(vault.account_id, alice.account_id, "200", "Deposit"))
        hold = await api.post(
            ledger_id, transfer(alice.account_id, bob.account_id, "80", "Dinner", pending=True)
        )
        found = await api.balance(alice.account_id)
        print(f"alice has {found.balance}, of which {found.available} are available")
        await api.capture(hold.transaction_id, "72.40")

        try:
            await api.post(ledger_id, transfer(bob.account_id, alice.account_id, "500", "Too much"))
        except FinFlowError as error:
            print(f"refused: {error.kind.code} at {error.param}")

        async for entry in api.entries(alice.account_id, order="oldest"):
            moved = f"{entry.kind:<9} {entry.direction:<6} {entry.amount:>7}"
            print(f"{entry.version} {moved} -> {entry.balance:>7}")
        books = await api.trial_balance(ledger_id)
        print(f"balanced: {books.balanced}")


if __name__ == "__main__":
    asyncio.run(main())
