"""Reconciliation as a service: what goes out by a rail is found in what its bank reports, or is a break."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from finflow.kernel.errors import FinFlowError
from finflow.ledger.lists import Span
from finflow.settlement import work_store
from finflow.settlement.rails import FakeRail
from finflow.settlement.reconciliation import Reconciler
from oracles.letters import entry, notification, statement
from oracles.rail import payment_return, report
from oracles.settling import CREDITOR, Bank, bank

NOSTRO = ("SGD", "N-1", "treasury")


@pytest.fixture
async def here(database_url: str) -> AsyncIterator[Bank]:
    def accepts(message_id: str, _: bytes) -> list[bytes]:
        return [report(f"R-{message_id}", message_id)]

    async with bank(database_url, {"RAIL": FakeRail(accepts)}) as made:
        await made.add("ALFA")
        await made.add("BETA")
        await made.add("RAIL", kind="rail")
        await made.settlement.add_nostro(made.ledger_id, "RAIL", *NOSTRO)
        yield made


async def paid(here: Bank, *amounts: str, names: str = "E2E") -> list[tuple[str, str]]:
    """Orders to the rail that settle; their ids and UETRs."""
    drafts = [
        here.draft("ALFA", "RAIL", amount, creditor=CREDITOR, uetr=str(uuid4()), end_to_end_id=f"{names}-{n}")
        for n, amount in enumerate(amounts)
    ]
    taken = await here.pay(*drafts)
    await here.past_cut_off()
    ids = [each.order_id or "" for each in taken]
    assert [await here.status(each) for each in taken] == ["settled"] * len(ids)
    return [(order_id, each.uetr or "") for order_id, each in zip(ids, drafts, strict=True)]


async def sent_as(here: Bank) -> str:
    """The id of the newest message that the rail was sent."""
    rows = await here.one.rows(
        "select message_id from settlement_messages where direction = 'out' order by message_no desc limit 1"
    )
    return str(rows[0]["message_id"])


async def matches(here: Bank) -> list[tuple[str, str, int]]:
    rows = await here.one.rows(
        "select m.end_to_end_id, x.rule, m.amount_minor from settlement_matches x "
        "join settlement_movements m using (ledger_no, movement_no) order by m.movement_no"
    )
    return [tuple(row) for row in rows]


async def test_what_settles_by_a_rail_is_expected_and_found(here: Bank) -> None:
    orders = await paid(here, "10", "20", "30")
    waiting = await here.reconciled()
    assert (waiting.matched, waiting.late, waiting.breaks) == (0, 0, 3)
    assert [(each.kind, each.difference, each.owner, each.order_id) for each in waiting.items] == [
        ("missing", "10.00", "treasury", orders[0][0]),
        ("missing", "20.00", "treasury", orders[1][0]),
        ("missing", "30.00", "treasury", orders[2][0]),
    ]
    here.one.clock.at += 60_000_000
    data = notification(
        "C-1",
        [entry("10", UETR=orders[0][1]), entry("20", EndToEndId="E2E-1"), entry("31", UETR=orders[2][1])],
    )
    view = await here.send("RAIL", data)
    assert (view.kind, view.lines, view.orders) == ("camt.054", 3, 0)
    seen = await here.reconciled()
    assert (seen.matched, seen.matched_within_promise, seen.breaks) == (2, 2, 1)
    [nostro] = seen.nostros
    assert {each.rule: each.matched for each in nostro.rules} == {"uetr": 1, "end_to_end": 1}
    [differs] = seen.items
    # The bank has booked 31.00 where 30.00 were expected: both leave the account.
    assert (differs.kind, differs.difference, differs.order_id) == ("amount_differs", "-1.00", orders[2][0])
    assert await matches(here) == [("E2E-0", "uetr", -1000), ("E2E-1", "end_to_end", -2000)]
    here.one.clock.at += 400_000_000
    late = await here.reconciled()
    assert (late.late, late.share_within_promise) == (1, 2 / 3)
    assert late.oldest_unmatched_s > 400


async def test_a_report_that_comes_again_or_says_it_in_other_words_adds_nothing(here: Bank) -> None:
    [(_, uetr)] = await paid(here, "10")
    data = notification("C-1", [entry("10", UETR=uetr, booking="B-7")])
    first = await here.send("RAIL", data)
    assert await here.send("RAIL", data) == first
    # The statement of the day has the same booking, by the bank's own reference.
    await here.send("RAIL", statement("S-1", [entry("10", UETR=uetr, booking="B-7")]))
    found = await here.reconciled()
    assert (found.matched, found.breaks) == (1, 0)
    with pytest.raises(FinFlowError) as caught:
        await here.send("RAIL", notification("C-1", [entry("11", UETR=uetr)]))
    assert caught.value.kind.code == "message_duplicate"
    assert await here.one.value("select count(*) from settlement_lines") == 1


async def test_two_equal_bookings_of_one_report_are_two(here: Bank) -> None:
    """A bank may give all payments of an entry one reference: within a report each of them counts."""
    await here.send("RAIL", notification("C-1", [entry("5", booking="B-1"), entry("5", booking="B-1")]))
    found = await here.reconciled()
    assert [(each.kind, each.difference) for each in found.items] == [("unexpected", "-5.00")] * 2


async def test_what_comes_back_is_expected_in_and_found(here: Bank) -> None:
    [(order_id, uetr)] = await paid(here, "10")
    await here.send("RAIL", notification("C-1", [entry("10", UETR=uetr)]))
    returned = payment_return("RET-1", await sent_as(here), uetr, "10.00")
    view = await here.send("RAIL", returned)
    assert (view.kind, view.answers) == ("pacs.004", 1)
    assert await here.send("RAIL", returned) == view
    await here.worker.until_idle()
    assert (await here.settlement.order(order_id)).status == "returned"
    waiting = await here.reconciled()
    assert [(each.kind, each.difference) for each in waiting.items] == [("missing", "-10.00")]
    await here.send("RAIL", notification("C-2", [entry("10", "CRDT", UETR=uetr)]))
    assert (await here.reconciled()).breaks == 0
    seen = await here.settlement.audit(order_id)
    assert [(each.direction, each.amount, each.rule, each.break_kind) for each in seen.movements] == [
        ("out", "10.00", "uetr", None), ("in", "10.00", "uetr", None),
    ]  # fmt: skip
    assert [each.line_id for each in seen.movements] == ["N-1/C-1/1.1", "N-1/C-2/1.1"]
    # What carried it, what took it, what brought it back; reports are of accounts.
    assert [(each.direction, each.kind) for each in seen.messages] == [
        ("out", "pacs.008"), ("in", "pacs.002"), ("in", "pacs.004"),
    ]  # fmt: skip


async def test_what_the_rail_refused_is_not_expected(here: Bank) -> None:
    kept, refused = (str(uuid4()) for _ in range(2))
    drafts = [here.draft("ALFA", "RAIL", "5", creditor=CREDITOR, uetr=each) for each in (kept, refused)]
    taken = await here.pay(*drafts)
    rail = here.room.submitter._rails["RAIL"]
    assert isinstance(rail, FakeRail)
    rail._on_send = lambda own, _: [report(f"R-{own}", own, "PART", [refused])]
    await here.past_cut_off()
    here.one.clock.at += 2_000_000
    await here.worker.until_idle()
    assert [await here.status(each) for each in taken] == ["settled", "returned"]
    found = await here.reconciled()
    assert [(each.uetr, each.difference) for each in found.items] == [(kept, "5.00")]
    # A payment that was refused after it settled is expected no longer: nothing has moved.
    await here.send("RAIL", report("R-late", await sent_as(here), None, [kept]))
    assert (await here.reconciled()).breaks == 0
    assert [each[1] for each in await matches(here)] == ["refused"]


async def test_a_late_refusal_of_what_went_out_is_expected_back(here: Bank) -> None:
    [(_, uetr)] = await paid(here, "10")
    await here.send("RAIL", notification("C-1", [entry("10", UETR=uetr)]))
    await here.reconciled()
    await here.send("RAIL", report("R-late", await sent_as(here), None, [uetr]))
    found = await here.reconciled()
    assert [(each.kind, each.difference) for each in found.items] == [("missing", "-10.00")]


async def test_a_batch_that_was_booked_in_one_sum(here: Bank) -> None:
    await paid(here, "10", "20", "30")
    await here.send("RAIL", notification("C-1", [entry("60", MsgId=await sent_as(here))]))
    found = await here.reconciled()
    assert (found.matched, found.breaks) == (3, 0)
    assert {each[1] for each in await matches(here)} == {"batch_total"}


async def test_reports_before_their_payments_wait(here: Bank) -> None:
    uetr = str(uuid4())
    await here.send("RAIL", notification("C-1", [entry("10", UETR=uetr)]))
    assert [each.kind for each in (await here.reconciled()).items] == ["unexpected"]
    await here.pay(here.draft("ALFA", "RAIL", "10", creditor=CREDITOR, uetr=uetr))
    await here.past_cut_off()
    found = await here.reconciled()
    assert (found.matched, found.matched_within_promise, found.breaks) == (1, 1, 0)


@pytest.mark.parametrize(
    ("sender", "account", "code"),
    [
        ("RAIL", "N-2", "nostro_unknown"),
        ("BETA", "N-1", "nostro_unknown"),
        ("NOBODY", "N-1", "nostro_unknown"),
    ],
)
async def test_a_report_of_another_account_is_refused_whole(
    here: Bank, sender: str, account: str, code: str
) -> None:
    with pytest.raises(FinFlowError) as caught:
        await here.send(sender, notification("C-1", [entry("10")], account))
    assert caught.value.kind.code == code
    assert await here.one.value("select count(*) from settlement_messages") == 0


async def test_a_nostro_is_one_of_a_participant_and_a_currency(here: Bank) -> None:
    again = await here.settlement.add_nostro(here.ledger_id, "RAIL", *NOSTRO)
    assert [again] == await here.settlement.nostros(here.ledger_id)
    for participant, currency, account, code in (
        ("RAIL", "SGD", "N-2", "nostro_conflict"),
        ("BETA", "SGD", "N-1", "nostro_conflict"),
        ("NOBODY", "SGD", "N-3", "participant_unknown"),
        ("RAIL", "USD", "N-3", "participant_unknown"),
    ):
        with pytest.raises(FinFlowError) as caught:
            await here.settlement.add_nostro(here.ledger_id, participant, currency, account, "x")
        assert caught.value.kind.code == code


async def test_breaks_come_in_pages(here: Bank) -> None:
    await paid(here, "1", "2", "3", "4", "5")
    seen, after = [], 0
    while True:
        view, page = await here.settlement.reconciliation(here.ledger_id, Span(after=after, limit=2))
        seen += [each.difference for each in view.items]
        if page.next is None:
            break
        after = page.next
    assert seen == ["1.00", "2.00", "3.00", "4.00", "5.00"]


async def test_more_than_fits_is_matched_by_uetr_wherever_it_is(here: Bank) -> None:
    orders = await paid(here, *(str(n) for n in range(1, 8)))
    # Older breaks than fit in one look; then the bank reports everything.
    await here.send("RAIL", notification("C-0", [entry(f"9{n}", EndToEndId=f"X-{n}") for n in range(7)]))
    await here.reconciled()
    reports = [entry(str(n), UETR=uetr) for n, (_, uetr) in enumerate(orders, 1)]
    await here.send("RAIL", notification("C-1", reports))
    here.room.reconciler = Reconciler(here.one.pool, here.one.clock, max_open=3)
    found = await here.reconciled()
    assert (found.matched, found.breaks) == (7, 7)
    assert {each.kind for each in found.items} == {"unexpected"}


async def test_many_at_once_match_each_thing_once(here: Bank) -> None:
    orders = await paid(here, *(str(n) for n in range(1, 21)))
    reports = [entry(str(n), UETR=uetr) for n, (_, uetr) in enumerate(orders, 1)]
    half = len(reports) // 2
    [row] = await here.one.rows("select ledger_no, nostro_no from settlement_nostros")

    async def look() -> None:
        # Two at one thing: the second finds it gone, and is to come again.
        with contextlib.suppress(FinFlowError):
            await here.room.reconciler.advance(row["ledger_no"], row["nostro_no"])

    await asyncio.gather(
        here.send("RAIL", notification("C-1", reports[:half])),
        here.send("RAIL", notification("C-2", reports[half:])),
        *(look() for _ in range(4)),
    )
    await asyncio.gather(*(look() for _ in range(4)))
    found = await here.reconciled()
    assert (found.matched, found.breaks) == (20, 0)
    assert len(await matches(here)) == 20


async def test_work_that_was_asked_for_again_meanwhile_is_done_again(here: Bank) -> None:
    """The worker has read the queue when more comes: its end does not end the new work."""
    await here.send("RAIL", notification("C-1", [entry("10")]))
    now = here.one.clock()
    async with here.one.pool.acquire() as connection:
        [work] = await work_store.claim(connection, now, 10, "one", 5)
        assert work.kind == "reconcile"
        await work_store.ask(connection, work.ledger_no, "reconcile", [work.number], now)
        assert not await work_store.finish(connection, work.key, work.asked)
        assert await here.one.value("select count(*) from settlement_work") == 1
