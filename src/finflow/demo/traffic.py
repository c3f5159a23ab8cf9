"""Live traffic: intents that start at a fixed rate whatever the answers do, retried under the same key.

An open loop, as customers are: a slow answer does not make the next request later. Whatever fails (no answer,
5xx, 429) is sent again with the same idempotency key, later and later, until it is answered or given up; each
request carries its customer's key, by which the ingress routes.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from math import inf
from time import monotonic
from typing import Any, Final

import aiohttp
import msgspec

from finflow.demo.intents import HOME, Intent
from finflow.demo.world import World
from finflow.telemetry import outbound

KEY_HEADER: Final = "X-Customer-Id"
MAX_UNDER_WAY: Final = 1_000
GIVE_UP_S: Final = 90.0
# Answers that say: the same request, with the same key, later.
_AGAIN: Final = (409, 429)
_TIMEOUT_S: Final = 15.0
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 2.0
# Failures of the last moments, by which a screen says how it goes now.
_RECENT: Final = 4_096

Token = Callable[[], Awaitable[str]]


class Moment(msgspec.Struct, frozen=True):
    """One answer: when it came (monotonic), how long after it was due, and whether it was a good one."""

    at_s: float
    latency_ms: float
    good: bool


class Tally:
    """What was asked and answered. `failures` are answers that cost a retry; `lost` gave up."""

    def __init__(self) -> None:
        self.requests = 0
        self.failures: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.lost: list[str] = []
        # Names of intents whose money moved, as the answers said.
        self.booked: set[str] = set()
        self.recent: deque[Moment] = deque(maxlen=_RECENT)
        self.latencies_ms: list[float] = []
        # First tries: when each was to be sent, and whether it was answered well.
        self.tried: list[tuple[float, bool]] = []

    @property
    def failed(self) -> int:
        """Answers that failed, and requests without any."""
        return sum(self.failures.values())

    def answered(self, at_s: float, latency_ms: float, good: bool) -> None:
        self.recent.append(Moment(at_s, latency_ms, good))
        if good:
            self.latencies_ms.append(latency_ms)


class Traffic:
    """Sends intents to `url` until `stop` is set, then waits for those under way."""

    def __init__(self, url: str, token: Token, world: World, wanted: Iterator[Intent], per_s: int) -> None:
        self._url = url
        self._token = token
        self._world = world
        self._wanted = wanted
        self._per_s = per_s
        self._under_way: set[asyncio.Task[None]] = set()
        self.tally = Tally()

    async def run(self, stop: asyncio.Event) -> Tally:
        """Everything that was asked and answered."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with outbound.session(base_url=self._url, connector=connector, timeout=timeout) as session:
            start, number = monotonic(), 0
            while not stop.is_set():
                due = start + number / self._per_s
                await asyncio.sleep(max(0.0, due - monotonic()))
                number += 1
                if len(self._under_way) < MAX_UNDER_WAY:
                    self._begin(session, next(self._wanted), due)
            await asyncio.gather(*self._under_way)
        return self.tally

    def _begin(self, session: aiohttp.ClientSession, intent: Intent, due: float) -> None:
        task = asyncio.create_task(_Attempt(self, session, intent, due).run())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    @property
    def world(self) -> World:
        return self._world

    async def token(self) -> str:
        return await self._token()


