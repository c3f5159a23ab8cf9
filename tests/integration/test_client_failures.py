"""The client against a small server that fails on purpose."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from finflow.client.model import Leg, NewAccount, NewTransaction
from finflow.client.retries import OutcomeUnknown
from finflow.client.service import Client
from finflow.kernel.errors import FinFlowError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LEGS = (Leg("acc_1", "debit", "1.00", "SGD"), Leg("acc_2", "credit", "1.00", "SGD"))
NOON = "2026-11-22T12:00:00Z"
POSTED = {
    "transaction_id": "txn_1", "ledger_id": "led_1", "seq": 1, "kind": "post", "status": "posted",
    "entries": [], "recorded_at": NOON, "effective_at": NOON,
}  # fmt: skip
ACCOUNT = {
    "account_id": "acc_9", "ledger_id": "led_1", "currency": "SGD", "kind": "asset", "normal_side": "debit",
    "status": "open", "overdraft_limit": "0.00", "upper_limit": None, "external_reference": "cash & co",
    "metadata": None, "created_at": NOON, "version": 0,
}  # fmt: skip
OVERLOADED = {"code": "overloaded", "detail": "full", "retryable": True}
UNKNOWN = {"code": "outcome_unknown", "detail": "lost", "retryable": True}


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
        self.tokens: list[str | None] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        key = request.headers.get("idempotency-key")
        self.seen.append((request.path_qs, key, await request.read()))
        self.tokens.append(request.headers.get("authorization"))
        return await self.answers[min(len(self.seen), len(self.answers)) - 1](request)  # type: ignore[arg-type]


def answering(status: int, body: object, **headers: str) -> Handler:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status, headers=named)

    return answer


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def sleep_long(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def half_an_answer(request: web.Request) -> web.StreamResponse:
    """Promises a body, sends its beginning, and hangs up."""
    response = web.StreamResponse(status=201, headers={"content-length": "500"})
    await response.prepare(request)
    await response.write(b'{"transaction_id": "txn_1", ')
    return await hang_up(request)


async def without_end(request: web.Request) -> web.StreamResponse:
    """A body of which there is always more."""
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for _ in range(200):
        await response.write(b" " * 1024 * 1024)
    return response


async def gateway_page(_: web.Request) -> web.StreamResponse:
    return web.Response(status=502, text="<html>bad gateway</html>")


class Pauses:
    """Stands in for asyncio.sleep: remembers how long was asked for, and does not wait."""

    def __init__(self) -> None:
        self.lengths_s: list[float] = []

    async def __call__(self, length_s: float) -> None:
        self.lengths_s.append(length_s)


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
    script = Scripted(
        answering(409, {"code": "external_reference_taken", "detail": "taken"}),
        answering(200, {"items": [ACCOUNT], "next": None}),
    )
    async with serving(script) as url, Client(url) as api:
        found = await api.ensure_account(NewAccount("led_1", "SGD", "asset", "cash & co"))
    assert found.account_id == "acc_9"
    assert script.seen[1][0] == "/v1/accounts?ledger_id=led_1&external_reference=cash+%26+co"


async def test_entries_are_read_page_after_page() -> None:
    def page(versions: list[int], after: str | None) -> Handler:
        base = {
            "account_id": "a", "transaction_id": "t", "seq": 1, "kind": "posted", "direction": "debit",
            "amount": "1", "currency": "SGD", "balance": "1", "available": "1",
            "effective_at": NOON, "recorded_at": NOON,
        }  # fmt: skip
        return answering(200, {"items": [base | {"version": v} for v in versions], "next": after})

    script = Scripted(page([5, 4, 3], "abc="), page([2, 1], None))
    async with serving(script) as url, Client(url) as api:
        versions = [entry.version async for entry in api.entries("acc_1")]
    assert versions == [5, 4, 3, 2, 1]
    assert [path for path, _, _ in script.seen] == [
        "/v1/accounts/acc_1/entries?limit=1000&order=newest",
        "/v1/accounts/acc_1/entries?limit=1000&order=newest&cursor=abc%3D",
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


@pytest.mark.parametrize("failing", [hang_up, half_an_answer, gateway_page, answering(503, UNKNOWN)])
async def test_an_unknown_outcome_becomes_known_under_the_same_key(failing: Handler) -> None:
    script = Scripted(failing, failing, answering(201, POSTED, idempotency_replayed="true"))
    async with serving(script) as url, Client(url) as api:
        posted = await api.post("led_1", NewTransaction(entries=LEGS))
    assert (posted.transaction_id, posted.replayed) == ("txn_1", True)
    assert len(script.seen) == 3
    [(_, key, _)] = set(script.seen)
    assert key


@pytest.mark.parametrize("failing", [hang_up, half_an_answer, gateway_page, answering(503, UNKNOWN)])
async def test_an_outcome_that_stays_unknown_is_said_so_with_its_key(failing: Handler) -> None:
    script = Scripted(failing)
    async with serving(script) as url, Client(url, budget_s=0.3) as api:
        with pytest.raises(OutcomeUnknown, match="key-1") as caught:
            await api.post("led_1", NewTransaction("key-1", LEGS))
    assert (caught.value.kind.code, caught.value.idempotency_key) == ("outcome_unknown", "key-1")
    assert len(script.seen) >= 2


async def test_doubt_outlives_a_server_that_is_only_busy_afterwards() -> None:
    script = Scripted(hang_up, answering(503, OVERLOADED))
    async with serving(script) as url, Client(url, budget_s=0.3) as api:
        with pytest.raises(OutcomeUnknown):
            await api.post("led_1", NewTransaction("key-1", LEGS))


async def test_a_refusal_ends_the_doubt() -> None:
    script = Scripted(hang_up, answering(422, {"code": "exceeds_available", "detail": "no"}))
    async with serving(script) as url, Client(url) as api:
        with pytest.raises(FinFlowError, match="exceeds_available"):
            await api.void("txn_1")
    assert len(script.seen) == 2


async def test_a_read_that_stays_unanswered_is_unreachable_and_not_in_doubt() -> None:
    script = Scripted(hang_up)
    async with serving(script) as url, Client(url, budget_s=0.3) as api:
        with pytest.raises(FinFlowError, match="api_unreachable"):
            await api.transaction("txn_1")


async def test_a_bug_of_the_server_is_not_repeated() -> None:
    script = Scripted(answering(500, {"code": "internal", "detail": "oh", "request_id": "req_1"}))
    async with serving(script) as url, Client(url) as api:
        with pytest.raises(FinFlowError, match="internal: oh"):
            await api.post("led_1", NewTransaction("key-1", LEGS))
    assert len(script.seen) == 1


async def test_nobody_is_asked_before_the_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = Pauses()
    monkeypatch.setattr("finflow.client.transport._sleep", pauses)
    script = Scripted(answering(503, OVERLOADED, retry_after="7"), answering(201, POSTED))
    async with serving(script) as url, Client(url) as api:
        await api.post("led_1", NewTransaction("key-1", LEGS))
    [pause_s] = pauses.lengths_s
    assert 7 <= pause_s <= 8.75


async def test_a_retry_after_beyond_the_budget_is_not_waited_for() -> None:
    script = Scripted(answering(503, OVERLOADED, retry_after="3600"))
    async with serving(script) as url, Client(url) as api:
        with pytest.raises(FinFlowError, match="overloaded"):
            await api.ledger("led_1")
    assert len(script.seen) == 1


async def test_many_callers_together_spend_one_budget_of_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finflow.client.transport._sleep", Pauses())
    script = Scripted(answering(503, OVERLOADED))
    async with serving(script) as url, Client(url) as api:
        calls = (api.ledger("led_1") for _ in range(30))
        errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {str(error) for error in errors} == {"overloaded: full"}
    assert len(script.seen) == 30 + 100


async def test_an_answer_without_end_is_given_up() -> None:
    script = Scripted(without_end)
    async with serving(script) as url, Client(url) as api:
        with pytest.raises(FinFlowError, match="internal: the server's answer has no end"):
            await api.ledger("led_1")
    assert len(script.seen) == 1


async def test_a_redirect_is_not_followed() -> None:
    script = Scripted(answering(307, {}, location="http://127.0.0.1:9/v1/transactions"))
    async with serving(script) as url, Client(url) as api:
        with pytest.raises(FinFlowError, match="HTTP 307"):
            await api.post("led_1", NewTransaction("key-1", LEGS))


async def test_every_attempt_asks_for_a_token() -> None:
    tokens = iter(["first", "second"])

    async def token() -> str:
        return next(tokens)

    script = Scripted(hang_up, answering(201, POSTED))
    async with serving(script) as url, Client(url, token=token) as api:
        await api.post("led_1", NewTransaction("key-1", LEGS))
    assert script.tokens == ["Bearer first", "Bearer second"]


async def test_every_call_has_a_key_of_its_own() -> None:
    script = Scripted(answering(201, POSTED))
    async with serving(script) as url, Client(url) as api:
        for _ in range(3):
            await api.post("led_1", NewTransaction(entries=LEGS))
        await api.reverse("txn_1", key="mine")
    keys = [key for _, key, _ in script.seen]
    assert len(set(keys)) == 4
    assert keys[3] == "mine"


async def test_what_is_no_id_names_no_other_route() -> None:
    script = Scripted(answering(404, {"code": "resource_unknown", "detail": "no"}))
    async with serving(script) as url, Client(url) as api:
        for text in ("../ledgers", "a?b=c", "a/balance", "..", ""):
            with pytest.raises(FinFlowError, match="resource_unknown"):
                await api.account(text)
    assert [path.count("/") for path, _, _ in script.seen] == [3] * 5
