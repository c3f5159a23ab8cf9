"""Tokens of an issuer elsewhere open doors here, as far as the configuration lets them: over HTTP."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from joserfc.jwk import RSAKey

from finflow.api.asgi import build
from finflow.app import Config, services
from finflow.identity import issuers
from finflow.telemetry import tracing
from finflow.telemetry.sampling import Sampling
from oracles.http import Bank, bearer, client_of, code, lifespan, line
from oracles.oauth import signed
from oracles.tokens import FLAGS, ISSUER

Json = dict[str, Any]
KEY = RSAKey.generate_key(2048)
KID = KEY.thumbprint()


class Login:
    """Somebody else's login server: its keys, and tokens signed with them."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: list[Any] = [KEY]
        self.broken = False
        self.asked = 0
        self.callers: list[str | None] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Login"]:
        app = web.Application()
        app.router.add_get("/jwks", self.jwks)
        app.router.add_get("/moved", self.moved)
        app.router.add_get("/endless", self.endless)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def jwks(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.callers.append(request.headers.get("traceparent"))
        # Whoever else needs the keys now finds somebody who waits for them.
        await asyncio.sleep(0.05)
        if self.broken:
            return web.Response(status=500)
        keys = [key.as_dict(private=False) | {"kid": key.thumbprint()} for key in self.keys]
        return web.json_response({"keys": keys})

    async def moved(self, _: web.Request) -> web.Response:
        raise web.HTTPFound("/jwks")

    async def endless(self, _: web.Request) -> web.Response:
        return web.Response(body=b" " * (issuers.MAX_JWKS_BYTES + 1))

    def token(self, tenant_id: str, key: Any = KEY, header: Json | None = None, **changes: Any) -> str:
        now_s = int(time.time())
        claims = {
            "iss": self.url,
            "sub": "alice@example",
            "aud": [ISSUER, "account"],
            "iat": now_s,
            "exp": now_s + 3000,
            "org": tenant_id,
            "roles": ["ledgers:read", "accounts:read", "accounts:write", "admin"],
        } | changes
        return signed({"alg": "RS256", "kid": key.thumbprint()} | (header or {}), claims, key)


class Place:
    def __init__(self, bank: Bank, login: Login) -> None:
        self.bank = bank
        self.login = login

    async def ask(self, token: str, path: str = "/v1/ledgers") -> httpx.Response:
        return await self.bank.client.get(path, headers=bearer(token))


@asynccontextmanager
async def place(database_url: str, folder: Path, path: str = "/jwks", **more: Any) -> AsyncIterator[Place]:
    async with Login().running() as login:
        described = {
            "name": "corporate",
            "issuer": login.url,
            "audience": ISSUER,
            "jwks_uri": login.url + path,
            "tenant_claim": "org",
            "scope_claim": "roles",
            "scopes": ["ledgers:read", "accounts:read", "accounts:write"],
            "algorithms": ["RS256"],
        } | more
        lines = (f"{name} = {json.dumps(value)}" for name, value in described.items() if value is not None)
        file = folder / "issuers.toml"
        file.write_text("[[issuer]]\n" + "\n".join(lines))
        config = Config.load({"database_url": database_url, "issuers": str(file), **FLAGS}, {})
        app = build(lambda: services(config))
        async with lifespan(app), client_of(app) as client:
            yield Place(await Bank(client).found(), login)


@pytest.fixture
async def here(database_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    async with place(database_url, tmp_path) as found:
        yield found


async def test_a_stranger_s_token_opens_its_tenant_s_books_and_the_journal_names_it(here: Place) -> None:
    token = here.login.token(here.bank.tenant_id)
    listed = (await here.ask(token)).json()["items"]
    assert [ledger["ledger_id"] for ledger in listed] == [here.bank.ledger_id]
    new = {"ledger_id": here.bank.ledger_id, "currency": "SGD", "kind": "asset"}
    opened = await here.bank.client.post("/v1/accounts", json=new, headers=bearer(token))
    assert opened.status_code == 201
    changes = await here.bank.client.get(f"/v1/ledgers/{here.bank.ledger_id}/changes")
    assert changes.json()["items"][0]["caller"] == "corporate:alice@example"
    for _ in range(5):
        await here.ask(token)
    assert here.login.asked == 1


async def test_what_the_configuration_does_not_grant_is_not_granted(here: Place) -> None:
    token = here.login.token(here.bank.tenant_id)
    assert code(await here.ask(token, "/v1/clients")) == "scope_insufficient"
    lines = [line("acc_1", "debit", "1"), line("acc_2", "credit", "1")]
    posted = await here.bank.client.post(
        "/v1/transactions",
        json={"ledger_id": here.bank.ledger_id, "entries": lines},
        headers=bearer(token) | {"Idempotency-Key": "k"},
    )
    assert code(posted) == "scope_insufficient"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "account"},
        {"iss": ISSUER},
        {"iss": "https://elsewhere.example"},
        {"org": None},
        {"org": "acme"},
        {"exp": int(time.time()) + 7200},
        {"exp": int(time.time()) - 1},
        {"nbf": int(time.time()) + 600},
    ],
    ids=lambda claims: "-".join(claims),
)
async def test_tokens_that_say_something_else_are_refused(here: Place, changes: Json) -> None:
    answer = await here.ask(here.login.token(here.bank.tenant_id, **changes))
    assert answer.status_code == 401