class _Attempt:
    """One intent until it is answered: each of its requests is repeated under its own key."""

    def __init__(self, of: Traffic, session: aiohttp.ClientSession, intent: Intent, due: float) -> None:
        self._of = of
        self._tally = of.tally
        self._session = session
        self._intent = intent
        # When the request at hand was to be sent: the first one when the intent was due.
        self._since_s = due

    async def run(self) -> None:
        """Never raises what an answer brings: it is counted."""
        steps = {
            "payment": self._pay, "hold": self._hold, "conversion": self._convert, "order": self._order,
            "balance": self._balance, "entries": self._entries,
        }  # fmt: skip
        await steps[self._intent.kind]()

    # --- what customers do ---

    async def _pay(self) -> None:
        self._booked(await self._post("/v1/transactions", self._transaction(), self._intent.name))

    async def _hold(self) -> None:
        held = await self._post(
            "/v1/transactions", self._transaction() | {"pending": True, "timeout_s": 3600}, self._intent.name
        )
        if self._booked(held) and held is not None:
            path = f"/v1/transactions/{held['transaction_id']}/post"
            self._booked(await self._post(path, {}, f"{self._intent.name}:capture"), ":capture")

    async def _convert(self) -> None:
        intent, world = self._intent, self._of.world
        wanted = {
            "ledger_id": world.ledger_id, "sell_currency": HOME, "buy_currency": intent.currency,
            "sell_amount": intent.amount,
        }  # fmt: skip
        quote = await self._post("/v1/fx/quotes", wanted, None)
        if quote is None:
            return
        accounts = intent.customer.accounts
        body = {
            "quote_id": quote["quote_id"], "from_account_id": accounts[HOME],
            "to_account_id": accounts[intent.currency],
        }  # fmt: skip
        self._booked(await self._post("/v1/fx/conversions", body, intent.name))

    async def _order(self) -> None:
        members = self._of.world.members
        first = len(self._intent.name) + len(self._intent.amount)
        payer, payee = members[first % len(members)], members[(first + 1) % len(members)]
        body = {
            "ledger_id": self._of.world.ledger_id, "payer": payer, "payee": payee, "currency": HOME,
            "amount": self._intent.amount, "end_to_end_id": self._intent.name,
        }  # fmt: skip
        await self._post("/v1/settlement/orders", body, self._intent.name)

    async def _balance(self) -> None:
        await self._ask("GET", f"/v1/accounts/{self._intent.customer.accounts[HOME]}/balance", None, None)

    async def _entries(self) -> None:
        path = f"/v1/accounts/{self._intent.customer.accounts[HOME]}/entries?limit=20"
        await self._ask("GET", path, None, None)

    def _transaction(self) -> dict[str, Any]:
        intent = self._intent
        lines = [
            {"account_id": who.accounts[HOME], "direction": side, "amount": intent.amount, "currency": HOME}
            for who, side in ((intent.customer, "debit"), (intent.other, "credit"))
        ]
        return {"ledger_id": self._of.world.ledger_id, "entries": lines, "reference": intent.name}

    def _booked(self, answer: dict[str, Any] | None, what: str = "") -> bool:
        if answer is not None:
            self._tally.booked.add(self._intent.name + what)
        return answer is not None

    # --- requests, repeated ---

    async def _post(self, path: str, body: dict[str, Any], key: str | None) -> dict[str, Any] | None:
        answer: dict[str, Any] | None = await self._ask("POST", path, msgspec.json.encode(body), key)
        return answer

    async def _ask(self, method: str, path: str, body: bytes | None, key: str | None) -> Any:
        """The answer as JSON; None where it was refused or given up. Failed ones are sent again."""
        self._tally.requests += 1
        pause_s = _FIRST_PAUSE_S
        since_s, self._since_s = self._since_s, inf
        since_s = min(since_s, monotonic())
        while True:
            status, answer = await self._once(method, path, body, key)
            failed = status == 0 or status >= 500 or status in _AGAIN
            self._tally.answered(monotonic(), (monotonic() - since_s) * 1e3, not failed)
            if pause_s == _FIRST_PAUSE_S:
                self._tally.tried.append((since_s, not failed))
            if not failed:
                return self._read(status, answer)
            self._tally.failures["no answer" if status == 0 else str(status)] += 1
            if monotonic() - since_s > GIVE_UP_S:
                self._tally.lost.append(self._intent.name)
                return None
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _once(self, method: str, path: str, body: bytes | None, key: str | None) -> tuple[int, bytes]:
        headers = {
            "Authorization": f"Bearer {await self._of.token()}", KEY_HEADER: self._intent.customer.key
        }  # fmt: skip
        if body is not None:
            headers["Content-Type"] = "application/json"
        if key is not None:
            headers["Idempotency-Key"] = key
        try:
            async with self._session.request(method, path, data=body, headers=headers) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, b""

    def _read(self, status: int, answer: bytes) -> Any:
        found: dict[str, Any] = msgspec.json.decode(answer)
        if status >= 400:
            self._tally.refused[found.get("code", str(status))] += 1
            return None
        return found
