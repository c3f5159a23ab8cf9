"""Settlement over HTTP: orders taken and refused, a cycle to its end, and nothing for other tenants."""

import asyncio
from datetime import datetime
from pathlib import Path

import pytest

from finflow.app import rails
from oracles.house import URL, house
from oracles.http import Json, bank, code, refusal
from oracles.tokens import tenant_token


async def test_a_cycle_goes_from_its_orders_to_settled_books(database_url: str) -> None:
    async with house(database_url) as one:
        await one.members("ALFA", "BETA", "CITI")
        first = await one.pay("ALFA", "BETA", "100", "E-1")
        assert first.status_code == 201, first.text
        cycle_id = first.json()["cycle_id"]
        body = one.on | {
            "orders": [
                one.order("BETA", "CITI", "60", "E-1"),
                one.order("CITI", "ALFA", "25", "E-1"),
                one.order("CITI", "NOBODY", "5", "E-2"),
                one.order("CITI", "ALFA", "5000", "E-3"),
            ]
        }
        batch = (await one.send(f"{URL}/orders:batch", body, "batch")).json()
        assert (batch["accepted"], batch["refused"]) == (2, 2)
        assert [each["code"] for each in batch["results"]] == [
            None, None, "participant_unknown", "exceeds_available",
        ]  # fmt: skip
        assert (await one.send(f"{URL}/orders:batch", body, "batch")).json() == batch
        early = await one.client.post(f"{URL}/cycles/{cycle_id}/run")
        assert refusal(early) == (409, "cycle_not_due", None)
        assert code(await one.client.get(f"{URL}/cycles/{cycle_id}/report")) == "cycle_not_netted"
        open_cycle = await one.read(f"{URL}/cycles/{cycle_id}")
        one.clock.pass_(datetime.fromisoformat(open_cycle["cut_off_at"]))
        assert (await one.client.post(f"{URL}/cycles/{cycle_id}/run")).status_code == 200
        settled = await one.until(cycle_id, "settled")
        assert [each["action"] for each in settled["steps"]] == ["close", "net", "submit", "settle"]
        report = await one.read(f"{URL}/cycles/{cycle_id}/report")
        # 100 - 25 = 75 leave ALFA; BETA keeps 100 - 60 = 40; CITI 60 - 25 = 35: 75 instead of 185 move.
        assert {each["participant"]: each["net"] for each in report["positions"]} == {
            "ALFA": "-75.00", "BETA": "40.00", "CITI": "35.00",
        }  # fmt: skip
        assert (report["gross"], report["settled"], report["faults"]) == ("185.00", "75.00", [])
        orders = (await one.read(f"{URL}/orders", cycle_id=cycle_id, **one.on))["items"]
        assert [each["status"] for each in orders] == ["settled"] * 3 + ["refused"]
        named = (await one.read(f"{URL}/participants", **one.on))["items"]
        accounts = {each["name"]: each["accounts"][0] for each in named}
        balances = {name: await one.balance(each["position_account_id"]) for name, each in accounts.items()}
        assert balances == {"ALFA": "925.00", "BETA": "1040.00", "CITI": "1035.00"}
        books = await one.read(f"/v1/ledgers/{one.ledger_id}/trial-balance")
        [totals] = books["currencies"]
        assert (books["balanced"], totals["pending_debits"]) == (True, "0.00")
        assert code(await one.client.post(f"{URL}/cycles/{cycle_id}/retry")) == "cycle_step_refused"


async def test_a_failed_cycle_is_submitted_again(database_url: str) -> None:
    async with house(database_url) as one:
        await one.members("BETA")
        vault = await one.open(kind="asset")
        poor = await one.make(f"{URL}/participants", one.member("ALFA", settlement_limit="0"))
        [accounts] = poor["accounts"]
        await one.post(one.transfer(vault, accounts["position_account_id"], "10"))
        cycle_id = (await one.pay("ALFA", "BETA", "10", "E-1")).json()["cycle_id"]
        cut_off = (await one.read(f"{URL}/cycles/{cycle_id}"))["cut_off_at"]
        one.clock.pass_(datetime.fromisoformat(cut_off))
        failed = await one.until(cycle_id, "failed")
        assert "exceeds_available" in failed["steps"][-1]["evidence"]
        # Liquidity arrives: an asset is filled by a debit.
        source = await one.open()
        funded = await one.post(one.transfer(accounts["settlement_account_id"], source, "10"))
        assert funded.status_code == 201, funded.text
        assert (await one.client.post(f"{URL}/cycles/{cycle_id}/retry")).status_code == 200
        settled = await one.until(cycle_id, "settled")
        assert [each["attempt"] for each in settled["steps"] if each["action"] == "submit"] == [1, 2]


