"""Ledgers and accounts over HTTP: what they may do, what changes about them, and how they stood before."""

from typing import Any

import httpx
import pytest

from finflow.kernel import ids
from oracles.http import Bank, bank, bearer, refusal
from oracles.tokens import tenant_token

NOBODY = ids.mint("acc", 1_700_000_000_000_000, 1, 1)
NO_LEDGER = ids.mint("led", 1_700_000_000_000_000, 1, 0)


async def test_tenants_and_ledgers_are_found_again(database_url: str) -> None:
    async with bank(database_url) as one:
        read = await one.client.get(f"/v1/ledgers/{one.ledger_id}")
        assert (read.status_code, read.json()["name"]) == (200, "Ledger")
        listed = (await one.client.get("/v1/ledgers")).json()["items"]
        assert listed == [read.json()]
        made = await one.client.post("/v1/ledgers", json={"tenant_id": one.tenant_id, "name": "L"})
        assert refusal(made) == (400, "request_malformed", "tenant_id"), "whose it is, the token says"
        # Not the tenants that were never given, nor one whose number was given at another time.
        for micros, number in ((1_700_000_000_000_000, 77), (1, (1 << 31) - 1), (1, 1)):
            ghost = bearer(tenant_token(ids.mint("ten", micros, 0, number)))
            answer = await one.client.post("/v1/ledgers", json={"name": "L"}, headers=ghost)
            assert refusal(answer) == (404, "tenant_unknown", None)
            for path in ("/v1/tenants", "/v1/ledgers"):
                assert (await one.client.get(path, headers=ghost)).json() == {"items": [], "next": None}
            answer = await one.client.get(f"/v1/ledgers/{one.ledger_id}", headers=ghost)
            assert refusal(answer) == (404, "ledger_unknown", None)
        for path in (
            NO_LEDGER,
            f"{NO_LEDGER}/trial-balance",
            "led_x",
            ids.mint("led", 1, ids.MAX_LEDGER_NO, 0),
        ):
            assert refusal(await one.client.get(f"/v1/ledgers/{path}")) == (404, "ledger_unknown", None)


async def test_an_account_is_shown_as_it_was_opened(database_url: str) -> None:
    async with bank(database_url) as one:
        body = {
            "ledger_id": one.ledger_id,
            "currency": "BHD",
            "kind": "asset",
            "overdraft_limit": "5",
            "upper_limit": "1000.5",
            "external_reference": "iban",
            "metadata": {"z": "1", "a": "2"},
        }
        key = {"Idempotency-Key": "open"}
        answer = await one.client.post("/v1/accounts", json=body, headers=key)
        account = answer.json()
        assert answer.status_code == 201
        expected = body | {
            "overdraft_limit": "5.000",
            "upper_limit": "1000.500",
            "status": "open",
            "version": 0,
        }
        assert {name: account[name] for name in expected} == expected
        assert account["normal_side"] == "debit"
        again = await one.client.post("/v1/accounts", json=body, headers=key)
        assert (again.status_code, again.content) == (201, answer.content)
        assert again.headers["idempotency-replayed"] == "true"
        assert (await one.client.get(f"/v1/accounts/{account['account_id']}")).json() == account
        found = await _accounts(one, external_reference="iban")
        assert found == {"items": [account], "next": None}
        assert (await _accounts(one, external_reference="other"))["items"] == []
        taken = await one.client.post("/v1/accounts", json=body)
        assert refusal(taken) == (409, "external_reference_taken", "external_reference")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"currency": "XYZ"}, (422, "currency_unknown", "currency")),
        ({"overdraft_limit": "-1"}, (422, "amount_not_positive", "overdraft_limit")),
        ({"overdraft_limit": "0.001"}, (422, "amount_too_precise", "overdraft_limit")),
        ({"upper_limit": "9" * 30}, (422, "amount_out_of_range", "upper_limit")),
        ({"external_reference": "x" * 141}, (422, "field_too_long", "external_reference")),
        ({"metadata": {"a": "x" * 4096}}, (422, "field_too_long", "metadata")),
        ({"kind": "bank"}, (400, "request_malformed", "kind")),
        ({"overdraft_limit": 5}, (400, "request_malformed", "overdraft_limit")),
        ({"metadata": {"a": 1}}, (400, "request_malformed", "metadata[...]")),
        ({"colour": "red"}, (400, "request_malformed", "colour")),
        ({"ledger_id": NO_LEDGER}, (404, "ledger_unknown", None)),
    ],
)
async def test_accounts_that_cannot_be_opened(
    database_url: str, fields: dict[str, Any], expected: tuple[int, str, str | None]
) -> None:
    async with bank(database_url) as one:
        body = {"ledger_id": one.ledger_id, "currency": "SGD", "kind": "liability"}
        assert refusal(await one.client.post("/v1/accounts", json=body | fields)) == expected


