"""Idempotency-Key over HTTP: each route that takes one, against each thing that can happen to it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import httpx
import pytest

from finflow.db.migrations import migrate
from finflow.stack.folder import DataFolder
from finflow.stack.postgres import EmbeddedPostgres
from oracles.http import Bank, Json, bank, bearer, code, refusal
from oracles.killing import kill_family
from oracles.proxy import Proxy
from oracles.tokens import tenant_token
from oracles.workers import worker


class Case(NamedTuple):
    """A request that is accepted, another one for the same route, and one that is refused."""

    path: str
    body: Json
    other: Json
    status: int
    method: str = "POST"
    headers: dict[str, str] = {}  # noqa: RUF012 - a default of a tuple, which nobody changes
    refused: tuple[str, Json] | None = None


Make = Callable[[Bank], Awaitable[Case]]


async def post(one: Bank) -> Case:
    a, b, poor = await one.open(), await one.open(), await one.open(overdraft_limit="0")
    refused = ("/v1/transactions", one.transfer(poor, a, "1"))
    return Case(refused[0], one.transfer(a, b, "1"), one.transfer(a, b, "2"), 201, refused=refused)


async def hold(one: Bank) -> Case:
    a, b, poor = await one.open(), await one.open(), await one.open(overdraft_limit="0")
    path, held = "/v1/transactions", one.transfer(a, b, "1", pending=True)
    refused = (path, one.transfer(poor, a, "1", pending=True))
    return Case(path, held, held | {"timeout_s": 60}, 201, refused=refused)


async def _made(one: Bank, **fields: Any) -> str:
    a, b = await one.open(), await one.open()
    made = await one.post(one.transfer(a, b, "10", **fields))
    return f"/v1/transactions/{made.json()['transaction_id']}"


async def capture(one: Bank) -> Case:
    path = f"{await _made(one, pending=True)}/post"
    refused = (f"{await _made(one, pending=True)}/post", {"amount": "11"})
    return Case(path, {"amount": "4"}, {"amount": "5"}, 201, refused=refused)


async def void(one: Bank) -> Case:
    refused = (f"{await _made(one)}/void", {})
    return Case(f"{await _made(one, pending=True)}/void", {}, {"description": "x"}, 201, refused=refused)


async def reverse(one: Bank) -> Case:
    refused = (f"{await _made(one, pending=True)}/reverse", {})
    return Case(f"{await _made(one)}/reverse", {}, {"description": "x"}, 201, refused=refused)


async def open_account(one: Bank) -> Case:
    await one.open(external_reference="taken")
    body = {"ledger_id": one.ledger_id, "currency": "SGD", "kind": "asset"}
    refused = ("/v1/accounts", body | {"external_reference": "taken"})
    return Case("/v1/accounts", body, body | {"kind": "liability"}, 201, refused=refused)


async def declare_asset(one: Bank) -> Case:
    body = {"ledger_id": one.ledger_id, "code": "PTS", "exponent": 0}
    return Case(
        "/v1/assets", body, body | {"code": "QTS"}, 201, refused=("/v1/assets", body | {"code": "USD"})
    )


async def change_account(one: Bank) -> Case:
    path = f"/v1/accounts/{await one.open()}"
    return Case(path, {"metadata": {"a": "1"}}, {"metadata": {}}, 200, "PATCH", {"If-Match": "*"})


async def freeze(one: Bank) -> Case:
    account = await one.open()
    return Case(f"/v1/accounts/{account}/freeze", {}, {}, 200)


MONEY: list[Make] = [post, hold, capture, void, reverse]
ALL: list[Make] = [*MONEY, open_account, declare_asset, change_account, freeze]
each_money = pytest.mark.parametrize("make", MONEY, ids=lambda make: make.__name__)
each = pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)


async def send(one: Bank, case: Case, key: str | None = "k", body: Json | None = None) -> httpx.Response:
    headers = case.headers | ({} if key is None else {"Idempotency-Key": key})
    return await one.client.request(
        case.method, case.path, json=case.body if body is None else body, headers=headers
    )


async def journaled(one: Bank) -> int:
    """How much the ledger has decided, refusals included."""
    seq: int = (await one.client.get(f"/v1/ledgers/{one.ledger_id}/trial-balance")).json()["seq"]
    return seq


@each
async def test_a_repeat_is_the_same_bytes_and_nothing_more(database_url: str, make: Make) -> None:
    async with bank(database_url) as one:
        case = await make(one)
        first = await send(one, case)
        assert (first.status_code, first.headers.get("idempotency-replayed")) == (case.status, None)
        before = await journaled(one)
        for _ in range(3):
            again = await send(one, case)
            assert (again.status_code, again.content) == (case.status, first.content)
            assert again.headers["idempotency-replayed"] == "true"
        # Another client of the tenant that has the key has the intent too.
        one.client.headers.update(bearer(tenant_token(one.tenant_id, subject="another")))
        assert (await send(one, case)).content == first.content
        assert await journaled(one) == before


@each
async def test_the_key_for_anything_else_is_a_conflict(database_url: str, make: Make) -> None:
    async with bank(database_url) as one:
        case = await make(one)
        assert (await send(one, case)).status_code == case.status
        before = await journaled(one)
        elsewhere = await (post if make is not post else reverse)(one)
        asked = [await send(one, elsewhere)]
        if case.other != case.body:
            asked.append(await send(one, case, body=case.other))
        for answer in asked:
            assert refusal(answer) == (422, "idempotency_conflict", None)
            assert "idempotency-replayed" not in answer.headers
        # Making the other case opened accounts; none of what conflicted is in the journal.
        assert (await send(one, case)).headers["idempotency-replayed"] == "true"
        assert await journaled(one) >= before


@each_money
async def test_without_a_key_no_money_moves(database_url: str, make: Make) -> None:
    async with bank(database_url) as one:
        case = await make(one)
        before = await journaled(one)
        assert refusal(await send(one, case, key=None)) == (400, "idempotency_key_missing", "Idempotency-Key")
        for key in ("", "x" * 256, "a\tb"):
            assert refusal(await send(one, case, key))[:2] == (400, "idempotency_key_malformed")
        assert await journaled(one) == before


@pytest.mark.parametrize("make", [open_account, declare_asset, change_account, freeze])
async def test_without_a_key_each_request_is_an_intent_of_its_own(database_url: str, make: Make) -> None:
    async with bank(database_url) as one:
        case = await make(one)
        answers = [await send(one, case, key=None) for _ in range(2)]
        assert {answer.status_code for answer in answers} == {case.status}
        assert not any("idempotency-replayed" in answer.headers for answer in answers)


@each
async def test_of_many_at_once_one_is_done(database_url: str, make: Make) -> None:
    async with bank(database_url) as one:
        case = await make(one)
        before = await journaled(one)
        answers = await asyncio.gather(*(send(one, case) for _ in range(12)))
        done = [answer for answer in answers if answer.status_code == case.status]
        waiting = [answer for answer in answers if answer.status_code == 409]
        assert len(done) + len(waiting) == 12
        assert {code(answer) for answer in waiting} <= {"idempotency_in_progress"}
        assert len({answer.content for answer in done}) == 1
        assert await journaled(one) == before + 1
        again = await send(one, case)
        assert (again.content, again.headers["idempotency-replayed"]) == (done[0].content, "true")


@pytest.mark.parametrize("make", [*MONEY, open_account, declare_asset], ids=lambda make: make.__name__)
async def test_a_refusal_is_kept_under_its_key(database_url: str, make: Make) -> None:
    async with bank(database_url) as one:
        case = await make(one)
        assert case.refused is not None
        refused = Case(case.refused[0], case.refused[1], {}, 0)
        first = await send(one, refused)
        assert first.status_code in (409, 422)
        before = await journaled(one)
        again = await send(one, refused)
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json() | {"request_id": ""} == first.json() | {"request_id": ""}
        assert refusal(await send(one, case))[1] == "idempotency_conflict"
        assert await journaled(one) == before


async def test_tenants_have_keys_of_their_own(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        assert (await one.post(one.transfer(a, b, "1"), "k")).status_code == 201
        other = await Bank(one.client).found()
        c, d = await other.open(), await other.open()
        theirs = await other.post(other.transfer(c, d, "7"), "k")
        assert (theirs.status_code, "idempotency-replayed" in theirs.headers) == (201, False)


# --- killed between COMMIT and the answer


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[str, Proxy]]:
    """The URL of the same database behind a proxy, and the proxy."""
    base, _, server = url.partition("?host=")
    with tempfile.TemporaryDirectory(prefix="ffp-") as folder:
        proxy = Proxy(Path(server), Path(folder))
        await proxy.start()
        try:
            yield f"{base}?host={folder}", proxy
        finally:
            await proxy.stop()


async def committed(url: str, key: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        count: int = await connection.fetchval("select count(*) from journal where key = $1", key)
    finally:
        await connection.close()
    return count


async def once(one: Bank, body: Json, account: str) -> httpx.Response:
    """The answer under the key, after checking that it was and stays the only one."""
    again = await one.post(body, "k")
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert (await one.post(body, "k")).content == again.content
    assert await one.balance(account) == "1.00"
    return again


async def test_a_worker_that_is_killed_before_it_answers_has_booked_once(database_url: str) -> None:
    async with proxied(database_url) as (behind, proxy):
        async with worker(behind) as (child, client):
            one = await Bank(client).found()
            a, b = await one.open(), await one.open()
            body = one.transfer(a, b, "1")
            proxy.cut("hold")
            lost = asyncio.create_task(one.post(body, "k"))
            await asyncio.wait_for(proxy.held.wait(), 30)
            assert await committed(database_url, "k") == 1
            kill_family(child.pid)
            with pytest.raises(httpx.TransportError):
                await lost
            await child.wait()
        async with worker(database_url) as (_, client):
            await once(one.elsewhere(client), body, b)


async def test_a_database_that_is_killed_before_it_answers_has_booked_once(short_folder: Path) -> None:
    server = EmbeddedPostgres(DataFolder(short_folder / "kill-http"), durable=True)
    await server.start()
    try:
        await migrate(server.url())
        async with proxied(server.url()) as (behind, proxy), worker(behind) as (_, client):
            one = await Bank(client).found()
            a, b = await one.open(), await one.open()
            body = one.transfer(a, b, "1")
            proxy.cut("hold")
            asked = asyncio.create_task(one.post(body, "k"))
            await asyncio.wait_for(proxy.held.wait(), 30)
            await _kill(server)
            await server.start()
            proxy.let_go.set()
            first = await asked
            # The worker finds out by itself, or says that it does not know: never that it failed.
            assert first.status_code == 201 or code(first) == "outcome_unknown", first.text
            again = await once(one, body, b)
            assert first.status_code != 201 or first.content == again.content
            assert await committed(server.url(), "k") == 1
    finally:
        await server.stop()


async def _kill(server: EmbeddedPostgres) -> None:
    assert server.process is not None
    kill_family(server.process.pid)
    await server.exited()
