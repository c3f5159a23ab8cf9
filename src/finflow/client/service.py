"""The client: one method a route. Requests travel in transport.py and are repeated as retries.py decides."""

import hashlib
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Final, Generic, TypeVar
from urllib.parse import quote

import msgspec

from finflow.client.administration import Administration
from finflow.client.fx import Fx
from finflow.client.model import (
    Account,
    AccountChange,
    Asset,
    Balance,
    BatchAnswer,
    BatchResult,
    Change,
    Entry,
    Hold,
    Ledger,
    Moment,
    NewAccount,
    NewTransaction,
    Order,
    Tenant,
    Transaction,
    TransactionFilter,
    TrialBalance,
)
from finflow.client.settlement import Settlement
from finflow.client.tokens import TokenProvider
from finflow.client.transport import Reply, Request, Transport
from finflow.kernel.errors import FinFlowError

T = TypeVar("T")

PAGE: Final = 1000

_ALL: Final = TransactionFilter()


class _Page(msgspec.Struct, Generic[T]):
    items: list[T]
    next: str | None = None


class Client(Administration):
    """Talks to one FinFlow over HTTP: `async with Client(url) as api`.

    Every method raises FinFlowError with the server's code (`error.kind.code`), with `api_unreachable` where
    nobody answered a request that changes nothing or never left, or as OutcomeUnknown where a write may have
    been done and nobody could tell in time; that one has the `idempotency_key` to ask again with.

    Requests that are safe to repeat (reads, and writes with a key) are repeated by themselves: after a lost
    connection, a slow answer, or a problem that calls itself retryable, with growing, jittered pauses and
    never before the server's Retry-After. A write's key is made once a call, so however often it is sent it
    is done once; give your own `key` where the intent outlives the call.

    `timeout_s` bounds one attempt, `budget_s` all attempts of one call together; as long as nobody has ever
    answered, five seconds do, since the address may simply be wrong. `token` is asked for a bearer token
    before every attempt; see tokens.py for where they come from.
    """

    def __init__(
        self,
        url: str,
        *,
        token: TokenProvider | None = None,
        timeout_s: float = 60.0,
        budget_s: float = 90.0,
        max_connections: int = 64,
    ) -> None:
        self._transport = Transport(url, token, timeout_s, budget_s, max_connections)
        self.fx = Fx(self)
        self.settlement = Settlement(self)

    async def __aenter__(self) -> "Client":
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    # --- tenants, ledgers, assets

    async def create_tenant(self, name: str) -> Tenant:
        """A new tenant; not repeated after a lost answer, since tenants have no key."""
        body = {"name": name}
        return await self._send(Tenant, "POST", "/v1/tenants", body, repeatable=False)

    async def tenants(self) -> AsyncIterator[Tenant]:
        """Every tenant that the caller may see, read in pages."""
        async for tenant in self._pages(_Page[Tenant], "/v1/tenants", {"limit": str(PAGE)}):
            yield tenant

    async def tenant(self, tenant_id: str) -> Tenant:
        """One tenant. Raises tenant_unknown."""
        return await self._send(Tenant, "GET", f"/v1/tenants/{_part(tenant_id)}")

    async def create_ledger(self, name: str) -> Ledger:
        """A new ledger of the token's tenant; not repeated after a lost answer. Raises tenant_required."""
        body = {"name": name}
        return await self._send(Ledger, "POST", "/v1/ledgers", body, repeatable=False)

    async def ledgers(self) -> list[Ledger]:
        """Every ledger that the caller may see."""
        pages = self._pages(_Page[Ledger], "/v1/ledgers", {"limit": str(PAGE)})
        return [ledger async for ledger in pages]

    async def ledger(self, ledger_id: str) -> Ledger:
        """One ledger. Raises ledger_unknown."""
        return await self._send(Ledger, "GET", f"/v1/ledgers/{_part(ledger_id)}")

    async def trial_balance(self, ledger_id: str) -> TrialBalance:
        """The ledger's totals per currency, and whether they balance. Raises ledger_unknown."""
        return await self._send(TrialBalance, "GET", f"/v1/ledgers/{_part(ledger_id)}/trial-balance")

    async def declare_asset(
        self, ledger_id: str, code: str, exponent: int, *, key: str | None = None
    ) -> Asset:
        """A currency of the ledger's own with `exponent` decimals (0 to 18). Raises asset_conflict."""
        body = {"ledger_id": ledger_id, "code": code, "exponent": exponent}
        return await self._send(Asset, "POST", "/v1/assets", body, key=key or new_key())

    # --- accounts

    async def open_account(self, new: NewAccount, *, key: str | None = None) -> Account:
        """A new account. Raises currency_unknown, external_reference_taken, amount_malformed and the like."""
        return await self._account("POST", "/v1/accounts", new, key or new_key())

    async def ensure_account(self, new: NewAccount) -> Account:
        """The account with this external reference, opened now if it is not there. Safe to repeat."""
        assert new.external_reference, "an account is found again by its external reference"
        # A key made of the reference: asking again is answered from the journal and leaves no trace in it.
        key = f"open:{hashlib.sha256(new.external_reference.encode()).hexdigest()}"
        try:
            return await self.open_account(new, key=key)
        except FinFlowError as error:
            if error.kind.code not in ("external_reference_taken", "idempotency_conflict"):
                raise
            found = await self.find_account(new.ledger_id, new.external_reference)
            if found is None:
                raise
            return found

    async def account(self, account_id: str) -> Account:
        """One account. Raises resource_unknown."""
        return await self._account("GET", f"/v1/accounts/{_part(account_id)}")

    async def find_account(self, ledger_id: str, external_reference: str) -> Account | None:
        """The ledger's account with this external reference, or None. Raises ledger_unknown."""
        query = {"ledger_id": ledger_id, "external_reference": external_reference}
        found = (await self._send(_Page[Account], "GET", "/v1/accounts", query=query)).items
        return found[0] if found else None

    async def accounts(self, ledger_id: str, *, page_size: int = PAGE) -> AsyncIterator[Account]:
        """Every account of a ledger in the order of opening, read in pages. Raises ledger_unknown."""
        query = {"ledger_id": ledger_id, "limit": str(page_size)}
        async for account in self._pages(_Page[Account], "/v1/accounts", query):
            yield account

    async def change_account(
        self, account_id: str, change: AccountChange, *, if_match: str = "*", key: str | None = None
    ) -> Account:
        """Other limits or metadata; with an account's `etag` as `if_match` only if it still is so.

        Raises limit_in_use, account_closed, precondition_failed.
        """
        path = f"/v1/accounts/{_part(account_id)}"
        return await self._account("PATCH", path, change, key or new_key(), if_match)

    async def freeze_account(
        self, account_id: str, *, if_match: str = "*", key: str | None = None
    ) -> Account:
        """The account, from now on refusing new transactions. Raises account_closed, precondition_failed."""
        return await self._turn(account_id, "freeze", if_match, key)

    async def unfreeze_account(
        self, account_id: str, *, if_match: str = "*", key: str | None = None
    ) -> Account:
        """The account, open again. Raises account_closed, precondition_failed."""
        return await self._turn(account_id, "unfreeze", if_match, key)

    async def close_account(self, account_id: str, *, if_match: str = "*", key: str | None = None) -> Account:
        """The account, closed for ever. Raises account_not_empty with a balance or open holds."""
        return await self._turn(account_id, "close", if_match, key)

    async def balance(
        self,
        account_id: str,
        *,
        as_of: Moment | None = None,
        effective_at: Moment | None = None,
        at_seq: int | None = None,
    ) -> Balance:
        """The balance now, or as booked by `as_of`, by value date `effective_at`, or after `at_seq`.

        Raises resource_unknown; request_malformed where more than one of the three is given.
        """
        query = _given(as_of=as_of, effective_at=effective_at, at_seq=at_seq)
        return await self._send(Balance, "GET", f"/v1/accounts/{_part(account_id)}/balance", query=query)

    async def entries(
        self, account_id: str, *, order: Order = "newest", page_size: int = PAGE
    ) -> AsyncIterator[Entry]:
        """Every entry of an account, newest first, read in pages. Raises resource_unknown."""
        path = f"/v1/accounts/{_part(account_id)}/entries"
        async for entry in self._pages(_Page[Entry], path, {"limit": str(page_size), "order": order}):
            yield entry

    async def holds(
        self, account_id: str, *, order: Order = "oldest", page_size: int = PAGE
    ) -> AsyncIterator[Hold]:
        """Every open hold on an account, oldest first, read in pages. Raises resource_unknown."""
        path = f"/v1/accounts/{_part(account_id)}/holds"
        async for hold in self._pages(_Page[Hold], path, {"limit": str(page_size), "order": order}):
            yield hold

    async def changes(
        self, ledger_id: str, *, order: Order = "newest", page_size: int = PAGE
    ) -> AsyncIterator[Change]:
        """Who asked what of a ledger's accounts and assets, newest first. Raises ledger_unknown."""
        path = f"/v1/ledgers/{_part(ledger_id)}/changes"
        async for change in self._pages(_Page[Change], path, {"limit": str(page_size), "order": order}):
            yield change

    # --- transactions

    async def post(self, ledger_id: str, transaction: NewTransaction) -> Transaction:
        """Post a transaction, or hold its amounts if it is `pending`.

        Raises unbalanced, exceeds_available, account_frozen and the ledger's other refusals; OutcomeUnknown.
        """
        body: dict[str, object] = {"ledger_id": ledger_id} | msgspec.to_builtins(transaction)
        key = body.pop("idempotency_key", None) or new_key()
        return await self._book("/v1/transactions", body, str(key))

    async def capture(
        self,
        transaction_id: str,
        amount: str | None = None,
        *,
        description: str | None = None,
        effective_at: Moment | None = None,
        key: str | None = None,
    ) -> Transaction:
        """Post a pending transaction, whole or up to `amount`; what is left of the hold is released.

        Raises not_pending, already_posted, already_voided, already_expired, capture_exceeds_pending.
        """
        body = _given(amount=amount, description=description, effective_at=effective_at)
        return await self._book(f"/v1/transactions/{_part(transaction_id)}/post", body, key)

    async def void(
        self, transaction_id: str, *, description: str | None = None, key: str | None = None
    ) -> Transaction:
        """Release a pending transaction. Raises not_pending, already_posted, already_voided."""
        body = _given(description=description)
        return await self._book(f"/v1/transactions/{_part(transaction_id)}/void", body, key)

    async def expire(self, transaction_id: str, *, key: str | None = None) -> Transaction:
        """Release a pending transaction whose time is over. Raises not_expired, already_voided and the like.

        FinFlow does so by itself within a second or two; this is for who cannot wait.
        """
        return await self._book(f"/v1/transactions/{_part(transaction_id)}/expire", {}, key)

    async def reverse(
        self,
        transaction_id: str,
        *,
        description: str | None = None,
        effective_at: Moment | None = None,
        key: str | None = None,
    ) -> Transaction:
        """Take a posted transaction back with a new one. Raises already_reversed, not_reversible."""
        body = _given(description=description, effective_at=effective_at)
        return await self._book(f"/v1/transactions/{_part(transaction_id)}/reverse", body, key)

    async def post_batch(
        self,
        ledger_id: str,
        transactions: Sequence[NewTransaction],
        *,
        atomic: bool = False,
        key: str | None = None,
    ) -> list[BatchResult]:
        """Post up to 10,000 transactions in order; one result each, in the same order.

        They are independent, or with `atomic` all or none. A member without a key of its own gets `key`, a
        colon and its index. Refusals are in the results; what is raised (batch_too_large, ledger_unknown,
        OutcomeUnknown) concerns the whole.
        """
        body = {"ledger_id": ledger_id, "transactions": transactions, "atomic": atomic}
        answer = await self._send(BatchAnswer, "POST", "/v1/transactions:batch", body, key=key or new_key())
        if len(answer.results) != len(transactions):
            detail = f"the batch answered {len(answer.results)} results to {len(transactions)} transactions"
            raise FinFlowError("internal", detail)
        return answer.results

    async def transaction(self, transaction_id: str) -> Transaction:
        """A transaction and what became of it. Raises resource_unknown."""
        return await self._send(Transaction, "GET", f"/v1/transactions/{_part(transaction_id)}")

    async def transactions(
        self, ledger_id: str, which: TransactionFilter = _ALL, *, page_size: int = PAGE
    ) -> AsyncIterator[Transaction]:
        """A ledger's transactions in journal order, or newest first, read in pages. Raises ledger_unknown."""
        query = {"ledger_id": ledger_id, "limit": str(page_size), **_given(**msgspec.to_builtins(which))}
        async for transaction in self._pages(_Page[Transaction], "/v1/transactions", query):
            yield transaction

    # --- how they travel

    async def _account(
        self, method: str, path: str, body: object = None, key: str | None = None, if_match: str | None = None
    ) -> Account:
        data = None if body is None else msgspec.json.encode(body)
        reply = await self._transport.send(Request(method, path, data, key=key, if_match=if_match))
        return msgspec.structs.replace(_decoded(reply, Account), etag=reply.etag)

    async def _turn(self, account_id: str, verb: str, if_match: str, key: str | None) -> Account:
        path = f"/v1/accounts/{_part(account_id)}/{verb}"
        return await self._account("POST", path, {}, key or new_key(), if_match)

    async def _book(self, path: str, body: object, key: str | None) -> Transaction:
        request = Request("POST", path, msgspec.json.encode(body), key=key or new_key())
        reply = await self._transport.send(request)
        booked = _decoded(reply, Transaction)
        return msgspec.structs.replace(booked, replayed=True) if reply.replayed else booked

    async def _send(
        self,
        shape: type[T],
        method: str,
        path: str,
        body: object = None,
        *,
        query: dict[str, str] | None = None,
        key: str | None = None,
        repeatable: bool = True,
    ) -> T:
        # Encoded once, so that every attempt sends the same bytes under the same key.
        data = None if body is None else msgspec.json.encode(body)
        request = Request(method, path, data, query, key, repeatable=repeatable)
        return _decoded(await self._transport.send(request), shape)

    async def _pages(self, shape: type[_Page[T]], path: str, query: dict[str, str]) -> AsyncIterator[T]:
        """The items of page after page; the filter stays as it is, or the server refuses the cursor."""
        while True:
            page = await self._send(shape, "GET", path, query=query)
            for item in page.items:
                yield item
            if page.next is None:
                return
            query = query | {"cursor": page.next}


def new_key() -> str:
    """A fresh idempotency key: one intent, however often it is sent."""
    return str(uuid.uuid4())


def _given(**fields: object) -> dict[str, str]:
    """The fields that are not None, as text."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else str(value)
        for name, value in fields.items()
        if value is not None
    }


def _part(text: str) -> str:
    """An id as one part of a path; what is no id must not name another route."""
    quoted = quote(text, safe="")
    return quoted if quoted.strip(".") else "%20"


def _decoded(reply: Reply, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(reply.content, type=shape)
    except msgspec.DecodeError as error:
        name = getattr(shape, "__name__", str(shape))
        raise FinFlowError("internal", f"the server's answer is not a {name}: {error}") from error
