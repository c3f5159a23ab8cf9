"""Every route and verb, asked by everybody who may not, and about what is somebody else's.

Requests are made from HANDLERS and from the document's examples, so that a new route is covered by itself.
"""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from finflow.api.asgi import HANDLERS
from finflow.api.examples import EXAMPLES
from finflow.api.settlement_examples import XML_EXAMPLE
from finflow.identity.model import SCOPES
from finflow.kernel import ids
from finflow.settlement.worker import Worker
from oracles.http import Bank, Json, bank, bearer, client_of, code
from oracles.tokens import expired_token, operator_token, tenant_token

OPEN = {
    "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/{name:str}",
    "/.well-known/jwks.json", "/.well-known/oauth-authorization-server", "/oauth/token",
}  # fmt: skip
KINDS = {
    "tenant_id": "ten", "ledger_id": "led", "account_id": "acc", "transaction_id": "txn", "client_id": "cli",
    "quote_id": "fxq", "order_id": "ord", "cycle_id": "cyc",
}  # fmt: skip
BESIDE = {"sweep-expired-holds", "watch-limits", "keep-identity-fresh"}
numbers = itertools.count()


@dataclass(frozen=True)
class Route:
    """One verb of one route, and what it declares."""

    method: str
    path: str
    opt: Any

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def tenant(self) -> str:
        return str(self.opt.get("tenant", "required"))

    def request(self, found: dict[str, str]) -> dict[str, Any]:
        """A request that is right in every respect, about these ids."""
        given = found | {"name": "init.js"}
        url = self.path.replace(":str}", "}").format(**given)
        query = msgspec.json.schema(self.opt["query"]) if "query" in self.opt else {}
        fields = query.get("$defs", {}).get(getattr(self.opt.get("query"), "__name__", ""), {})
        asked: dict[str, Any] = {
            "method": self.method,
            "url": url,
            "params": {name: found[name] for name in fields.get("required", ())},
            "headers": {"Idempotency-Key": f"matrix-{next(numbers)}", "If-Match": "*"},
        }
        if "account_id" in fields.get("properties", {}):
            asked["params"]["account_id"] = found["account_id"]
        if "takes_xml" in self.opt:
            asked["content"] = XML_EXAMPLE.replace("-0001<", f"-{next(numbers)}<")
            asked["headers"]["Content-Type"] = "application/xml"
        if "takes" in self.opt:
            asked["json"] = placed(EXAMPLES[self.opt["takes"].__name__], found)
        return asked


def placed(example: Any, found: dict[str, str]) -> Any:
    """The example with ids of ours for its own."""
    if isinstance(example, dict):
        # A batch's members go by the header's key, which is fresh each time.
        return {name: placed(value, found) for name, value in example.items() if name != "idempotency_key"}
    if isinstance(example, list):
        return [placed(value, found) for value in example]
    for name, prefix in KINDS.items():
        if isinstance(example, str) and ids.parse(prefix, example):
            # Transactions need two accounts: the one that the example books first stays the bank's own.
            return found["cash"] if prefix == "acc" and "cash" in found and _is_cash(example) else found[name]
    return example


def _is_cash(account_id: str) -> bool:
    place = ids.parse("acc", account_id)
    return place is not None and place.number == 1


def routes() -> Iterator[Route]:
    for handler in HANDLERS:
        for path in sorted(handler.paths):
            for method in sorted(handler.http_methods):
                yield Route(method, path, handler.opt)
                if method == "GET":
                    yield Route("HEAD", path, handler.opt)


ROUTES = list(routes())
GUARDED = [route for route in ROUTES if route.opt["scope"] != "open"]


