"""Batches over HTTP: JSON and lines, each member with its own outcome, or all or none."""

import json
from typing import Any

import httpx
import pytest

from finflow.kernel import ids
from oracles.http import Bank, bank, refusal

LINES = {"Content-Type": "application/x-ndjson"}
BATCH = "/v1/transactions:batch"


def member(one: Bank, debit: str, credit: str, amount: str, **fields: Any) -> dict[str, Any]:
    body = one.transfer(debit, credit, amount, **fields)
    del body["ledger_id"]
    return body


async def send(one: Bank, members: list[Any], key: str | None = None, **fields: Any) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"ledger_id": one.ledger_id, "transactions": members} | fields
    return await one.client.post(BATCH, json=body, headers=headers)


async def send_lines(one: Bank, content: str, key: str = "k", **query: Any) -> httpx.Response:
    params = {"ledger_id": one.ledger_id} | query
    headers = LINES | {"Idempotency-Key": key}
    return await one.client.post(BATCH, content=content, params=params, headers=headers)


async def test_each_member_has_its_own_outcome(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b, poor = await one.open(), await one.open(), await one.open(overdraft_limit="0")
        members = [
            member(one, a, b, "1"),
            member(one, poor, b, "1", idempotency_key="mine"),
            member(one, a, poor, "1"),
            member(one, poor, b, "1"),
        ]
        answer = await send(one, members, "batch")
        shown = answer.json()
        assert answer.status_code == 200
        assert (shown["posted"], shown["refused"], shown["replayed"]) == (3, 1, 0)
        assert [result["idempotency_key"] for result in shown["results"]] == [
            "batch:0", "mine", "batch:2", "batch:3",
        ]  # fmt: skip
        assert [result["status"] for result in shown["results"]] == [201, 422, 201, 201]
        refused = shown["results"][1]
        assert (refused["code"], refused["param"]) == ("exceeds_available", "entries[0]")
        assert "transaction_id" not in refused
        read = await one.client.get(f"/v1/transactions/{shown['results'][3]['transaction_id']}")
        assert read.json()["seq"] == shown["results"][3]["seq"]
        again = (await send(one, members, "batch")).json()
        assert (again["posted"], again["refused"], again["replayed"]) == (0, 0, 4)
        assert again["results"] == [result | {"replayed": True} for result in shown["results"]]


async def test_a_group_is_all_or_none(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b, poor = await one.open(), await one.open(), await one.open(overdraft_limit="0")
        group = [member(one, a, b, "1"), member(one, poor, b, "1")]
        shown = (await send(one, group, "g1", atomic=True)).json()
        assert [result["code"] for result in shown["results"]] == ["group_refused", "exceeds_available"]
        assert (shown["posted"], shown["refused"]) == (0, 2)
        assert await one.balance(b) == "0.00"
        good = [member(one, a, poor, "1"), member(one, poor, b, "1")]
        first = (await send(one, good, "g2", atomic=True)).json()
        assert (first["posted"], first["refused"]) == (2, 0)
        again = (await send(one, good, "g2", atomic=True)).json()
        assert (again["replayed"], again["posted"]) == (2, 0)
        assert await one.balance(b) == "1.00"


async def test_a_key_that_stands_twice_in_a_batch_is_decided_once(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        same = member(one, a, b, "1", idempotency_key="k")
        other = member(one, a, b, "2", idempotency_key="k")
        shown = (await send(one, [same, same, other])).json()
        assert [result["status"] for result in shown["results"]] == [201, 201, 422]
        assert [result["replayed"] for result in shown["results"]] == [False, True, False]
        assert shown["results"][2]["code"] == "idempotency_conflict"
        assert await one.balance(b) == "1.00"


async def test_lines_are_members(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        lines = [json.dumps(member(one, a, b, amount)) for amount in ("1", "2")]
        content = f"{lines[0]}\r\n\n  \n{lines[1]}\n"
        shown = (await send_lines(one, content, "k")).json()
        assert [result["idempotency_key"] for result in shown["results"]] == ["k:0", "k:1"]
        assert (shown["posted"], await one.balance(b)) == (2, "3.00")
        bad = json.dumps(member(one, a, b, "1") | {"entries": []})
        group = (await send_lines(one, f"{lines[0]}\n{bad}", "g", atomic="true")).json()
        assert (group["posted"], group["refused"]) == (0, 2)


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("{", "line 3"),
        ("[]", "line 3"),
        ('{"entries":[{}]}', "line 3: entries[0].account_id"),
        ('{"entries":[],"colour":1}', "line 3: colour"),
        ("[" * 100_000, "line 3"),
        ('{"entries":[],"description":"\\u0000"}', "line 3: description"),
    ],
)
async def test_a_malformed_line_is_named_and_nothing_is_decided(
    database_url: str, line: str, place: str
) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        good = json.dumps(member(one, a, b, "1"))
        answer = await send_lines(one, f"{good}\n\n{line}\n{good}")
        assert refusal(answer) == (400, "request_malformed", place)
        assert answer.json()["detail"].startswith("Line 3: ")
        listed = await one.client.get("/v1/transactions", params={"ledger_id": one.ledger_id})
        assert listed.json()["items"] == []


async def test_batches_that_are_none(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        good = member(one, a, b, "1")
        cases: list[tuple[httpx.Response, tuple[int, str, str | None]]] = [
            (await send(one, [], "k"), (400, "batch_empty", "transactions")),
            (await send_lines(one, "\n"), (400, "batch_empty", "transactions")),
            (await send(one, [good]), (400, "idempotency_key_missing", "transactions[0].idempotency_key")),
            (
                await send(one, [good, good | {"idempotency_key": ""}], "k"),
                (400, "idempotency_key_malformed", "transactions[1].idempotency_key"),
            ),
            (await send(one, [good], "x" * 254), (400, "idempotency_key_malformed", "Idempotency-Key")),
            (
                await send(one, [good | {"timeout_s": 5}], "k"),
                (400, "request_malformed", "transactions[0].timeout_s"),
            ),
            (
                await send(one, [good, good | {"effective_at": "0001-01-01T00:00:00Z"}], "k"),
                (400, "request_malformed", "transactions[1].effective_at"),
            ),
            (await send(one, [good], "k", ledger_id="led_x"), (404, "ledger_unknown", None)),
            (await send_lines(one, json.dumps(good), ledger_id=""), (404, "ledger_unknown", None)),
            (await send_lines(one, json.dumps(good), atomic="yes"), (400, "request_malformed", "atomic")),
            (
                await one.client.post(BATCH, content="{}", headers=LINES),
                (400, "request_malformed", "ledger_id"),
            ),
            (
                await one.client.post(f"{BATCH}?atomic=true", json={}),
                (400, "request_malformed", "ledger_id"),
            ),
        ]
        for answer, expected in cases:
            assert refusal(answer) == expected


async def test_ten_thousand_and_not_one_more(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        good = json.dumps(member(one, a, b, "0.01"))
        over = "\n".join([good] * 10_001)
        assert refusal(await send_lines(one, over)) == (413, "batch_too_large", "transactions")
        assert refusal(await send(one, [json.loads(good)] * 10_001, "k"))[1] == "batch_too_large"
        shown = (await send_lines(one, "\n".join([good] * 10_000))).json()
        assert (shown["posted"], shown["refused"], len(shown["results"])) == (10_000, 0, 10_000)
        assert shown["results"][-1]["idempotency_key"] == "k:9999"
        assert await one.balance(b) == "100.00"
        seqs = [result["seq"] for result in shown["results"]]
        assert seqs == list(range(3, 10_003))


async def test_an_id_that_was_never_given_harms_nobody(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        place = ids.parse("acc", a)
        assert place is not None
        forged = ids.mint("acc", 1, place.ledger_no, ids.MAX_NUMBER)
        shown = (await send(one, [member(one, a, b, "1"), member(one, forged, b, "1")], "k")).json()
        assert [result["status"] for result in shown["results"]] == [201, 422]
        assert shown["results"][1]["code"] == "account_unknown"
