"""A bank of participants over HTTP, with a clock that can be put ahead of its cut-offs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx

from finflow.api.asgi import build
from finflow.app import Config, Services, services
from finflow.kernel.clock import system_clock, to_micros
from finflow.settlement.ports import Rail
from finflow.settlement.service import SettlementService
from oracles.http import Bank, Json, client_of, lifespan
from oracles.tokens import FLAGS

URL = "/v1/settlement"


class Ahead:
    """The system's clock, and so much later as it is told: cut-offs lie on business days only."""

    offset_us = 0
    pool: Any = None

    def __call__(self) -> int:
        return system_clock() + self.offset_us

    def pass_(self, moment: datetime) -> None:
        self.offset_us = to_micros(moment + timedelta(seconds=1)) - system_clock()


@dataclass
class House(Bank):
    """A bank of participants, and the clock of its settlement."""

    clock: Any = None

    async def members(self, *names: str, money: str = "1000") -> None:
        """Members with money on their position accounts."""
        vault = await self.open(kind="asset")
        for name in names:
            made = await self.make(f"{URL}/participants", self.member(name))
            account = made["accounts"][0]["position_account_id"]
            assert (await self.post(self.transfer(vault, account, money))).status_code == 201

    def member(self, name: str, **fields: Any) -> Json:
        given = {"ledger_id": self.ledger_id, "name": name, "kind": "member", "currencies": ["SGD"]}
        return given | fields

    def order(self, payer: str, payee: str, amount: str, name: str, **fields: Any) -> Json:
        given = {"payer": payer, "payee": payee, "amount": amount, "end_to_end_id": name}
        return given | {"currency": "SGD"} | fields

    async def pay(self, *order: str, key: str | None = None, **fields: Any) -> httpx.Response:
        return await self.send(f"{URL}/orders", self.order(*order, **fields) | self.on, key)

    @property
    def on(self) -> Json:
        return {"ledger_id": self.ledger_id}

    async def read(self, path: str, **query: str) -> Any:
        answer = await self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def until(self, cycle_id: str, state: str) -> Json:
        """The cycle, once the worker has brought it there."""
        async with asyncio.timeout(60):
            while (found := await self.read(f"{URL}/cycles/{cycle_id}"))["state"] != state:
                await asyncio.sleep(0.05)
        cycle: Json = found
        return cycle


@asynccontextmanager
async def house(database_url: str, rails: dict[str, Rail] | None = None) -> AsyncIterator[House]:
    clock, config = Ahead(), Config.load({"database_url": database_url, **FLAGS}, {})

    @asynccontextmanager
    async def opened() -> AsyncIterator[Services]:
        async with services(config) as found:
            clock.pool = found.settlement.pool
            found.settlement = SettlementService(found.settlement.pool, found.ledger, clock, rails)
            yield found

    app = build(opened)
    async with lifespan(app), client_of(app) as client:
        one = await Bank(client).found()
        yield House(client, one.ledger_id, one.tenant_id, clock=clock)