async def test_a_frozen_account_stands_still_and_a_closed_one_for_ever(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        assert (await one.post(one.transfer(a, b, "1"))).status_code == 201
        assert (await _patch(one, b, status="frozen")).json()["status"] == "frozen"
        frozen = (422, "account_frozen", "entries[1].account_id")
        assert refusal(await one.post(one.transfer(a, b, "1"))) == frozen
        assert (await _patch(one, b, status="open")).status_code == 200
        assert refusal(await _patch(one, b, status="closed")) == (422, "account_not_empty", "status")
        assert (await one.post(one.transfer(b, a, "1"))).status_code == 201
        assert (await _patch(one, b, status="closed")).json()["status"] == "closed"
        closed = (422, "account_closed", "entries[1].account_id")
        assert refusal(await one.post(one.transfer(a, b, "1"))) == closed
        assert refusal(await _patch(one, b, status="open")) == (422, "account_closed", "account_id")


async def test_limits_hold_and_change(database_url: str) -> None:
    async with bank(database_url) as one:
        source = await one.open()
        account = await one.open(overdraft_limit="10", upper_limit="100")
        assert refusal(await one.post(one.transfer(source, account, "100.01")))[1] == "exceeds_limit"
        assert refusal(await one.post(one.transfer(account, source, "10.01")))[1] == "exceeds_available"
        assert (await one.post(one.transfer(account, source, "10"))).status_code == 201
        assert refusal(await _patch(one, account, overdraft_limit="9")) == (
            422,
            "limit_in_use",
            "overdraft_limit",
        )
        changed = (await _patch(one, account, overdraft_limit=None, metadata={"a": "b"})).json()
        assert (changed["overdraft_limit"], changed["upper_limit"]) == (None, "100.00")
        assert changed["metadata"] == {"a": "b"}
        assert (await one.post(one.transfer(account, source, "1000"))).status_code == 201
        assert (await one.client.get(f"/v1/accounts/{account}")).json()["overdraft_limit"] is None


async def test_unknown_accounts_are_not_found(database_url: str) -> None:
    async with bank(database_url) as one:
        account = await one.open()
        place = ids.parse("acc", account)
        assert place is not None
        largest = ids.mint("acc", 1, place.ledger_no, ids.MAX_NUMBER)
        guessed = ids.mint("acc", 1, place.ledger_no, place.number)
        for account_id in (NOBODY, largest, guessed, "acc_x", account.upper(), "txn" + account[3:]):
            for path in ("", "/balance", "/entries"):
                answer = await one.client.get(f"/v1/accounts/{account_id}{path}")
                assert refusal(answer) == (404, "resource_unknown", None), path
            assert refusal(await _patch(one, account_id, status="frozen")) == (404, "resource_unknown", None)
        for verb in ("", "/post", "/void", "/reverse"):
            path = f"/v1/transactions/txn_x{verb}"
            answer = await (one.send(path, {}) if verb else one.client.get(path))
            assert refusal(answer) == (404, "resource_unknown", None)


async def test_balances_as_of(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        dates = ("2026-03-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")
        made = [(await one.post(one.transfer(a, b, "1", effective_at=date))).json() for date in dates]
        hold = await one.post(one.transfer(a, b, "5", pending=True))
        assert hold.status_code == 201
        assert [await one.balance(b, at_seq=t["seq"]) for t in made] == ["1.00", "2.00", "3.00"]
        assert [await one.balance(b, as_of=t["recorded_at"]) for t in made] == ["1.00", "2.00", "3.00"]
        assert await one.balance(b, at_seq=made[0]["seq"] - 1) == "0.00"
        by_value_date = [await one.balance(b, effective_at=date) for date in sorted(dates)]
        assert by_value_date == ["1.00", "2.00", "3.00"]
        assert await one.balance(b, effective_at="2025-12-31T23:59:59.999999Z") == "0.00"
        now = (await one.client.get(f"/v1/accounts/{a}/balance")).json()
        assert (now["balance"], now["pending_debits"], now["available"]) == ("-3.00", "5.00", "-8.00")
        both = {"at_seq": 1, "as_of": dates[0]}
        answer = await one.client.get(f"/v1/accounts/{a}/balance", params=both)
        assert refusal(answer) == (400, "request_malformed", "as_of")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("as_of=2026-01-01", "as_of"),
        ("as_of=2026-01-01T00:00:00", "as_of"),
        ("as_of=0001-01-01T00:00:00%2B14:00", "as_of"),
        ("effective_at=9999-12-31T23:59:59-14:00", "effective_at"),
        ("at_seq=-1", "at_seq"),
        ("at_seq=99999999999999999999999", "at_seq"),
        ("at_seq=1.5", "at_seq"),
        ("as_off=2026-01-01T00:00:00Z", "as_off"),
        ("at_seq=1&at_seq=2", None),
        ("at_seq=%FF", None),
    ],
)
async def test_queries_that_are_none(database_url: str, query: str, param: str | None) -> None:
    async with bank(database_url) as one:
        account = await one.open()
        answer = await one.client.get(f"/v1/accounts/{account}/balance?{query}")
        assert refusal(answer) == (400, "request_malformed", param)