async def test_an_order_is_taken_once(database_url: str) -> None:
    async with house(database_url) as one:
        await one.members("ALFA", "BETA")
        first = await one.pay("ALFA", "BETA", "10", "E-1", key="k")
        assert (await one.pay("ALFA", "BETA", "10", "E-1", key="k")).content == first.content
        assert refusal(await one.pay("ALFA", "BETA", "11", "E-1", key="k")) == (
            409, "order_duplicate", "end_to_end_id",
        )  # fmt: skip
        assert code(await one.pay("ALFA", "BETA", "10", "E-1", key="other")) == "order_duplicate"
        at_once = await asyncio.gather(*(one.pay("ALFA", "BETA", "1", "E-2", key="many") for _ in range(6)))
        # Whoever comes while the first is at it may be told so; the same again finds the order.
        kept = (await one.pay("ALFA", "BETA", "1", "E-2", key="many")).json()
        for each in at_once:
            assert each.json() == kept or code(each) == "idempotency_in_progress"
        assert len((await one.read(f"{URL}/orders", **one.on))["items"]) == 2
        missing = await one.client.post(f"{URL}/orders", json=one.order("ALFA", "BETA", "1", "E-3") | one.on)
        assert refusal(missing) == (400, "idempotency_key_missing", "Idempotency-Key")


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"payer": "X"}, (422, "participant_unknown", "payer")),
        ({"amount": "0.001"}, (422, "amount_too_precise", "amount")),
        ({"amount": "0"}, (422, "amount_not_positive", "amount")),
        ({"amount": 1}, (400, "request_malformed", "amount")),
        ({"uetr": "x"}, (422, "uetr_malformed", "uetr")),
        ({"end_to_end_id": "x" * 36}, (400, "request_malformed", "end_to_end_id")),
        ({"mode": "later"}, (400, "request_malformed", "mode")),
        ({"why": "?"}, (400, "request_malformed", "why")),
        ({"ledger_id": "led_x"}, (404, "ledger_unknown", None)),
    ],
)
async def test_an_order_that_cannot_be_taken(
    database_url: str, fields: Json, answer: tuple[int, str, str | None]
) -> None:
    async with house(database_url) as one:
        await one.members("ALFA", "BETA")
        body = one.order("ALFA", "BETA", "1", "E-1") | one.on | fields
        assert refusal(await one.send(f"{URL}/orders", body)) == answer
        assert (await one.read(f"{URL}/orders", **one.on))["items"] == []


async def test_batches_have_bounds(database_url: str) -> None:
    async with house(database_url) as one:
        await one.members("ALFA", "BETA")
        many = [one.order("ALFA", "BETA", "0.01", f"E-{number}") for number in range(10_001)]
        for orders, expected in (([], "batch_empty"), (many, "batch_too_large")):
            answer = await one.send(f"{URL}/orders:batch", one.on | {"orders": orders})
            assert (code(answer), answer.json()["param"]) == (expected, "orders")


async def test_another_tenant_sees_nothing(database_url: str) -> None:
    async with house(database_url) as one, bank(database_url) as other:
        await one.members("ALFA", "BETA")
        taken = (await one.pay("ALFA", "BETA", "1", "E-1")).json()
        other.client.headers["authorization"] = f"Bearer {tenant_token(other.tenant_id)}"
        for path, expected in (
            (f"orders/{taken['order_id']}", "order_unknown"),
            (f"cycles/{taken['cycle_id']}", "cycle_unknown"),
            (f"cycles/{taken['cycle_id']}/report", "cycle_unknown"),
            (f"participants?ledger_id={one.ledger_id}", "ledger_unknown"),
            (f"orders?ledger_id={one.ledger_id}", "ledger_unknown"),
            (f"orders?ledger_id={other.ledger_id}&cycle_id={taken['cycle_id']}", "cycle_unknown"),
            (f"cycles?ledger_id={one.ledger_id}", "ledger_unknown"),
        ):
            answer = await other.client.get(f"{URL}/{path}")
            assert (answer.status_code, code(answer)) == (404, expected), path
        for verb in ("run", "retry"):
            answer = await other.client.post(f"{URL}/cycles/{taken['cycle_id']}/{verb}")
            assert (answer.status_code, code(answer)) == (404, "cycle_unknown")
        for kind in ("orders", "cycles", "participants"):
            listed = await other.client.get(f"{URL}/{kind}?ledger_id={other.ledger_id}")
            assert listed.json()["items"] == []


async def test_a_cycle_is_looked_for_on_its_own_ledger_alone(database_url: str) -> None:
    async with house(database_url) as one:
        await one.members("ALFA", "BETA")
        cycle_id = (await one.pay("ALFA", "BETA", "1", "E-1")).json()["cycle_id"]
        second = (await one.make("/v1/ledgers", {"name": "second"}))["ledger_id"]
        answer = await one.client.get(f"{URL}/orders?ledger_id={second}&cycle_id={cycle_id}")
        assert (answer.status_code, code(answer)) == (404, "cycle_unknown")


async def test_rails_are_the_folders_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "BIFAST").mkdir()
    (tmp_path / "note.txt").touch()
    found = rails(tmp_path)
    assert list(found) == ["BIFAST"]
    await found["BIFAST"].send("M1", b"<Document/>")
    assert (tmp_path / "BIFAST" / "out" / "M1.xml").read_bytes() == b"<Document/>"
    assert rails(None) == {}