async def test_keys_and_algorithms_of_others_are_refused(here: Place) -> None:
    stranger = RSAKey.generate_key(2048)
    assert (await here.ask(here.login.token(here.bank.tenant_id, stranger))).status_code == 401
    posing = here.login.token(here.bank.tenant_id, stranger, {"kid": KID})
    assert (await here.ask(posing)).status_code == 401
    other_algorithm = here.login.token(here.bank.tenant_id, header={"alg": "PS256"})
    assert (await here.ask(other_algorithm)).status_code == 401
    logout = here.login.token(here.bank.tenant_id, header={"typ": "logout+jwt"})
    assert (await here.ask(logout)).status_code == 401


async def test_a_login_server_that_is_away_is_no_matter_once_its_keys_are_known(here: Place) -> None:
    assert (await here.ask(here.login.token(here.bank.tenant_id))).status_code == 200
    here.login.broken = True
    assert (await here.ask(here.login.token(here.bank.tenant_id, sub="bob"))).status_code == 200


@pytest.mark.parametrize("path", ["/moved", "/endless", "/nothing"])
async def test_keys_are_taken_from_the_named_place_only_and_in_a_bounded_size(
    database_url: str, tmp_path: Path, path: str
) -> None:
    async with place(database_url, tmp_path, path) as found:
        answer = await found.ask(found.login.token(found.bank.tenant_id))
        assert answer.status_code == 401
        # Our own tokens do not care.
        assert (await found.bank.client.get("/v1/ledgers")).status_code == 200


async def test_a_fixed_tenant_is_the_tenant_whatever_the_token_says(
    database_url: str, tmp_path: Path
) -> None:
    async with place(database_url, tmp_path) as found:
        tenant_id = found.bank.tenant_id
    fixed = {"tenant_claim": None, "tenant": tenant_id}
    async with place(database_url, tmp_path, **fixed) as found:
        [ledger] = (await found.ask(found.login.token(found.bank.tenant_id))).json()["items"]
        assert ledger["tenant_id"] == tenant_id
        assert found.bank.tenant_id != tenant_id


async def test_whoever_waits_for_keys_has_it_in_the_trace_and_who_asks_for_them_the_call(here: Place) -> None:
    roots: list[tracing.Span] = []
    before = tracing.install(tracing.Tracer(roots.append, Sampling(ratio=1.0, head_per_s=1e6)))
    try:
        token = here.login.token(here.bank.tenant_id)
        answers = await asyncio.gather(*(here.ask(token) for _ in range(3)))
    finally:
        tracing.install(before)
    assert [answer.status_code for answer in answers] == [200] * 3
    waits = [span for root in roots for span in root.trace.spans if span.name == "identity.issuer_keys"]
    assert {wait.parent for wait in waits} == {root for root in roots if root.kind == "server"}
    assert all(wait.ended_ns - wait.started_ns >= 0.04e9 for wait in waits)
    [call] = [span for root in roots for span in root.trace.spans if span.name == "GET"]
    assert call.parent in waits
    assert call.attributes["url.full"] == f"{here.login.url}/jwks"
    assert here.login.callers == [call.traceparent]


async def test_keys_that_are_fetched_ahead_are_a_trace_of_their_own(here: Place) -> None:
    login, now_s = here.login, 1_000.0
    known = issuers.Described(
        name="x", issuer="i", audience="a", jwks_uri=f"{login.url}/jwks", algorithms=["RS256"], tenant="t"
    )
    find = issuers.issuer_of(known).find
    roots: list[tracing.Span] = []
    before = tracing.install(tracing.Tracer(roots.append, Sampling(ratio=1.0, head_per_s=1e6)))
    try:
        with tracing.root("request") as request:
            assert await find(KID, now_s) is not None
            assert await find(KID, now_s + issuers.OLD_AFTER_S + 1) is not None
        while len(roots) < 2:
            await asyncio.sleep(0.01)
    finally:
        tracing.install(before)
    assert request is not None
    assert [span.name for span in request.trace.spans] == ["identity.issuer_keys", "GET"]
    assert [(root.name, root.parent) for root in roots] == [("request", None), ("GET", None)]