async def test_entries_newest_first_in_pages(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        hold = (await one.post(one.transfer(a, b, "5", pending=True))).json()
        assert (await one.send(f"/v1/transactions/{hold['transaction_id']}/void", {})).status_code == 201
        for amount in ("1", "2", "3"):
            assert (await one.post(one.transfer(a, b, amount))).status_code == 201
        first = (await one.client.get(f"/v1/accounts/{b}/entries?limit=3")).json()
        rest = (await one.client.get(f"/v1/accounts/{b}/entries?limit=3&cursor={first['next']}")).json()
        items = first["items"] + rest["items"]
        assert [item["version"] for item in items] == [5, 4, 3, 2, 1]
        assert [item["balance"] for item in items] == ["6.00", "3.00", "1.00", "0.00", "0.00"]
        assert [item["kind"] for item in items] == ["posted"] * 3 + ["released", "pending"]
        assert rest["next"] is None
        whole = (await one.client.get(f"/v1/accounts/{b}/entries?limit=5")).json()
        assert (whole["items"], whole["next"]) == (items, None)
        for limit in ("0", "1001", "x"):
            answer = await one.client.get(f"/v1/accounts/{b}/entries?limit={limit}")
            assert refusal(answer) == (400, "request_malformed", "limit")


async def test_accounts_in_pages(database_url: str) -> None:
    async with bank(database_url) as one:
        made = [await one.open() for _ in range(5)]
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 2}
        while True:
            page = await _accounts(one, **query)
            seen += [item["account_id"] for item in page["items"]]
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
        assert seen == made
        missing = await one.client.get("/v1/accounts")
        assert refusal(missing) == (400, "request_malformed", "ledger_id")


async def test_the_trial_balance_adds_up(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b, c, d = (
            await one.open(),
            await one.open(kind="asset"),
            await one.open("VND"),
            await one.open("VND"),
        )
        assert (await one.post(one.transfer(b, a, "1.25"))).status_code == 201
        assert (await one.post(one.transfer(c, d, "7", "VND", pending=True))).status_code == 201
        shown = (await one.client.get(f"/v1/ledgers/{one.ledger_id}/trial-balance")).json()
        assert (shown["ledger_id"], shown["seq"], shown["balanced"]) == (one.ledger_id, 6, True)
        assert shown["currencies"] == [
            _totals("SGD", "1.25", "0.00"),
            _totals("VND", "0", "7"),
        ]


def _totals(currency: str, posted: str, pending: str) -> dict[str, Any]:
    return {
        "currency": currency,
        "posted_debits": posted,
        "posted_credits": posted,
        "pending_debits": pending,
        "pending_credits": pending,
        "balanced": True,
    }


async def test_assets_of_one_s_own(database_url: str) -> None:
    async with bank(database_url) as one:
        body = {"ledger_id": one.ledger_id, "code": "POINTS", "exponent": 6}
        answer = await one.client.post("/v1/assets", json=body)
        assert (answer.status_code, answer.json()) == (201, body)
        a, b = await one.open("POINTS"), await one.open("POINTS")
        assert (await one.post(one.transfer(a, b, "0.000001", "POINTS"))).status_code == 201
        assert await one.balance(b) == "0.000001"
        other = await one.client.post("/v1/assets", json=body | {"exponent": 2})
        assert refusal(other) == (422, "asset_conflict", "exponent")
        iso = await one.client.post("/v1/assets", json=body | {"code": "SGD"})
        assert refusal(iso) == (422, "asset_conflict", "code")
        wide = await one.client.post("/v1/assets", json=body | {"exponent": 19})
        assert refusal(wide) == (400, "request_malformed", "exponent")


async def _patch(one: Bank, account_id: str, **fields: Any) -> httpx.Response:
    return await one.client.patch(f"/v1/accounts/{account_id}", json=fields, headers={"If-Match": "*"})


async def _accounts(one: Bank, **query: Any) -> dict[str, Any]:
    answer = await one.client.get("/v1/accounts", params={"ledger_id": one.ledger_id} | query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page
