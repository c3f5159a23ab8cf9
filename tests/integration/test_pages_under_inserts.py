"""Every list that has pages, read page by page while rows arrive: each row once, in order, none missed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from oracles import oauth
from oracles.http import Bank, Json, bank, bearer
from oracles.tokens import operator_token, tenant_token


class Listing(NamedTuple):
    """A list: where it is, what names a row of it, how one more row comes, and who reads it."""

    path: str
    name: Callable[[Json], object]
    arrive: Callable[[], Awaitable[Any]]
    query: dict[str, Any]
    headers: dict[str, str] | None = None


Make = Callable[[Bank], Awaitable[Listing]]


async def transactions(one: Bank) -> Listing:
    a, b = await one.open(), await one.open()
    query = {"ledger_id": one.ledger_id, "account_id": b}
    return Listing(
        "/v1/transactions",
        lambda row: row["transaction_id"],
        lambda: one.post(one.transfer(a, b, "1")),
        query,
    )


async def by_reference(one: Bank) -> Listing:
    a, b = await one.open(), await one.open()
    body = one.transfer(a, b, "1", reference="r")
    query = {"ledger_id": one.ledger_id, "reference": "r"}
    return Listing("/v1/transactions", lambda row: row["transaction_id"], lambda: one.post(body), query)


async def entries(one: Bank) -> Listing:
    a, b = await one.open(), await one.open()
    return Listing(
        f"/v1/accounts/{b}/entries", lambda row: row["version"], lambda: one.post(one.transfer(a, b, "1")), {}
    )


async def holds(one: Bank) -> Listing:
    a, b = await one.open(), await one.open()
    body = one.transfer(a, b, "1", pending=True)
    return Listing(f"/v1/accounts/{b}/holds", lambda row: row["version"], lambda: one.post(body), {})


async def accounts(one: Bank) -> Listing:
    return Listing("/v1/accounts", lambda row: row["account_id"], one.open, {"ledger_id": one.ledger_id})


async def changes(one: Bank) -> Listing:
    account = await one.open()
    return Listing(
        f"/v1/ledgers/{one.ledger_id}/changes",
        lambda row: row["seq"],
        lambda: one.client.post(f"/v1/accounts/{account}/freeze"),
        {},
    )


async def ledgers(one: Bank) -> Listing:
    body = {"name": "L"}
    return Listing("/v1/ledgers", lambda row: row["ledger_id"], lambda: one.make("/v1/ledgers", body), {})


async def tenants(one: Bank) -> Listing:
    headers = bearer(operator_token())

    async def arrive() -> Json:
        return await one.make("/v1/tenants", {"name": "T"}, headers)

    return Listing("/v1/tenants", lambda row: row["tenant_id"], arrive, {}, headers)


async def clients(one: Bank) -> Listing:
    headers = bearer(tenant_token(one.tenant_id, "admin", "accounts:read"))

    async def arrive() -> Json:
        new = {"name": "c", "scopes": ["accounts:read"], "jwk": oauth.public(oauth.key())}
        return await one.make("/v1/clients", new, headers)

    return Listing("/v1/clients", lambda row: row["client_id"], arrive, {}, headers)


_ORDERED: list[Make] = [transactions, by_reference, entries, holds, changes]
_CASES = [
    *((make, order) for make in _ORDERED for order in ("oldest", "newest")),
    *((make, None) for make in (accounts, ledgers, tenants, clients)),
]


@pytest.mark.parametrize(("make", "order"), _CASES, ids=lambda case: getattr(case, "__name__", str(case)))
async def test_rows_that_arrive_disturb_nobody_s_reading(
    database_url: str, make: Make, order: str | None
) -> None:
    async with bank(database_url) as one:
        listing = await make(one)
        for _ in range(20):
            await listing.arrive()
        query = listing.query | ({"order": order} if order else {})
        [before] = await _pages(one, listing, query | {"limit": 1000}, 1)
        assert len(before) >= 20
        ended, arrived = asyncio.Event(), 0

        async def keep_arriving() -> None:
            nonlocal arrived
            while not ended.is_set():
                await listing.arrive()
                arrived += 1

        writers = [asyncio.create_task(keep_arriving()) for _ in range(2)]
        try:
            # At most so many pages as hold all that can be there by then: writers never make it endless.
            pages = await _pages(one, listing, query | {"limit": 3}, len(before) + 50)
        finally:
            ended.set()
            await asyncio.gather(*writers)
        seen = [name for page in pages for name in page]
        assert len(seen) == len(set(seen))
        assert [name for name in seen if name in set(before)] == before
        assert arrived > 0
        # And whatever came meanwhile is there to be read, once it has ended.
        after = [name for page in await _pages(one, listing, query | {"limit": 7}, 10_000) for name in page]
        assert len(after) == len(set(after)) == len(before) + arrived


async def _pages(one: Bank, listing: Listing, query: Json, most: int) -> list[list[object]]:
    """Pages up to the end or to so many, the names of their rows."""
    found: list[list[object]] = []
    while len(found) < most:
        answer = await one.client.get(listing.path, params=query, headers=listing.headers)
        assert answer.status_code == 200, answer.text
        found.append([listing.name(row) for row in answer.json()["items"]])
        if answer.json()["next"] is None:
            break
        query = query | {"cursor": answer.json()["next"]}
    return found
