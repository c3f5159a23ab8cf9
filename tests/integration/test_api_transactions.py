"""Transactions over HTTP: what is answered, and that the same key answers the same bytes."""

import asyncio
from typing import Any

import pytest

from oracles.http import Bank, bank, code, line, refusal, serving

MOST = "92233720368547758.07"


async def test_a_transaction_is_answered_as_it_was_booked(database_url: str) -> None:
    async with bank(database_url) as one:
        cash, customer = await one.open(kind="asset"), await one.open(kind="liability")
        fields: dict[str, Any] = {"description": "rent", "reference": "r-1", "metadata": {"b": "2", "a": "1"}}
        body = one.transfer(cash, customer, "12.5", effective_at="2026-01-31T12:00:00.000001+01:00", **fields)
        answer = await one.post(body, "k")
        assert answer.status_code == 201
        assert "idempotency-replayed" not in answer.headers
        shown = answer.json()
        assert shown["entries"] == [
            line(cash, "debit", "12.50") | {"version": 1, "balance": "12.50"},
            line(customer, "credit", "12.50") | {"version": 1, "balance": "12.50"},
        ]
        assert (shown["kind"], shown["status"], shown["seq"]) == ("post", "posted", 3)
        assert shown["effective_at"] == "2026-01-31T11:00:00.000001Z"
        assert {name: shown[name] for name in fields} == fields
        read = await one.client.get(f"/v1/transactions/{shown['transaction_id']}")
        assert read.json() == shown


