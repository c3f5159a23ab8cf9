"""ISO 20022 messages over HTTP: orders, answers and reports; repeated, reordered, late and poisoned ones."""

import asyncio
import hashlib
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from finflow.api import spooling
from finflow.settlement.rails import FakeRail
from oracles.house import URL, House, house
from oracles.http import bank, code, refusal
from oracles.iso20022 import Maker
from oracles.letters import entry, initiation, notification, payment, transfers
from oracles.rail import payment_return, report, uetrs_of
from oracles.tokens import tenant_token

XML = {"content-type": "application/xml"}
BIC = "<BICFI>BMRIIDJA</BICFI>"
PAST = "2020-01-06"


@pytest.fixture
async def rail() -> FakeRail:
    return FakeRail()


@pytest.fixture
async def one(database_url: str, rail: FakeRail) -> AsyncIterator[House]:
    async with house(database_url, {"BIFAST": rail}) as made:
        await made.members("ALFA", "BETA")
        await made.make(f"{URL}/participants", made.member("BIFAST") | {"kind": "rail"})
        yield made


async def send(one: House, data: bytes, sender: str = "ALFA", **query: str) -> httpx.Response:
    params = {"ledger_id": one.ledger_id, "sender": sender} | query
    return await one.client.post(f"{URL}/messages", params=params, content=data, headers=XML)


async def listed(one: House) -> list[dict[str, Any]]:
    orders: list[dict[str, Any]] = (await one.read(f"{URL}/orders", **one.on))["items"]
    return orders


async def settle(one: House, rail: FakeRail) -> tuple[str, bytes]:
    """The cycle of all orders goes to its rail, which has it; the message that it was sent."""
    cycle_id = (await listed(one))[0]["cycle_id"]
    cut_off = (await one.read(f"{URL}/cycles/{cycle_id}"))["cut_off_at"]
    one.clock.pass_(datetime.fromisoformat(cut_off))
    await one.client.post(f"{URL}/cycles/{cycle_id}/run")
    async with asyncio.timeout(30):
        while not rail.sent:
            await asyncio.sleep(0.05)
    [(message_id, data)] = rail.sent.items()
    return message_id, data


async def test_a_pacs008_becomes_orders_once(one: House) -> None:
    uetr = str(uuid4())
    data = transfers("M-1", [payment("E-1", "12.50", uetr=uetr), payment("E-2", "7")], PAST)
    first = await send(one, data)
    assert first.status_code == 200, first.text
    told = first.json()
    assert {name: told[name] for name in ("kind", "message_id", "orders", "accepted", "refused")} == {
        "kind": "pacs.008", "message_id": "M-1", "orders": 2, "accepted": 2, "refused": 0,
    }  # fmt: skip
    assert told["digest"] == hashlib.sha256(data).hexdigest()
    at_once = await asyncio.gather(*(send(one, data) for _ in range(5)))
    assert {each.content for each in at_once} == {first.content}
    orders = await listed(one)
    assert [(each["payer"], each["payee"], each["amount"], each["end_to_end_id"]) for each in orders] == [
        ("ALFA", "BETA", "12.50", "E-1"), ("ALFA", "BETA", "7.00", "E-2"),
    ]  # fmt: skip
    assert [each["uetr"] for each in orders] == [uetr, None]
    [message] = (await one.read(f"{URL}/orders/{orders[0]['order_id']}/audit"))["messages"]
    assert (message["kind"], message["sender"], message["digest"]) == ("pacs.008", "ALFA", told["digest"])
    other = transfers("M-1", [payment("E-3", "1")], PAST)
    assert refusal(await send(one, other)) == (409, "message_duplicate", None)
    again = transfers("M-2", [payment("E-4", "1", uetr=uetr)], PAST)
    assert refusal(await send(one, again)) == (409, "uetr_duplicate", "UETR")
    assert len(await listed(one)) == 2


async def test_a_pain001_becomes_orders(one: House) -> None:
    data = initiation("P-1", [("E-1", "3", "BETA"), ("E-2", "4000", "BETA")], day=PAST)
    told = (await send(one, data)).json()
    assert (told["kind"], told["accepted"], told["refused"]) == ("pain.001", 1, 1)
    [refused] = told["refusals"]
    # The ledger's refusal stands beside the order that it refused.
    assert (refused["place"], refused["end_to_end_id"], refused["code"]) == (1, "E-2", "exceeds_available")
    assert (await send(one, data)).json() == told
    assert [each["status"] for each in await listed(one)] == ["held", "refused"]