async def holdings(one: Bank) -> dict[str, str]:
    """An id of everything that a tenant has."""
    cash, account = await one.open(), await one.open(external_reference="customer-1")
    made = await one.post(one.transfer(cash, account, "12.50", pending=True), "used-key")
    administrator = bearer(tenant_token(one.tenant_id, "admin"))
    client = await one.make(
        "/v1/clients", EXAMPLES["NewClient"] | {"tenant_id": one.tenant_id}, administrator
    )
    rates = [
        rate | {"observed_at": "2026-01-01T00:00:00Z", "valid_until": "2099-01-01T00:00:00Z"}
        for rate in EXAMPLES["NewRates"]["rates"]
    ]
    await one.make("/v1/fx/rates", {"ledger_id": one.ledger_id, "rates": rates})
    quote = await one.make("/v1/fx/quotes", EXAMPLES["NewQuote"] | {"ledger_id": one.ledger_id})
    for name in ("ALFA", "BETA"):
        participant = EXAMPLES["ParticipantDraft"] | {"ledger_id": one.ledger_id, "overdraft_limit": None}
        await one.make("/v1/settlement/participants", participant | {"name": name})
    order = EXAMPLES["NewOrder"] | {"ledger_id": one.ledger_id}
    order = (await one.send("/v1/settlement/orders", order)).json()
    return {
        "sender": "ALFA", "order_id": order["order_id"], "cycle_id": order["cycle_id"],
        "quote_id": quote["quote_id"], "base": "EUR", "quote": "USD",
        "client_id": client["client_id"], "kid": client["keys"][0]["kid"],
        "tenant_id": one.tenant_id, "ledger_id": one.ledger_id, "cash": cash, "account_id": account,
        "transaction_id": made.json()["transaction_id"],
    }  # fmt: skip


def nobodys(of: dict[str, str]) -> dict[str, str]:
    """Ids that look like these, and were never given."""
    places = {"ten": (0, 9_999), "cli": (0, 9_999)}
    return {
        name: ids.mint(prefix, 1_700_000_000_000_000, *places.get(prefix, (9_999, 7)))
        for name, prefix in KINDS.items()
        if name in of
    }


@asynccontextmanager
async def two(database_url: str) -> AsyncIterator[tuple[Bank, Bank]]:
    """Two tenants of one process, each asked by a client of its own."""
    async with bank(database_url) as one, client_of(one.client._transport.app) as client:  # type: ignore[attr-defined]
        yield one, await Bank(client).found()


def test_every_route_says_who_may_ask() -> None:
    for route in ROUTES:
        assert route.opt.get("scope") in {*SCOPES, "open"}, route
        assert route.tenant in {"required", "optional", "none"}, route
    assert {route.path for route in ROUTES if route.opt["scope"] == "open"} <= OPEN


async def test_nobody_is_let_in_without_a_good_token_and_the_right_scope(database_url: str) -> None:
    async with bank(database_url) as one:
        found = await holdings(one)
        del one.client.headers["authorization"]
        for route in GUARDED:
            needed = "admin" if route.tenant == "none" else route.opt["scope"]
            others = [scope for scope in SCOPES if scope != needed]
            everything, operator = tenant_token(one.tenant_id, *SCOPES), operator_token()
            refusals: list[tuple[Any, int, str]] = [
                ({}, 401, "token_missing"),
                (bearer("garbage"), 401, "token_invalid"),
                (bearer(everything[:-6] + "AAAAAA"), 401, "token_invalid"),
                ({"Authorization": f"Basic {everything}"}, 401, "token_invalid"),
                ([("Authorization", f"Bearer {everything}")] * 2, 401, "token_invalid"),
                (bearer(expired_token(one.tenant_id)), 401, "token_expired"),
                (bearer(tenant_token(one.tenant_id, "no:such")), 403, "scope_insufficient"),
            ]
            if route.tenant == "none":
                refusals[-1] = (bearer(everything), 403, "operator_required")
            else:
                refusals.append((bearer(tenant_token(one.tenant_id, *others)), 403, "scope_insufficient"))
            if route.tenant == "required":
                refusals.append((bearer(operator), 403, "tenant_required"))
            for token, status, expected in refusals:
                answer = await ask(one.client, route, found, token)
                assert answer.status_code == status, (str(route), expected)
                challenge = answer.headers["www-authenticate"]
                assert challenge.startswith('Bearer realm="finflow"'), str(route)
                if route.method == "HEAD":
                    continue
                assert code(answer) == expected, str(route)
                if expected == "scope_insufficient":
                    assert (answer.json()["param"], f'scope="{needed}"' in challenge) == (needed, True)
            allowed = operator if route.tenant == "none" else tenant_token(one.tenant_id, needed)
            assert (await ask(one.client, route, found, bearer(allowed))).status_code not in (401, 403), route


