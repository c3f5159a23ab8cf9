"""The interface under the server that carries it in production: real sockets, real processes."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator

import httpx

from oracles.http import Bank, code
from oracles.workers import worker

MIB = 1024 * 1024


async def test_money_moves_once_over_a_real_socket(database_url: str) -> None:
    async with worker(database_url) as (_, client):
        one = await Bank(client).found()
        a, b = await one.open(), await one.open()
        body = one.transfer(a, b, "12.50", metadata={"z": "1", "a": "2"})
        first, again = await one.post(body, "k"), await one.post(body, "k")
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.content == first.content
        assert again.headers["idempotency-replayed"] == "true"
        many = await asyncio.gather(*(one.post(one.transfer(a, b, "1")) for _ in range(200)))
        assert {answer.status_code for answer in many} == {201}
        assert await one.balance(b) == "212.50"


async def test_bodies_that_are_too_large_are_refused_and_the_server_goes_on(database_url: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * (MIB // 8)

    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    async with worker(database_url) as (_, client):
        await Bank(client).found()
        over = await client.post("/v1/transactions", content=b" " * (MIB + 1), headers=headers)
        assert (over.status_code, code(over)) == (413, "request_too_large")
        chunked = await client.post("/v1/transactions", content=endless(), headers=headers)
        assert (chunked.status_code, code(chunked)) == (413, "request_too_large")
        deep = await client.post("/v1/transactions", content=b"[" * (MIB - 1), headers=headers)
        assert (deep.status_code, code(deep)) == (400, "request_malformed")
        assert (await client.get("/healthz")).status_code == 200


async def test_head_and_conditions_over_a_real_socket(database_url: str) -> None:
    async with worker(database_url) as (_, client):
        one = await Bank(client).found()
        url = f"/v1/accounts/{await one.open()}"
        get = await client.get(url)
        head = await client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]
        known = await client.get(url, headers={"If-None-Match": get.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
        missing = await client.head("/v1/nowhere")
        assert (missing.status_code, missing.content) == (404, b"")
        assert (await client.options(url)).headers["allow"] == "GET, HEAD, OPTIONS, PATCH"
        # The connection is still in step after answers without bodies.
        assert (await client.get(url)).content == get.content


async def test_a_batch_of_lines_is_answered_in_whole(database_url: str) -> None:
    async with worker(database_url) as (_, client):
        one = await Bank(client).found()
        a, b = await one.open(), await one.open()
        body = one.transfer(a, b, "0.01")
        del body["ledger_id"]
        content = "\n".join([json.dumps(body)] * 3000)
        answer = await client.post(
            "/v1/transactions:batch",
            params={"ledger_id": one.ledger_id},
            content=content,
            headers={"Content-Type": "application/x-ndjson", "Idempotency-Key": "k"},
        )
        assert (answer.status_code, answer.json()["posted"]) == (200, 3000)


async def test_a_worker_that_is_told_to_stop_answers_what_it_took(database_url: str) -> None:
    async with worker(database_url) as (child, client):
        one = await Bank(client).found()
        a, b = await one.open(), await one.open()
        sending = [asyncio.create_task(one.post(one.transfer(a, b, "1"), f"k{n}")) for n in range(50)]
        await asyncio.sleep(0.02)
        child.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*sending, return_exceptions=True)
        assert await asyncio.wait_for(child.wait(), 30) in (0, -signal.SIGTERM)
    taken = [
        n
        for n, answer in enumerate(answers)
        if isinstance(answer, httpx.Response) and answer.status_code == 201
    ]
    async with worker(database_url) as (_, client):
        again = one.elsewhere(client)
        for n in range(50):
            answer = await again.post(again.transfer(a, b, "1"), f"k{n}")
            assert answer.status_code == 201
            if n in taken:
                assert answer.headers["idempotency-replayed"] == "true"
        assert await again.balance(b) == "50.00"