async def test_who_is_paid_the_account_and_the_bank_say(one: House, rail: FakeRail) -> None:
    mine, theirs = await one.open(), await one.open()
    payments = [
        payment("E-1", "1", "<Nm>BETA</Nm>", account=theirs),
        payment("E-2", "2", BIC, account=mine),
        payment("E-3", "3", BIC, account="ID123456789"),
        payment("NOTPROVIDED", "4"),
        payment("NOTPROVIDED", "5", uetr="8a562c67-ca16-48ba-b074-65581be6f011"),
    ]
    told = await send(one, transfers("M-1", payments, PAST), rail="BIFAST")
    assert told.json().get("accepted") == 5, told.text
    orders = sorted(await listed(one), key=lambda each: str(each["amount"]))
    assert [each["payee"] for each in orders] == ["BETA", "ALFA", "BIFAST", "BETA", "BETA"]
    assert [each["payee_account_id"] for each in orders[:2]] == [theirs, mine]
    assert orders[4]["end_to_end_id"] == "8a562c67ca1648bab07465581be6f011"
    assert len({each["end_to_end_id"] for each in orders}) == 5
    audit = await one.read(f"{URL}/orders/{orders[2]['order_id']}/audit")
    assert audit["creditor"] == {"name": "Budi Santoso", "account": "ID123456789", "agent": "BMRIIDJA"}


@pytest.mark.parametrize(
    ("payments", "query", "answer"),
    [
        ([payment("E-1", "1", BIC, account="X")], {}, (422, "participant_unknown", "[0].CdtrAgt")),
        ([payment("E-1", "1"), payment("E-2", "1", BIC)], {"rail": "BIFAST"},
         (422, "order_malformed", "[1].CdtrAcct")),
        ([payment("E-1", "1")], {"rail": "BETA"}, (422, "participant_unknown", "rail")),
        ([payment("E-1", "1"), payment("E-1", "2")], {}, (409, "order_duplicate", "[1].EndToEndId")),
        ([payment("E-1", "1", currency="USD")], {}, (422, "participant_unknown", "[0].payer")),
        ([payment("E-1", "1", debtor="acc_01ktjbwqm0e008000080000005")], {},
         (422, "account_unknown", "[0].payer_account_id")),
        ([payment("E-1", "0")], {}, (422, "amount_not_positive", None)),
        ([payment("E-1", "1.005")], {},
         (422, "amount_too_precise", "Document/FIToFICstmrCdtTrf/CdtTrfTxInf/IntrBkSttlmAmt")),
        ([payment("E-1", "1", uetr="8a562c67-ca16-48ba-b074-65581be6f011")] * 1
         + [payment("E-2", "1", uetr="8a562c67-ca16-48ba-b074-65581be6f011")], {},
         (409, "uetr_duplicate", "UETR")),
    ],
)  # fmt: skip
async def test_one_payment_that_can_never_be_taken_refuses_the_message(
    one: House, payments: list[str], query: dict[str, str], answer: tuple[int, str, str | None]
) -> None:
    assert refusal(await send(one, transfers("M-1", payments, PAST), **query)) == answer
    assert await listed(one) == []
    # Nothing of it is kept: put right, it comes under the same name.
    assert (await send(one, transfers("M-1", [payment("E-1", "1")], PAST))).status_code == 200


async def test_what_is_for_a_later_day_is_not_paid_today(one: House) -> None:
    late = await send(one, transfers("M-1", [payment("E-1", "1")], "2199-01-07"))
    assert refusal(late) == (422, "order_malformed", "[0].day")
    cheque = await send(one, initiation("P-1", [("E-1", "1", "BETA")], day=PAST, method="CHK"))
    assert refusal(cheque) == (422, "message_not_understood", "PmtMtd")