async def ask(client: httpx.AsyncClient, route: Route, found: dict[str, str], token: Any) -> httpx.Response:
    asked = route.request(found)
    given = token if isinstance(token, list) else list(token.items())
    asked["headers"] = [*asked["headers"].items(), *given]
    return await client.request(**asked)


async def test_who_asks_is_known_before_the_body_is_read(database_url: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"{"

    async with bank(database_url) as one:
        found = await holdings(one)
        for route in [route for route in GUARDED if route.method not in ("GET", "HEAD")]:
            for token in ({}, bearer("x"), bearer(tenant_token(one.tenant_id, "no:such"))):
                read: list[int] = []
                asked = route.request(found)
                asked.pop("json", None)
                asked.pop("content", None)
                asked["headers"] |= token or {"Authorization": ""}
                answer = await one.client.request(**asked, content=body())
                assert (answer.status_code in (401, 403), read) == (True, []), str(route)


async def test_what_is_somebody_elses_is_answered_like_what_is_not_there(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status, headers, words and the statements that it took; nothing of the other tenant's has changed."""
    statements = counted(monkeypatch)
    compared = 0
    async with two(database_url) as (one, other):
        theirs, mine = await holdings(one), await holdings(other)
        before = await everything(one)
        everybody = bearer(tenant_token(other.tenant_id, *SCOPES))
        for route in GUARDED:
            for kind in KINDS:
                strange, nothing = mine | {kind: theirs[kind]}, mine | {kind: nobodys(mine)[kind]}
                if route.tenant == "none" or _plain(route, strange) == _plain(route, mine):
                    continue
                answers, costs = [], []
                # What a first time costs more (a statement to prepare, a way to enter) is paid by the third.
                for found in (nothing, strange, nothing, strange):
                    statements.clear()
                    answers.append(shown(await ask(other.client, route, found, everybody), found))
                    costs.append(len(statements))
                assert answers[0] == answers[1] == answers[2] == answers[3], (str(route), kind)
                assert costs[2] == costs[3], (str(route), kind)
                assert answers[0][0] in (404, 422, 200), str(route)
                compared += 1
        assert await everything(one) == before
    assert compared > 25


def _plain(route: Route, found: dict[str, str]) -> Any:
    asked = route.request(found)
    return asked["url"], asked["params"], asked.get("json")


def shown(answer: httpx.Response, found: dict[str, str]) -> tuple[int, Any, str]:
    """What an answer tells, with the caller's own words and the request's number taken out."""
    text = re.sub(r"matrix-\d+", "KEY", answer.text.replace(answer.headers["x-request-id"], "ID"))
    for name, value in found.items():
        text = text.replace(value, name)
    passing = ("x-request-id", "ratelimit", "content-length")
    kept = sorted((k, v) for k, v in answer.headers.items() if k not in passing)
    if answer.status_code == 422:
        assert answer.json()["code"] in ("account_unknown", "transaction_unknown")
    if answer.status_code == 200:
        assert answer.request.method == "HEAD" or not answer.json().get("items"), text
    return answer.status_code, kept, text


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that this process sends from here on, but for what runs beside the requests."""
    # It works in tasks of its own, which have no names to be known by.
    monkeypatch.setattr(Worker, "run", asyncio.Event().wait)
    sent: list[str] = []
    execute = asyncpg.Connection._execute  # type: ignore[attr-defined]

    async def noted(self: Any, query: str, *arguments: Any, **options: Any) -> Any:
        task = asyncio.current_task()
        if task is None or task.get_name() not in BESIDE:
            sent.append(query)
        return await execute(self, query, *arguments, **options)

    monkeypatch.setattr(asyncpg.Connection, "_execute", noted)
    return sent


async def everything(one: Bank) -> list[Json]:
    """What a tenant can see of itself."""
    urls = [f"/v1/{kind}?ledger_id={one.ledger_id}" for kind in ("accounts", "transactions")]
    urls += [f"/v1/ledgers/{one.ledger_id}{part}" for part in ("", "/trial-balance", "/changes")]
    whole = bearer(tenant_token(one.tenant_id, *SCOPES))
    urls += ["/v1/tenants", "/v1/ledgers", "/v1/clients"]
    return [(await one.client.get(url, headers=whole)).json() for url in urls]


async def test_the_operator_sees_names_and_no_money(database_url: str) -> None:
    async with two(database_url) as (one, other):
        found, operator = await holdings(one), bearer(operator_token())
        listed = (await one.client.get("/v1/ledgers", headers=operator)).json()["items"]
        assert {each["ledger_id"] for each in listed} == {one.ledger_id, other.ledger_id}
        for route in GUARDED:
            answer = await ask(one.client, route, found, operator)
            if route.tenant == "required":
                assert answer.status_code == 403, str(route)
                assert not any(value in answer.text for value in ("12.50", found["account_id"])), str(route)


async def test_a_key_that_another_tenant_used_is_a_fresh_one(database_url: str) -> None:
    async with two(database_url) as (one, other):
        await holdings(one)
        a, b = await other.open(), await other.open()
        first = await other.post(other.transfer(a, b, "1"), "used-key")
        assert (first.status_code, "idempotency-replayed" in first.headers) == (201, False)
        again = await other.post(other.transfer(a, b, "1"), "used-key")
        assert again.content == first.content


async def test_an_external_reference_is_taken_in_its_own_ledger_alone(database_url: str) -> None:
    async with two(database_url) as (one, other):
        await holdings(one)
        listing = {"ledger_id": other.ledger_id, "external_reference": "customer-1"}
        nothing = await other.client.get("/v1/accounts", params=listing)
        assert nothing.json() == {"items": [], "next": None}
        await other.open(external_reference="customer-1")


async def test_a_cursor_is_its_tenants(database_url: str) -> None:
    """Also where the two lists have the same address."""
    async with two(database_url) as (one, other):
        for each in (one, other):
            for _ in range(2):
                await each.make("/v1/ledgers", {"name": "more"})
        theirs = (await one.client.get("/v1/ledgers?limit=1")).json()["next"]
        mine = (await other.client.get("/v1/ledgers?limit=1")).json()["next"]
        assert (await other.client.get("/v1/ledgers", params={"cursor": mine})).status_code == 200
        refused = await other.client.get("/v1/ledgers", params={"cursor": theirs})
        elsewhere = await other.client.get("/v1/tenants", params={"cursor": mine})
        assert (refused.status_code, code(refused)) == (400, "cursor_mismatch")
        assert shown(refused, {}) == shown(elsewhere, {})


async def test_a_tag_tells_nothing_of_what_is_somebody_elses(database_url: str) -> None:
    async with two(database_url) as (one, other):
        found = await holdings(one)
        for url in (
            f"/v1/accounts/{found['account_id']}",
            f"/v1/accounts/{found['account_id']}/balance",
            f"/v1/transactions/{found['transaction_id']}",
        ):
            tag = (await one.client.get(url)).headers["etag"]
            for given in (tag, "*", '"other"'):
                answer = await other.client.get(url, headers={"If-None-Match": given})
                assert (answer.status_code, code(answer)) == (404, "resource_unknown")
                assert "etag" not in answer.headers
        url = f"/v1/accounts/{found['account_id']}"
        tag = (await one.client.get(url)).headers["etag"]
        for given in (tag, '"stale-1"'):
            answer = await other.client.patch(url, json={"metadata": {}}, headers={"If-Match": given})
            assert (answer.status_code, code(answer)) == (404, "resource_unknown")
