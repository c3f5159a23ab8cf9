"""The client's shell: one connection pool, timeouts, and retries that carry the same key."""

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Final, TypeVar

import aiohttp
import msgspec

from finflow.client.model import (
    Account,
    Balance,
    BatchAnswer,
    BatchResult,
    Entry,
    EntryPage,
    Ledger,
    NewAccount,
    NewTransaction,
    Problem,
    Tenant,
    Transaction,
    TrialBalance,
    error_of,
    problem_of,
    retry_delay_s,
)
from finflow.kernel.errors import FinFlowError

T = TypeVar("T")

ENTRIES_PAGE: Final = 1000
_FIRST_ANSWER_S: Final = 5.0


class _Ledgers(msgspec.Struct):
    items: list[Ledger]


class _Accounts(msgspec.Struct):
    items: list[Account]


class Client:
    """Talks to one FinFlow over HTTP. Raises FinFlowError with the server's code, or `api_unreachable`.

    `timeout_s` bounds one attempt, `budget_s` all attempts of one request together; as long as nobody has
    ever answered, five seconds do, since the address may simply be wrong. Requests that are safe to repeat
    (reads, and writes with an idempotency key or a unique reference) are repeated.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 60.0, budget_s: float = 90.0, max_connections: int = 64
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(5.0, timeout_s))
        self._budget_s = budget_s
        self._answered = False
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._jitter = random.Random()  # noqa: S311 -- spreads retries in time; no secret depends on it

    async def __aenter__(self) -> "Client":
        connector = aiohttp.TCPConnector(limit=self._max_connections)
        self._session = aiohttp.ClientSession(timeout=self._timeout, connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def create_tenant(self, name: str) -> Tenant:
        """A new tenant; not repeated after a lost answer, since tenants have no key."""
        return await self._send("POST", "/v1/tenants", Tenant, {"name": name}, repeatable=False)

    async def create_ledger(self, tenant_id: str, name: str) -> Ledger:
        """A new ledger of a tenant."""
        body = {"tenant_id": tenant_id, "name": name}
        return await self._send("POST", "/v1/ledgers", Ledger, body, repeatable=False)

    async def ledgers(self) -> list[Ledger]:
        """Every ledger that the caller may see."""
        return (await self._send("GET", "/v1/ledgers", _Ledgers)).items

    async def find_account(self, ledger_id: str, external_reference: str) -> Account | None:
        """The ledger's account with this external reference, or None."""
        query = {"ledger_id": ledger_id, "external_reference": external_reference}
        found = (await self._send("GET", "/v1/accounts", _Accounts, query=query)).items
        return found[0] if found else None

    async def ensure_account(self, new: NewAccount) -> Account:
        """The account with this external reference, opened now if it is not there. Safe to repeat."""
        # A key made of the reference: asking again is answered from the journal and leaves no trace in it.
        key = f"open:{hashlib.sha256(new.external_reference.encode()).hexdigest()}"
        try:
            return await self._send("POST", "/v1/accounts", Account, new, key=key)
        except FinFlowError as error:
            if error.kind.code not in ("external_reference_taken", "idempotency_conflict"):
                raise
            found = await self.find_account(new.ledger_id, new.external_reference)
            if found is None:
                raise
            return found

    async def balance(self, account_id: str) -> Balance:
        """The account's balance now."""
        return await self._send("GET", f"/v1/accounts/{account_id}/balance", Balance)

    async def entries(self, account_id: str) -> AsyncIterator[Entry]:
        """Every entry of an account, newest first, read in pages."""
        before: int | None = None
        while True:
            query = {"limit": str(ENTRIES_PAGE)} | ({} if before is None else {"before": str(before)})
            page = await self._send("GET", f"/v1/accounts/{account_id}/entries", EntryPage, query=query)
            for entry in page.items:
                yield entry
            if page.next is None:
                return
            before = page.next

    async def post(self, ledger_id: str, transaction: NewTransaction) -> Transaction:
        """Post one transaction under its key; a refusal is raised with its code."""
        body: dict[str, object] = {"ledger_id": ledger_id} | msgspec.to_builtins(transaction)
        key = str(body.pop("idempotency_key"))
        return await self._send("POST", "/v1/transactions", Transaction, body, key=key)

    async def post_batch(self, ledger_id: str, transactions: Sequence[NewTransaction]) -> list[BatchResult]:
        """Post independent transactions in order, each under its key; one result each, in the same order."""
        body = {"ledger_id": ledger_id, "transactions": transactions}
        answer = await self._send("POST", "/v1/transactions:batch", BatchAnswer, body)
        if len(answer.results) != len(transactions):
            detail = f"the batch answered {len(answer.results)} results to {len(transactions)} transactions"
            raise FinFlowError("internal", detail)
        return answer.results

    async def trial_balance(self, ledger_id: str) -> TrialBalance:
        """The ledger's totals per currency, and whether they balance."""
        return await self._send("GET", f"/v1/ledgers/{ledger_id}/trial-balance", TrialBalance)

    async def _send(
        self,
        method: str,
        path: str,
        shape: type[T],
        body: object = None,
        *,
        query: dict[str, str] | None = None,
        key: str | None = None,
        repeatable: bool = True,
    ) -> T:
        headers = {"content-type": "application/json"} if body is not None else {}
        if key is not None:
            headers["idempotency-key"] = key
        # Encoded once, so that every attempt sends the same bytes under the same key.
        data = None if body is None else msgspec.json.encode(body)
        started_s = time.monotonic()
        attempt = 0
        while True:
            attempt += 1
            outcome = await self._attempt(method, path, headers, data, query, repeatable)
            if isinstance(outcome, bytes):
                return _decoded(outcome, shape)
            error, again = outcome
            delay_s = retry_delay_s(attempt, self._jitter.random())
            budget_s = self._budget_s if self._answered else min(self._budget_s, _FIRST_ANSWER_S)
            if not again or time.monotonic() + delay_s - started_s > budget_s:
                raise error
            await asyncio.sleep(delay_s)

    async def _attempt(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        data: bytes | None,
        query: dict[str, str] | None,
        repeatable: bool,
    ) -> bytes | tuple[FinFlowError, bool]:
        """The body of a success, or the error and whether another attempt is worth it."""
        if self._session is None:
            raise RuntimeError("use the client in `async with`")
        try:
            async with self._session.request(
                method, self._url + path, headers=headers, data=data, params=query
            ) as response:
                content = await response.read()
                self._answered = True
                if response.status < 300:
                    return content
                problem: Problem = problem_of(response.status, content)
                return error_of(response.status, problem), problem.retryable and repeatable
        except aiohttp.ClientConnectorError as error:
            # The request never left, so even one without a key may be sent again.
            return FinFlowError("api_unreachable", f"{self._url}: {error}"), True
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            detail = f"{self._url}{path}: {error or type(error).__name__}"
            return FinFlowError("api_unreachable", detail), repeatable


def _decoded(content: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=shape)
    except msgspec.DecodeError as error:
        raise FinFlowError("internal", f"the server's answer is not a {shape.__name__}: {error}") from error
