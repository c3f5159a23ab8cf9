"""The client against a small server that fails on purpose."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from finflow.client.model import Leg, NewAccount, NewTransaction
from finflow.client.service import Client
from finflow.kernel.errors import FinFlowError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LEGS = (Leg("acc_1", "debit", "1.00", "SGD"), Leg("acc_2", "credit", "1.00", "SGD"))
POSTED = {"transaction_id": "txn_1", "seq": 1, "status": "posted"}
OVERLOADED = {"code": "overloaded", "detail": "full", "retryable": True}


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    server = web.Server(handler)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site.name if not site.name.endswith(":0") else f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Scripted:
    """Answers request after request from a list; keeps what was asked."""

    def __init__(self, *answers: Handler) -> None:
        self.answers = list(answers)
        self.seen: list[tuple[str, str | None, bytes]] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        key = request.headers.get("idempotency-key")
        self.seen.append((request.path_qs, key, await request.read()))
        return await self.answers[min(len(self.seen), len(self.answers)) - 1](request)  # type: ignore[arg-type]


def answering(status: int, body: object) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return answer


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def sleep_long(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def test_the_same_request_with_the_same_key_is_sent_until_it_is_answered() -> None:
    script = Scripted(answering(503, OVERLOADED), hang_up, answering(201, POSTED))
    async with serving(script) as url, Client(url) as api:
        posted = await api.post("led_1", NewTransaction("key-1", LEGS))
    assert posted.transaction_id == "txn_1"
    assert len(script.seen) == 3
    assert len(set(script.seen)) == 1
    assert script.seen[0][1] == "key-1"


async def test_a_refusal_is_raised_at_once_with_its_code() -> None:
    script = Scripted(answering(422, {"code": "unbalanced", "detail": "off", "param": "entries"}))
    async with serving(script) as url, Client(url) as api:
        with pytest.raises(FinFlowError) as caught:
            await api.post("led_1", NewTransaction("key-1", LEGS))
    assert (caught.value.kind.code, caught.value.param) == ("unbalanced", "entries")
    assert len(script.seen) == 1


async def test_the_budget_ends_the_retries_with_the_server_s_own_code() -> None:
    script = Scripted(answering(503, OVERLOADED))
    async with serving(script) as url, Client(url, budget_s=0.3) as api:
        with pytest.raises(FinFlowError, match="overloaded: full"):
            await api.post("led_1", NewTransaction("key-1", LEGS))
    assert len(script.seen) >= 2


async def test_a_slow_answer_is_given_up_and_asked_for_again() -> None:
    script = Scripted(sleep_long, answering(201, POSTED))
    async with serving(script) as url, Client(url, timeout_s=0.2) as api:
        assert (await api.post("led_1", NewTransaction("key-1", LEGS))).seq == 1
    assert len(script.seen) == 2


async def test_a_tenant_is_not_opened_twice_after_a_lost_answer() -> None:
    script = Scripted(hang_up, answering(201, {"tenant_id": "ten_1", "name": "x"}))
    async with serving(script) as url, Client(url) as api:
        with pytest.raises(FinFlowError, match="api_unreachable"):
            await api.create_tenant("x")
    assert len(script.seen) == 1


async def test_nobody_listens() -> None:
    async with serving(answering(200, {})) as url:
        pass
    async with Client(url, budget_s=0.2) as api:
        with pytest.raises(FinFlowError, match="api_unreachable"):
            await api.ledgers()


async def test_an_account_that_is_there_is_found_by_its_reference() -> None:
    account = {"account_id": "acc_9", "currency": "SGD", "kind": "asset", "external_reference": "cash & co"}
    script = Scripted(
        answering(409, {"code": "external_reference_taken", "detail": "taken"}),
        answering(200, {"items": [account], "next": None}),
    )
    async with serving(script) as url, Client(url) as api:
        found = await api.ensure_account(NewAccount("led_1", "SGD", "asset", "cash & co"))
    assert found.account_id == "acc_9"
    assert script.seen[1][0] == "/v1/accounts?ledger_id=led_1&external_reference=cash+%26+co"


async def test_entries_are_read_page_after_page() -> None:
    def page(versions: list[int], after: int | None) -> Handler:
        base = {"account_id": "a", "transaction_id": "t", "amount": "1", "balance": "1", "direction": "debit"}
        return answering(200, {"items": [base | {"version": v} for v in versions], "next": after})

    script = Scripted(page([5, 4, 3], 3), page([2, 1], None))
    async with serving(script) as url, Client(url) as api:
        versions = [entry.version async for entry in api.entries("acc_1")]
    assert versions == [5, 4, 3, 2, 1]
    assert [path for path, _, _ in script.seen] == [
        "/v1/accounts/acc_1/entries?limit=1000",
        "/v1/accounts/acc_1/entries?limit=1000&before=3",
    ]


async def test_an_answer_of_another_shape_is_an_error_and_not_a_guess() -> None:
    script = Scripted(answering(201, {"transaction_id": 7}))
    async with serving(script) as url, Client(url) as api:
        with pytest.raises(FinFlowError, match="internal: the server's answer is not a Transaction"):
            await api.post("led_1", NewTransaction("key-1", LEGS))


async def test_a_batch_with_too_few_results_is_an_error() -> None:
    script = Scripted(answering(200, {"results": []}))
    async with serving(script) as url, Client(url) as api:
        with pytest.raises(FinFlowError, match="0 results to 1 transactions"):
            await api.post_batch("led_1", [NewTransaction("key-1", LEGS)])
