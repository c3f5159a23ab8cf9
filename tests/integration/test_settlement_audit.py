"""A settlement audit says what the journal, the cycle and the rail's messages say, by one statement."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from finflow.kernel.errors import FinFlowError
from finflow.settlement.rails import FakeRail
from finflow.settlement.service import Settlement
from oracles.settling import CREDITOR, Bank, bank, neighbour

# Every transaction of an order, found by its reference and targets instead of by settlement's keys.
_BY_REFERENCE = """
with recursive mine as (
    select ledger_no, seq, kind, code from journal
     where reference = $1 or command like '%' || $1 || '%'
    union
    select j.ledger_no, j.seq, j.kind, j.code from journal j join mine m
        on j.ledger_no = m.ledger_no and j.target = m.seq and j.code is null
)
select ledger_no, seq, kind, code from mine order by ledger_no, seq
"""
_LINES = """
select e.amount, e.held, a.normal * (e.posted_debits - e.posted_credits) as balance
  from entries e join accounts a using (ledger_no, account_no) where (e.ledger_no, e.seq) = ($1, $2)
"""


@pytest.fixture
async def rails() -> dict[str, FakeRail]:
    return {"RAIL": FakeRail(), "OTHER": FakeRail()}


@pytest.fixture
async def here(database_url: str, rails: dict[str, FakeRail]) -> AsyncIterator[Bank]:
    async with bank(database_url, rails) as made:
        await made.add("ALFA")
        await made.add("BETA")
        await made.add("RAIL", kind="rail")
        await made.add("OTHER", kind="rail")
        yield made


async def journaled(here: Bank, order_id: str) -> list[tuple[Any, ...]]:
    connection: asyncpg.Connection[Any]
    async with here.one.pool.acquire() as connection:
        rows = await connection.fetch(_BY_REFERENCE, order_id)
    return [(row["seq"], row["kind"], row["code"]) for row in rows]


async def lines(here: Bank, ledger_no: int, seq: int) -> list[tuple[int, int, int]]:
    async with here.one.pool.acquire() as connection:
        rows = await connection.fetch(_LINES, ledger_no, seq)
    return sorted((abs(row["amount"]), abs(row["held"]), row["balance"]) for row in rows)


def minor(text: str) -> int:
    return int(text.replace(".", ""))


async def agrees(here: Bank, settlement: Settlement, order_id: str) -> Any:
    """The audit, after every transaction and line in it was compared with the tables themselves."""
    seen = await settlement.audit(order_id)
    assert seen.order == await settlement.order(order_id)
    shown = sorted((each.seq, each.kind, each.code) for each in seen.transactions)
    assert shown == sorted(await journaled(here, order_id))
    for each in seen.transactions:
        number = int(
            (await here.one.rows("select ledger_no from ledgers order by ledger_no"))[0]["ledger_no"]
        )
        if each.ledger_id == here.ledger_id and each.code is None:
            told = sorted(
                (minor(line.amount), minor(line.held), minor(line.balance)) for line in each.entries
            )
            assert told == await lines(here, number, each.seq)
    return seen


async def test_a_settled_order_with_its_cycle_and_positions(here: Bank) -> None:
    [taken] = await here.pay(here.draft("ALFA", "BETA", "12.50", remittance="Invoice 1"))
    assert taken.order_id is not None
    held = await agrees(here, here.settlement, taken.order_id)
    assert ([each.kind for each in held.transactions], held.cycle.state) == (["hold"], "open")
    assert held.remittance == "Invoice 1"
    await here.past_cut_off()
    seen = await agrees(here, here.settlement, taken.order_id)
    cycle = await here.settlement.cycle(taken.cycle_id or "")
    assert [each.kind for each in seen.transactions] == ["hold", "capture"]
    assert (seen.cycle.state, list(seen.cycle.steps)) == ("settled", cycle.steps)
    assert [(each.participant, each.net) for each in seen.cycle.positions] == [
        ("ALFA", "-12.50"),
        ("BETA", "12.50"),
    ]


async def test_an_order_to_a_rail_shows_the_message_that_carried_it(
    here: Bank, rails: dict[str, FakeRail]
) -> None:
    [taken] = await here.pay(here.draft("ALFA", "RAIL", "5", creditor=CREDITOR))
    assert taken.order_id is not None
    await here.past_cut_off()
    seen = await agrees(here, here.settlement, taken.order_id)
    assert seen.creditor == CREDITOR
    [message] = seen.messages
    [(name, data)] = rails["RAIL"].sent.items()
    assert (message.message_id, message.kind, message.direction) == (name, "pacs.008", "out")
    assert message.digest == hashlib.sha256(data).hexdigest()
    assert [each.rail for each in seen.cycle.submissions][-1] == "RAIL"


async def test_orders_of_one_cycle_that_are_asked_for_together_show_their_own_rail_each(
    here: Bank, rails: dict[str, FakeRail]
) -> None:
    """One statement answers all of them, and finds what they share once."""
    taken = await here.pay(
        here.draft("ALFA", "RAIL", "5", creditor=CREDITOR),
        here.draft("ALFA", "OTHER", "6", creditor=CREDITOR),
        here.draft("ALFA", "BETA", "7"),
        here.draft("BETA", "OTHER", "8", creditor=CREDITOR),
    )
    await here.past_cut_off()
    seen = await asyncio.gather(*(here.settlement.audit(each.order_id or "") for each in taken))
    assert len({each.cycle.cycle_id for each in seen if each.cycle is not None}) == 1
    submitted = [[one.rail for one in each.cycle.submissions] for each in seen if each.cycle is not None]
    assert submitted == [["RAIL"], ["OTHER"], [], ["OTHER"]]
    [to_rail], [to_other] = list(rails["RAIL"].sent), list(rails["OTHER"].sent)
    named = [[one.message_id for one in each.messages] for each in seen]
    assert named == [[to_rail], [to_other], [], [to_other]]


async def test_a_refused_order_names_the_refusal(here: Bank) -> None:
    [taken] = await here.pay(here.draft("ALFA", "BETA", "999999"))
    assert taken.order_id is not None
    seen = await agrees(here, here.settlement, taken.order_id)
    assert [(each.code, each.transaction_id) for each in seen.transactions] == [("exceeds_available", None)]


async def test_an_order_to_another_ledger_shows_both_books(here: Bank) -> None:
    there = await neighbour(here)
    await there.add("GAMMA")
    await here.add("THERE", kind="ledger", peer_ledger_id=there.ledger_id)
    await there.add("HERE", kind="ledger", peer_ledger_id=here.ledger_id)
    [taken] = await here.pay(here.draft("ALFA", "THERE", "3", payee_account_id=there.ids["GAMMA"][0]))
    await here.past_cut_off()
    assert taken.order_id is not None
    seen = await agrees(here, here.settlement, taken.order_id)
    assert sorted((each.ledger_id, each.kind) for each in seen.transactions) == sorted(
        (ledger, kind) for ledger in (here.ledger_id, there.ledger_id) for kind in ("hold", "capture")
    )


async def test_nobody_audits_what_is_not_theirs(here: Bank) -> None:
    there = await neighbour(here)
    [taken] = await here.pay(here.draft("ALFA", "BETA", "1"))
    for text in (taken.order_id or "", "ord_nothing", (taken.order_id or "")[:-1] + "0"):
        with pytest.raises(FinFlowError) as caught:
            await there.settlement.audit(text)
        assert caught.value.kind.code == "order_unknown"


async def test_an_audit_is_one_statement(here: Bank) -> None:
    [taken] = await here.pay(here.draft("ALFA", "BETA", "1"))
    assert taken.order_id is not None
    await here.settlement.audit(taken.order_id)
    statements: list[str] = []
    async with here.one.pool.acquire() as connection:
        size = here.one.pool.get_size()
        held = [connection] + [await here.one.pool.acquire() for _ in range(size - 1)]
        for each in held:
            each.add_query_logger(lambda record: statements.append(record.query))
        for each in held[1:]:
            await here.one.pool.release(each)
    await here.settlement.audit(taken.order_id)
    assert len(statements) == 1