POISON: list[tuple[bytes, tuple[int, str]]] = [
    (b"", (400, "xml_malformed")),
    (b"<", (400, "xml_malformed")),
    (b"\x00" * 100, (400, "xml_forbidden")),
    (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", (400, "xml_forbidden")),
    (b"<Document xmlns='urn:iso:std:iso:20022:tech:xsd:pacs.009.001.08'/>", (422, "message_unsupported")),
    (transfers("M-1", [payment("E-1", "1")], PAST)[:-40], (400, "xml_malformed")),
    (transfers("M-1", [payment("E-1", "1")], PAST).replace(b"<NbOfTxs>1", b"<NbOfTxs>2"),
     (422, "message_inconsistent")),
    (transfers("M-1", [payment("E-1", "1")], PAST).replace(b"Dbtr>", b"Dbtor>"), (422, "message_invalid")),
    (report("R-1", "unknown"), (422, "answer_malformed")),
    (report("R-1", "FF99C1P1A1"), (422, "answer_malformed")),
    (b"<a>" * 5_000, (400, "xml_too_large")),
]  # fmt: skip


@pytest.mark.parametrize(("data", "answer"), POISON, ids=range(len(POISON)))
async def test_poison_changes_nothing(one: House, data: bytes, answer: tuple[int, str]) -> None:
    got = await send(one, data)
    if data.startswith(b"<a>"):
        assert 400 <= got.status_code < 500, got.text
    else:
        assert (got.status_code, code(got)) == answer, got.text
    assert await listed(one) == []


@pytest.mark.parametrize("name", ["pain.001.001.09", "pacs.008.001.08", "camt.053.001.08", "camt.054.001.08"])
async def test_whatever_the_schema_allows_is_taken_or_refused_with_a_code(one: House, name: str) -> None:
    """Messages drawn from the schema, whole and cut, never meet an error of ours, and leave no half order."""
    for seed in range(12):
        data = Maker(name, seed, 0.3).document().encode()
        for each in (data, data[: len(data) // 2], data.replace(b"0", b"\xff", 1)):
            told = await send(one, each, rail="BIFAST")
            assert told.status_code in (200, 400, 404, 409, 413, 422), told.text
    assert await listed(one) == []


async def test_the_way_in_has_bounds(one: House, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = await one.client.post(
        f"{URL}/messages", params=one.on | {"sender": "ALFA"}, json={}, headers={"content-type": "text/plain"}
    )
    assert (wrong.status_code, code(wrong)) == (415, "media_type_unsupported")
    assert refusal(await one.client.post(f"{URL}/messages", params=one.on, content=b"<a/>", headers=XML)) == (
        400, "request_malformed", "sender",
    )  # fmt: skip
    spool = spooling.spooled

    async def small(request: Any) -> Any:
        return await spool(request, 1_000)

    monkeypatch.setattr("finflow.api.settlement_messages.spooled", small)
    large = await send(one, transfers("M-1", [payment(f"E-{n}", "1") for n in range(10)], PAST))
    assert (large.status_code, code(large)) == (413, "request_too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b"<a>" * 100

    params = one.on | {"sender": "ALFA"}
    streamed = await one.client.post(f"{URL}/messages", params=params, content=chunks(), headers=XML)
    assert (streamed.status_code, code(streamed)) == (413, "request_too_large")


async def test_optional_parts_are_kept_with_the_orders_that_they_came_with(one: House) -> None:
    before = "<UltmtDbtr><Nm>Alice's mother</Nm></UltmtDbtr>"
    after = (
        "<Purp><Cd>SALA</Cd></Purp><RmtInf><Strd><RfrdDocInf><Nb>INV-7</Nb></RfrdDocInf>"
        "<CdtrRefInf><Ref>RF18539007547034</Ref></CdtrRefInf></Strd></RmtInf>"
    )
    data = transfers("M-1", [payment("E-1", "1", before=before, after=after)], PAST)
    assert (await send(one, data)).json()["accepted"] == 1
    [order] = await listed(one)
    [message] = (await one.read(f"{URL}/orders/{order['order_id']}/audit"))["messages"]
    async with one.clock.pool.acquire() as connection:
        body = await connection.fetchval(
            "select body from settlement_messages where message_id = $1", message["message_id"]
        )
    assert bytes(body) == data


async def test_a_rail_is_told_everything_about_a_payment(one: House, rail: FakeRail) -> None:
    """Word for word, as the standard library's parser finds it in what came in and in what went out."""
    before = (
        "<UltmtDbtr><Nm>Alice's mother</Nm><Id><PrvtId><Othr><Id>P-1</Id></Othr></PrvtId></Id></UltmtDbtr>"
    )
    after = (
        "<UltmtCdtr><Nm>Budi's shop</Nm></UltmtCdtr><Purp><Cd>SALA</Cd></Purp>"
        "<RmtInf><Ustrd>Salary of May</Ustrd><Strd><RfrdDocInf><Tp><CdOrPrtry><Cd>CINV</Cd></CdOrPrtry></Tp>"
        "<Nb>INV-7</Nb><RltdDt>2026-05-01</RltdDt></RfrdDocInf>"
        "<CdtrRefInf><Ref>RF18539007547034</Ref></CdtrRefInf></Strd></RmtInf>"
    )
    data = transfers("M-1", [payment("E-1", "1", BIC, account="ID1", before=before, after=after)], PAST)
    # Another version than the one that goes out.
    data = data.replace(b"pacs.008.001.08", b"pacs.008.001.10")
    told = await send(one, data, rail="BIFAST")
    assert told.json().get("accepted") == 1, told.text
    _, sent = await settle(one, rail)
    for name in ("UltmtDbtr", "Dbtr", "DbtrAgt", "Cdtr", "CdtrAcct", "UltmtCdtr", "Purp", "RmtInf"):
        assert part_of(sent, name) == part_of(data, name), name


def part_of(message: bytes, name: str) -> list[tuple[str, str]]:
    """Names and texts of everything in one element of a message, without namespaces."""
    [found] = ET.fromstring(message).iterfind(f".//{{*}}CdtTrfTxInf/{{*}}{name}")  # noqa: S314 - our own
    return [(each.tag.rpartition("}")[2], (each.text or "").strip()) for each in found.iter()]


async def test_what_a_rail_s_message_cannot_hold_is_refused(one: House) -> None:
    """A later version has an element that the one to the rail has not; it is not left out in silence."""
    before = "<UltmtDbtr><Nm>Alice</Nm><PstlAdr><CareOf>Bob</CareOf></PstlAdr></UltmtDbtr>"
    data = transfers("M-1", [payment("E-1", "1", BIC, account="ID1", before=before)], PAST)
    data = data.replace(b"pacs.008.001.08", b"pacs.008.001.13")
    told = await send(one, data, rail="BIFAST")
    assert (told.status_code, code(told)) == (422, "message_not_understood"), told.text
    assert "CareOf" in told.json()["detail"]
    assert await listed(one) == []
    # To a member, nothing has to be said: the message is kept as it came.
    inside = transfers("M-2", [payment("E-1", "1", before=before)], PAST)
    told = await send(one, inside.replace(b"pacs.008.001.08", b"pacs.008.001.13"))
    assert told.json().get("accepted") == 1, told.text


async def test_the_sample_of_the_standard_s_makers_is_taken(one: House) -> None:
    """Bank B's payment comes in by the sample pacs.008: two banks in between, structured remittance."""
    sample = Path(__file__).parents[1] / "data" / "iso20022"
    data = (sample / "CustomerCreditTransfer_Scenario1_Step1_pacs.008.xml").read_bytes()
    member = {"ledger_id": one.ledger_id, "name": "BANKB", "kind": "member", "currencies": ["USD"]}
    made = await one.make(f"{URL}/participants", member | {"overdraft_limit": None})
    assert made["name"] == "BANKB"
    await one.make(f"{URL}/participants", member | {"name": "FED", "kind": "rail"})
    told = await send(one, data, "BANKB", rail="FED")
    # The sample names the creditor's bank by its number in a clearing system, and a rail wants a BIC.
    assert refusal(told) == (422, "order_malformed", "[0].CdtrAgt.FinInstnId.BICFI")
    number = data.decode().split("<CdtrAgt>")[1].split("<MmbId>")[1].split("<")[0]
    await one.make(f"{URL}/participants", member | {"name": number})
    told = await send(one, data, "BANKB", rail="FED")
    assert told.json().get("accepted") == 1, told.text
    [order] = await listed(one)
    assert (order["payee"], order["amount"], order["currency"]) == (number, "51.74", "USD")
    assert order["uetr"] == "8a562c67-ca16-48ba-b074-65581be6f011"


async def test_a_rail_s_answers_come_over_http_in_any_order(one: House, rail: FakeRail) -> None:
    """First the return, then its acceptance, each twice; in the end the order is returned, once."""
    data = transfers("M-1", [payment("E-1", "10", BIC, account="ID1")], PAST)
    assert (await send(one, data, rail="BIFAST")).json()["accepted"] == 1
    message_id, sent = await settle(one, rail)
    [uetr] = uetrs_of(sent)
    back, taken = payment_return("RET-1", message_id, uetr, "10.00"), report("R-1", message_id)
    for answer in (back, back, taken, taken):
        told = await send(one, answer, "BIFAST")
        assert (told.status_code, told.json()["answers"]) == (200, 1), told.text
    wrong = await send(one, report("R-1", message_id, "RJCT"), "BIFAST")
    assert (wrong.status_code, code(wrong)) == (409, "message_duplicate")
    assert code(await send(one, report("R-2", message_id, "RJCT"), "BETA")) == "answer_malformed"
    [order] = await listed(one)
    async with asyncio.timeout(30):
        while (await one.read(f"{URL}/orders/{order['order_id']}"))["status"] != "returned":
            await asyncio.sleep(0.05)
    # Late: a rejection of what was accepted changes nothing any more.
    assert (await send(one, report("R-3", message_id, "RJCT"), "BIFAST")).status_code == 200
    audit = await one.read(f"{URL}/orders/{order['order_id']}/audit")
    told = sorted((each["direction"], each["kind"], each["message_id"]) for each in audit["messages"])
    assert told == sorted(
        [("in", "pacs.008", "M-1"), ("out", "pacs.008", message_id), ("in", "pacs.002", "R-1"),
         ("in", "pacs.002", "R-3"), ("in", "pacs.004", "RET-1")]
    )  # fmt: skip
    assert [each["kind"] for each in audit["transactions"]][-2:] == ["reverse", "post"]


async def test_a_bank_s_report_is_reconciled(one: House, rail: FakeRail) -> None:
    nostro = {"participant": "BIFAST", "currency": "SGD", "account": "N-1", "owner": "treasury"}
    made = await one.make(f"{URL}/nostros", nostro | one.on)
    assert (await one.read(f"{URL}/nostros", **one.on))["items"] == [made]
    data = transfers("M-1", [payment("E-1", "10", BIC, account="ID1")], PAST)
    await send(one, data, rail="BIFAST")
    message_id, sent = await settle(one, rail)
    await send(one, report("R-1", message_id), "BIFAST")
    [order] = await listed(one)
    await one.until(order["cycle_id"], "settled")
    waiting = await one.read(f"{URL}/reconciliation", **one.on)
    assert [(each["kind"], each["order_id"]) for each in waiting["items"]] == [("missing", order["order_id"])]
    told = await send(one, notification("C-1", [entry("10", UETR=uetrs_of(sent)[0])]), "BIFAST")
    assert told.json()["lines"] == 1, told.text
    async with asyncio.timeout(30):
        while (await one.read(f"{URL}/reconciliation", **one.on))["breaks"]:
            await asyncio.sleep(0.05)
    found = await one.read(f"{URL}/reconciliation", **one.on)
    assert (found["matched"], found["share_within_promise"]) == (1, 1.0)
    audit = await one.read(f"{URL}/orders/{order['order_id']}/audit")
    assert [(each["rule"], each["line_id"]) for each in audit["movements"]] == [("uetr", "N-1/C-1/1.1")]


async def test_returns_cut_offs_ends_and_mirrors(one: House) -> None:
    taken = (await one.pay("ALFA", "BETA", "10", "E-1", mode="gross")).json()
    path = f"{URL}/orders/{taken['order_id']}/return"
    asked = await one.client.post(path, json={"reason": "AC04"})
    assert asked.status_code == 200, asked.text
    async with asyncio.timeout(30):
        while (await one.read(f"{URL}/orders/{taken['order_id']}"))["status"] != "returned":
            await asyncio.sleep(0.05)
    held = (await one.pay("ALFA", "BETA", "10", "E-2")).json()
    early = await one.client.post(f"{URL}/orders/{held['order_id']}/return", json={"reason": "AC04"})
    assert refusal(early) == (409, "order_not_settled", None)
    ended = await one.client.post(f"{URL}/cycles/{held['cycle_id']}/end", json={"reason": "x"})
    assert refusal(ended) == (409, "cycle_step_refused", None)
    cut_off = {"currency": "SGD", "time": "12:00", "zone": "Asia/Singapore", "calendar": "SG", "lag_days": 1}
    made = await one.client.post(f"{URL}/cut-offs", json=cut_off | one.on)
    assert (made.status_code, made.json()) == (201, cut_off | one.on)
    for wrong, expected in (
        ({"zone": "Mars/Olympus"}, (422, "zone_unknown", "zone")),
        ({"calendar": "XX"}, (422, "calendar_unknown", None)),
        ({"time": "25:00"}, (400, "request_malformed", "time")),
    ):
        assert refusal(await one.client.post(f"{URL}/cut-offs", json=cut_off | one.on | wrong)) == expected
    assert (await one.read(f"{URL}/mirrors", **one.on))["items"] == []


async def test_another_tenant_s_ledger_takes_no_messages(one: House, database_url: str) -> None:
    async with bank(database_url) as other:
        other.client.headers["authorization"] = f"Bearer {tenant_token(other.tenant_id)}"
        data = transfers("M-1", [payment("E-1", "1")], PAST)
        params = {"ledger_id": one.ledger_id, "sender": "ALFA"}
        answer = await other.client.post(f"{URL}/messages", params=params, content=data, headers=XML)
        assert (answer.status_code, code(answer)) == (404, "ledger_unknown")
        for path in ("nostros", "reconciliation", "mirrors"):
            answer = await other.client.get(f"{URL}/{path}", params=one.on)
            assert (answer.status_code, code(answer)) == (404, "ledger_unknown")
    assert await listed(one) == []