async def test_a_replay_is_the_same_bytes_also_from_another_process(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        bodies = [
            one.transfer(a, b, "1.00"),
            one.transfer(a, b, "2.00", metadata={"z": "1", "a": "2"}, effective_at="2020-02-02T00:00:00Z"),
            one.transfer(a, b, "3.00", pending=True, timeout_s=3600, description="hold"),
        ]
        first = [await one.post(body, f"k{number}") for number, body in enumerate(bodies)]
        again = [await one.post(body, f"k{number}") for number, body in enumerate(bodies)]
        async with serving(database_url) as client:
            other = one.elsewhere(client)
            elsewhere = [await other.post(body, f"k{number}") for number, body in enumerate(bodies)]
        for answers in zip(first, again, elsewhere, strict=True):
            assert [answer.status_code for answer in answers] == [201, 201, 201]
            assert len({answer.content for answer in answers}) == 1
            replayed = [answer.headers.get("idempotency-replayed") for answer in answers]
            assert replayed == [None, "true", "true"]
        assert await one.balance(b) == "3.00"


async def test_a_refusal_is_replayed_too(database_url: str) -> None:
    async with bank(database_url) as one:
        poor, rich = await one.open(overdraft_limit="0"), await one.open()
        body = one.transfer(poor, rich, "5")
        first = await one.post(body, "k")
        assert refusal(first) == (422, "exceeds_available", "entries[0]")
        assert (await one.post(one.transfer(rich, poor, "10"))).status_code == 201
        again = await one.post(body, "k")
        assert again.headers["idempotency-replayed"] == "true"
        same = {name: value for name, value in first.json().items() if name != "request_id"}
        assert {name: again.json()[name] for name in same} == same
        assert await one.balance(poor) == "10.00"


async def test_a_key_belongs_to_one_request(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        assert (await one.post(one.transfer(a, b, "1.00"), "k")).status_code == 201
        same = await one.post(one.transfer(a, b, "1"), "k")
        assert (same.status_code, same.headers["idempotency-replayed"]) == (201, "true")
        others = [
            one.transfer(a, b, "1.01"),
            one.transfer(b, a, "1"),
            one.transfer(a, b, "1", description="x"),
        ]
        for body in others:
            answer = await one.post(body, "k")
            assert refusal(answer) == (422, "idempotency_conflict", None)
            assert "idempotency-replayed" not in answer.headers
        assert await one.balance(b) == "1.00"


async def test_a_key_that_is_being_decided_answers_409_and_then_the_outcome(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        answers = await asyncio.gather(*(one.post(one.transfer(a, b, "1"), "k") for _ in range(20)))
        decided = [answer for answer in answers if answer.status_code == 201]
        waiting = [answer for answer in answers if answer.status_code == 409]
        assert len(decided) + len(waiting) == 20
        assert decided
        assert len({answer.content for answer in decided}) == 1
        for answer in waiting:
            assert code(answer) == "idempotency_in_progress"
            assert answer.json()["retryable"] is True
            assert answer.headers["retry-after"] == "1"
        assert await one.balance(b) == "1.00"


async def test_a_key_is_needed_and_has_a_shape(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        body = one.transfer(a, b, "1")
        missing = await one.client.post("/v1/transactions", json=body)
        assert refusal(missing) == (400, "idempotency_key_missing", "Idempotency-Key")
        for verb in ("post", "void", "reverse"):
            answer = await one.client.post(f"/v1/transactions/txn_x/{verb}", json={})
            assert refusal(answer) == (400, "idempotency_key_missing", "Idempotency-Key")
        for key in ("", "x" * 256, "ü", "a\tb"):
            headers = {"Idempotency-Key": key.encode("latin-1")}
            answer = await one.client.post("/v1/transactions", json=body, headers=headers)
            assert refusal(answer) == (400, "idempotency_key_malformed", "Idempotency-Key")
        assert (await one.post(body, "x" * 255)).status_code == 201
        assert (await one.post(body, " ~!")).status_code == 201


async def test_a_hold_is_posted_in_part_voided_or_posted_whole(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        holds = [(await one.post(one.transfer(a, b, "10", pending=True))).json() for _ in range(3)]
        assert {hold["status"] for hold in holds} == {"pending"}
        part, whole, void = [f"/v1/transactions/{hold['transaction_id']}" for hold in holds]
        answer = await one.send(f"{part}/post", {"amount": "4.50", "description": "shipped"}, "p")
        assert answer.status_code == 201
        captured = answer.json()
        assert (captured["kind"], captured["status"]) == ("capture", "posted")
        assert captured["pending_id"] == holds[0]["transaction_id"]
        assert [entry["amount"] for entry in captured["entries"]] == ["4.50", "4.50"]
        again = await one.send(f"{part}/post", {"amount": "4.50", "description": "shipped"}, "p")
        assert (again.content, again.headers["idempotency-replayed"]) == (answer.content, "true")
        assert code(await one.send(f"{part}/post", {"amount": "4.51"}, "p")) == "idempotency_conflict"
        assert (await one.send(f"{whole}/post", {})).status_code == 201
        released = await one.client.post(f"{void}/void", headers={"Idempotency-Key": "v"})
        assert (released.status_code, released.json()["status"]) == (201, "voided")
        assert await one.balance(b) == "14.50"
        assert refusal(await one.send(f"{part}/void", {})) == (422, "already_posted", "transaction_id")
        assert refusal(await one.send(f"{void}/post", {})) == (422, "already_voided", "transaction_id")
        read = (await one.client.get(part)).json()
        assert (read["status"], read["resolved_by_id"]) == ("posted", captured["transaction_id"])


async def test_captures_are_bounded(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        hold = (await one.post(one.transfer(a, b, "10", pending=True))).json()["transaction_id"]
        path = f"/v1/transactions/{hold}/post"
        assert refusal(await one.send(path, {"amount": "10.01"})) == (
            422,
            "capture_exceeds_pending",
            "amount",
        )
        assert refusal(await one.send(path, {"amount": "0"})) == (422, "amount_not_positive", "amount")
        posted = (await one.post(one.transfer(a, b, "1"))).json()["transaction_id"]
        answer = await one.send(f"/v1/transactions/{posted}/void", {})
        assert refusal(answer) == (422, "not_pending", "transaction_id")


async def test_a_reversal_books_the_opposite_once(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        first = (await one.post(one.transfer(a, b, "7"))).json()
        path = f"/v1/transactions/{first['transaction_id']}/reverse"
        answer = await one.send(path, {"description": "wrong"}, "r")
        shown = answer.json()
        assert (answer.status_code, shown["reverses_id"]) == (201, first["transaction_id"])
        assert [entry["direction"] for entry in shown["entries"]] == ["credit", "debit"]
        again = await one.send(path, {"description": "wrong"}, "r")
        assert (again.content, again.headers["idempotency-replayed"]) == (answer.content, "true")
        assert refusal(await one.send(path, {})) == (422, "already_reversed", "transaction_id")
        assert await one.balance(b) == "0.00"


@pytest.mark.parametrize(
    ("currency", "amount", "shown"),
    [
        ("VND", "12", "12"),
        ("SGD", "12", "12.00"),
        ("BHD", "0.001", "0.001"),
        ("CLF", "1.2345", "1.2345"),
        ("SGD", "0.01", "0.01"),
        ("SGD", MOST, MOST),
        ("VND", "9223372036854775807", "9223372036854775807"),
    ],
)
async def test_amounts_have_their_currency_s_decimals(
    database_url: str, currency: str, amount: str, shown: str
) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(currency), await one.open(currency)
        answer = await one.post(one.transfer(a, b, amount, currency))
        assert answer.status_code == 201, answer.text
        assert await one.balance(b) == shown
        assert await one.balance(a) == f"-{shown}"


@pytest.mark.parametrize(
    ("currency", "amount", "refused"),
    [
        ("VND", "0.5", "amount_too_precise"),
        ("VND", "1.0", "amount_too_precise"),
        ("SGD", "0.001", "amount_too_precise"),
        ("BHD", "0.0001", "amount_too_precise"),
        ("CLF", "0.00001", "amount_too_precise"),
        ("SGD", "92233720368547758.08", "amount_out_of_range"),
        ("SGD", "9" * 60, "amount_out_of_range"),
        ("SGD", "0", "amount_not_positive"),
        ("SGD", "-1", "amount_not_positive"),
        ("SGD", "1e3", "amount_malformed"),
        ("SGD", "+1", "amount_malformed"),
        ("SGD", "1,00", "amount_malformed"),
        ("SGD", "", "amount_malformed"),
        ("SGD", "NaN", "amount_malformed"),
        ("SGD", "١", "amount_malformed"),
    ],
)
async def test_amounts_that_are_none(database_url: str, currency: str, amount: str, refused: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(currency), await one.open(currency)
        answer = await one.post(one.transfer(a, b, amount, currency))
        assert refusal(answer) == (422, refused, "entries[0].amount")


async def test_totals_stop_at_64_bits(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        assert (await one.post(one.transfer(a, b, MOST))).status_code == 201
        assert refusal(await one.post(one.transfer(a, b, "0.01"))) == (
            422,
            "balance_out_of_range",
            "entries[0]",
        )
        assert await one.balance(b) == MOST


async def test_what_the_entries_say_together(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b, yen = await one.open(), await one.open(), await one.open("JPY")
        unequal = [line(a, "debit", "1"), line(b, "credit", "2")]
        mixed = [line(a, "debit", "1"), line(yen, "credit", "1", "JPY")]
        wrong = [line(a, "debit", "1"), line(yen, "credit", "1", "SGD")]
        alone = [line(a, "debit", "1")]
        unknown = [line(a, "debit", "1"), line("acc_nobody", "credit", "1")]
        for entries, expected in (
            (unequal, (422, "unbalanced", "entries")),
            (mixed, (422, "unbalanced", "entries")),
            (wrong, (422, "currency_mismatch", "entries[1].currency")),
            (alone, (422, "too_few_entries", "entries")),
            (unknown, (422, "account_unknown", "entries[1].account_id")),
        ):
            answer = await one.post({"ledger_id": one.ledger_id, "entries": entries})
            assert refusal(answer) == expected


async def test_pages_of_transactions(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        bodies = [one.transfer(a, b, "1", reference=f"r{number % 2}") for number in range(5)]
        made = [(await one.post(body)).json()["seq"] for body in bodies]
        seen: list[int] = []
        query: dict[str, Any] = {"limit": 2}
        while True:
            page = await _list(one, **query)
            seen += [item["seq"] for item in page["items"]]
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
        assert seen == made
        later = await _list(one, after_seq=made[2])
        assert [item["seq"] for item in later["items"]] == made[3:]
        referred = await _list(one, reference="r1")
        assert ([item["seq"] for item in referred["items"]], referred["next"]) == (made[1::2], None)


async def _list(one: Bank, **query: Any) -> dict[str, Any]:
    answer = await one.client.get("/v1/transactions", params={"ledger_id": one.ledger_id} | query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page
