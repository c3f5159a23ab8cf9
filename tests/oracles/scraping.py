"""A load generator that counts for itself, to hold metrics to."""

import asyncio
import socket
from collections import Counter
from itertools import count
from typing import Any

import httpx

from oracles.http import bearer
from oracles.tokens import operator_token, tenant_token

Json = dict[str, Any]


class Load:
    """Posts transactions, and counts what was sent and what was answered."""

    def __init__(self, client: httpx.AsyncClient, ledger_id: str, accounts: list[str]) -> None:
        self._client = client
        self._ledger_id = ledger_id
        self._accounts = accounts
        self._keys = count()
        self.sent = 0
        self.answered: Counter[int] = Counter()

    async def post(self, amount: str = "1.00") -> None:
        await self._send("/v1/transactions", self._body(amount))

    def _body(self, amount: str) -> Json:
        directions = zip(self._accounts, ("debit", "credit"), strict=True)
        return {
            "ledger_id": self._ledger_id,
            "entries": [
                {"account_id": account, "direction": direction, "amount": amount, "currency": "SGD"}
                for account, direction in directions
            ],
        }

    async def _send(self, path: str, body: Json) -> httpx.Response | None:
        self.sent += 1
        headers = {"Idempotency-Key": f"key-{next(self._keys)}"}
        try:
            answer = await self._client.post(path, json=body, headers=headers)
        except httpx.HTTPError:
            return None
        self.answered[answer.status_code] += 1
        return answer

    async def hold(self, then: str) -> None:
        """Hold an amount (or post it, to be reversed), then do this with it."""
        made = await self._send("/v1/transactions", self._body("1.00") | {"pending": then != "reverse"})
        if made is not None and made.status_code == 201:
            await self._client.post(
                f"/v1/transactions/{made.json()['transaction_id']}/{then}",
                headers={"Idempotency-Key": f"key-{next(self._keys)}"},
            )

    async def many(self, number: int, amount: str = "1.00") -> None:
        await asyncio.gather(*(self.post(amount) for _ in range(number)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def load_on(client: httpx.AsyncClient, name: str = "Bank") -> Load:
    """A load on a ledger of its own; from here on the client asks in the name of its tenant."""

    async def made(path: str, body: Json) -> Json:
        answer = await client.post(path, json=body)
        assert answer.status_code == 201, answer.text
        found: Json = answer.json()
        return found

    client.headers.update(bearer(operator_token()))
    tenant = await made("/v1/tenants", {"name": name})
    client.headers.update(bearer(tenant_token(tenant["tenant_id"])))
    ledger = await made("/v1/ledgers", {"name": name})
    accounts = [
        await made("/v1/accounts", {"ledger_id": ledger["ledger_id"], "currency": "SGD", "kind": kind})
        for kind in ("asset", "liability")
    ]
    return Load(client, ledger["ledger_id"], [each["account_id"] for each in accounts])
