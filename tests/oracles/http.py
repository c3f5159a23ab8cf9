"""The HTTP interface in one process over a database of one's own, and small words for its tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

from finflow.api.asgi import build
from finflow.app import Config, services
from oracles.tokens import FLAGS, operator_token, tenant_token

Json = dict[str, Any]


@asynccontextmanager
async def serving(database_url: str, deadline_s: float = 30.0) -> AsyncIterator[httpx.AsyncClient]:
    """The operator's client of the whole application, started and stopped as a server would."""
    # All of them sit at one address, and many of them try bad tokens.
    flags = {"database_url": database_url, "unverified_per_s": 100_000, **FLAGS}
    config = Config.load(flags, {})
    app = build(lambda: services(config), deadline_s)
    async with lifespan(app), client_of(app) as client:
        yield client


def client_of(app: Any) -> httpx.AsyncClient:
    """A client that asks as the operator, until somebody gives it another token."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = bearer(operator_token())
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """Start an ASGI application, and stop it at the end of the block."""
    to_app: asyncio.Queue[Json] = asyncio.Queue()
    from_app: asyncio.Queue[Json] = asyncio.Queue()
    running = asyncio.create_task(
        app({"type": "lifespan", "asgi": {}, "state": {}}, to_app.get, from_app.put)
    )

    async def step(name: str) -> None:
        await to_app.put({"type": f"lifespan.{name}"})
        answered = asyncio.create_task(from_app.get())
        # An application that dies says nothing more.
        await asyncio.wait({answered, running}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert answered.done(), running
        answer = answered.result()
        assert answer["type"] == f"lifespan.{name}.complete", answer

    await step("startup")
    try:
        yield
    finally:
        await step("shutdown")
        await running


def line(account_id: str, direction: str, amount: str, currency: str = "SGD") -> Json:
    return {"account_id": account_id, "direction": direction, "amount": amount, "currency": currency}


@dataclass
class Bank:
    """One ledger over HTTP, asked by a client of its tenant, and keys that never repeat."""

    client: httpx.AsyncClient
    ledger_id: str = ""
    tenant_id: str = ""
    numbers: Any = field(default_factory=count)

    async def found(self) -> "Bank":
        """With a tenant that the operator adds, and a ledger that the tenant opens."""
        tenant = await self.make("/v1/tenants", {"name": "Tenant"}, bearer(operator_token()))
        self.tenant_id = tenant["tenant_id"]
        self.enter()
        self.ledger_id = (await self.make("/v1/ledgers", {"name": "Ledger"}))["ledger_id"]
        return self

    def enter(self) -> "Bank":
        """From here on the client asks in the name of the tenant, for whatever a tenant may."""
        self.client.headers.update(bearer(tenant_token(self.tenant_id)))
        return self

    def elsewhere(self, client: httpx.AsyncClient) -> "Bank":
        """The same ledger, asked through another client."""
        return Bank(client, self.ledger_id, self.tenant_id).enter()

    async def make(self, path: str, body: Json, headers: dict[str, str] | None = None) -> Json:
        answer = await self.client.post(path, json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        made: Json = answer.json()
        return made

    async def open(self, currency: str = "SGD", kind: str = "liability", **fields: Any) -> str:
        """The id of a new account, without a floor unless the fields say otherwise."""
        body = {"ledger_id": self.ledger_id, "currency": currency, "kind": kind, "overdraft_limit": None}
        account_id: str = (await self.make("/v1/accounts", body | fields))["account_id"]
        return account_id

    def transfer(self, debit: str, credit: str, amount: str, currency: str = "SGD", **fields: Any) -> Json:
        lines = [line(debit, "debit", amount, currency), line(credit, "credit", amount, currency)]
        return {"ledger_id": self.ledger_id, "entries": lines} | fields

    async def send(self, path: str, body: Json, key: str | None = None) -> httpx.Response:
        """POST under this key or a fresh one."""
        headers = {"Idempotency-Key": key or f"key-{next(self.numbers)}"}
        return await self.client.post(path, json=body, headers=headers)

    async def post(self, body: Json, key: str | None = None) -> httpx.Response:
        return await self.send("/v1/transactions", body, key)

    async def balance(self, account_id: str, **query: Any) -> str:
        answer = await self.client.get(f"/v1/accounts/{account_id}/balance", params=query)
        assert answer.status_code == 200, answer.text
        shown: str = answer.json()["balance"]
        return shown


@asynccontextmanager
async def bank(database_url: str) -> AsyncIterator[Bank]:
    """A ledger behind an application that runs for this block."""
    async with serving(database_url) as client:
        yield await Bank(client).found()


def code(answer: httpx.Response) -> str:
    """The code of a problem, after checking that it is one in every respect."""
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(problem) == {
        "type", "title", "status", "detail", "code", "param", "hint", "request_id", "retryable",
    }  # fmt: skip
    assert problem["status"] == answer.status_code
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["type"] == f"urn:finflow:error:{problem['code']}"
    named: str = problem["code"]
    return named


def refusal(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and place of a problem."""
    return answer.status_code, code(answer), answer.json()["param"]
