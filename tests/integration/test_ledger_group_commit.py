"""Jobs that share a database transaction: none harms another, none is lost, each has its own answer."""

import asyncio
import gc

import asyncpg
import pytest

from finflow.kernel.errors import FinFlowError
from finflow.ledger import commands as c
from finflow.ledger import decider, traced, writer
from finflow.ledger.batch import Job
from finflow.telemetry.logs import Thrifty
from oracles.service import ENTRY_SUMS, Desk, audit, desk, second_desk, transfer


async def blocked(one: Desk) -> asyncpg.Connection:
    """Holds the head's lock, so that what is submitted meanwhile has to queue. Close it to let go."""
    connection = await asyncpg.connect(**await parameters(one))
    await connection.execute("begin; select from heads for update")
    return connection


async def parameters(one: Desk) -> dict[str, str]:
    row = await one.rows(
        "select current_database() as database, current_setting('unix_socket_directories') as host,"
        " current_user as user"
    )
    return dict(row[0])


async def waiting(one: Desk, count: int) -> None:
    """Until so many sessions wait for a lock."""
    sql = """
    select count(*) from pg_stat_activity
     where datname = current_database() and wait_event_type = 'Lock'
    """
    while await one.value(sql) < count:
        await asyncio.sleep(0.005)


async def test_a_refused_command_does_not_harm_its_batch(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        lock = await blocked(one)
        jobs = [
            asyncio.create_task(one.codes(transfer(a, b, amount))) for amount in ("1", "x", "2", "0", "3")
        ]
        await waiting(one, 1)
        await lock.close()
        assert await asyncio.gather(*jobs) == [
            [None],
            ["amount_malformed"],
            [None],
            ["amount_not_positive"],
            [None],
        ]
        assert (await one.service.balance(b)).balance == "6.00"


async def test_a_caller_that_gives_up_takes_nobody_with_it(database_url: str) -> None:
    """Its own command is booked all the same, and the same key answers with what became of it."""
    async with desk(database_url) as one:
        a, b = await one.open(2)
        lock = await blocked(one)
        request = one.request(transfer(a, b, "5"))
        patient = asyncio.create_task(one.codes(transfer(a, b, "1")))
        hasty = asyncio.create_task(one.service.submit(one.ledger_id, [request]))
        later = asyncio.create_task(one.codes(transfer(a, b, "2")))
        await waiting(one, 1)
        hasty.cancel()
        await asyncio.wait([hasty])
        await lock.close()
        assert await asyncio.gather(patient, later) == [[None], [None]]
        [again] = await one.service.submit(one.ledger_id, [request])
        assert (again.code, again.replayed) == (None, True)
        assert (await one.service.balance(b)).balance == "8.00"


async def test_an_answered_batch_holds_nothing_while_the_next_is_written(database_url: str) -> None:
    """With its jobs it would hold its callers' requests, for as long as a ledger is busy."""
    async with desk(database_url) as one:
        a, b = await one.open(2)
        requests = [one.request(transfer(a, b, amount)) for amount in ("1", "2")]
        lock = await blocked(one)
        first = asyncio.create_task(one.service.submit(one.ledger_id, requests[:1]))
        await waiting(one, 1)
        second = asyncio.create_task(one.service.submit(one.ledger_id, requests[1:]))
        await lock.close()
        await first
        assert not second.done()
        jobs = [each for each in gc.get_objects() if isinstance(each, Job)]
        held = [request for job in jobs for request in job.requests]
        assert [any(each is request for each in held) for request in requests] == [False, True]
        await second


async def test_a_batch_that_fails_is_told_of_though_its_first_caller_gave_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "RETRY_FOR_S", 0.0)
    monkeypatch.setattr(traced, "_failures", Thrifty())
    async with desk(database_url) as one:
        a, b = await one.open(2)
        begun, go = asyncio.Event(), asyncio.Event()

        async def lost(*_: object) -> None:
            begun.set()
            await go.wait()
            raise asyncpg.ConnectionDoesNotExistError("gone")

        monkeypatch.setattr(writer.LedgerWriter, "_transact", lost)
        hasty, patient = [asyncio.create_task(one.do(transfer(a, b))) for _ in range(2)]
        await begun.wait()
        hasty.cancel()
        await asyncio.wait([hasty])
        go.set()
        with pytest.raises(FinFlowError, match="database_unreachable"):
            await patient
    told = [line for line in caplog.records if line.message == "write transaction failed"]
    assert [(line.__dict__["code"], line.__dict__["jobs"]) for line in told] == [("database_unreachable", 2)]


async def test_a_batch_that_is_tried_again_says_why(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not what went wrong in cleaning up after it."""
    async with desk(database_url) as one:
        a, b = await one.open(2)
        lock = await blocked(one)
        job = asyncio.create_task(one.codes(transfer(a, b)))
        await waiting(one, 1)
        await lock.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock'"
        )
        while not caplog.records:
            await asyncio.sleep(0.005)
        await lock.close()
        assert await job == [None]
    [line] = caplog.records
    assert line.message == "batch is tried again"
    assert "in the middle of operation" in line.__dict__["error"]


async def test_all_callers_giving_up_loses_nothing(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        jobs = [asyncio.create_task(one.do(transfer(a, b, "1"))) for _ in range(20)]
        await asyncio.sleep(0)
        for job in jobs:
            job.cancel()
        await asyncio.wait(jobs)
        assert await one.codes(transfer(a, b, "1")) == [None]
        assert (await one.service.balance(b)).balance == "21.00"


async def test_one_key_at_once_is_booked_once(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        request = one.request(transfer(a, b, "5"))

        async def send() -> str:
            try:
                [record] = await one.service.submit(one.ledger_id, [request])
            except FinFlowError as error:
                return error.kind.code
            return record.code or ("replayed" if record.replayed else "booked")

        answers = await asyncio.gather(*(send() for _ in range(10)))
        assert answers.count("booked") == 1
        assert set(answers) <= {"booked", "replayed", "idempotency_in_progress"}
        assert await send() == "replayed"
        assert (await one.service.balance(b)).balance == "5.00"


async def test_a_list_with_a_busy_key_answers_the_rest(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        lock = await blocked(one)
        busy = one.request(transfer(a, b, "1"))
        first = asyncio.create_task(one.service.submit(one.ledger_id, [busy]))
        await waiting(one, 1)
        fresh = one.request(transfer(a, b, "2"))
        second = asyncio.create_task(one.service.submit(one.ledger_id, [fresh, busy]))
        group = asyncio.create_task(
            one.service.submit(one.ledger_id, [one.request(transfer(a, b, "4")), busy], True)
        )
        await asyncio.wait([group])
        await lock.close()
        assert [record.code for record in await first] == [None]
        assert [record.code for record in await second] == [None, "idempotency_in_progress"]
        with pytest.raises(FinFlowError, match="idempotency_in_progress"):
            await group
        assert (await one.service.balance(b)).balance == "3.00"


async def test_an_overloaded_ledger_says_so_and_loses_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_QUEUED", 50)
    async with desk(database_url) as one:
        a, b = await one.open(2)
        lock = await blocked(one)
        jobs = [asyncio.create_task(one.do(transfer(a, b, "1"))) for _ in range(120)]
        await waiting(one, 1)
        await lock.close()
        done = await asyncio.gather(*jobs, return_exceptions=True)
        refused = [each for each in done if isinstance(each, FinFlowError)]
        assert {error.kind.code for error in refused} == {"overloaded"}
        assert all(error.kind.retryable for error in refused)
        booked = [each for each in done if not isinstance(each, BaseException)]
        assert len(booked) == 50
        assert (await one.service.balance(b)).balance == "50.00"
        assert await one.codes(transfer(a, b, "1")) == [None]


async def test_close_writes_what_is_queued_and_refuses_what_comes(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        lock = await blocked(one)
        jobs = [asyncio.create_task(one.codes(transfer(a, b, "1"))) for _ in range(30)]
        await waiting(one, 1)
        closing = asyncio.create_task(one.ledgers.close())
        await asyncio.sleep(0.01)
        with pytest.raises(FinFlowError, match="overloaded"):
            await one.do(transfer(a, b, "1"))
        assert not closing.done()
        await lock.close()
        await closing
        assert await asyncio.gather(*jobs) == [[None]] * 30
        assert await one.value("select count(*) from entries") == 60


async def test_a_batch_that_outgrows_one_transaction_keeps_its_order(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_BATCH", 10)
    async with desk(database_url) as one:
        a, b = await one.open(2)
        jobs = [one.do(*[transfer(a, b, "1")] * size) for size in (3, 12, 9, 1, 25, 4, 4)]
        answers = await asyncio.gather(*jobs)
        seqs = [record.seq for records in answers for record in records]
        assert seqs == list(range(3, 3 + 58))
        await audit(await one.rows(ENTRY_SUMS))


async def test_a_book_that_grew_too_large_mid_batch_answers_every_job(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last job joins a batch whose first was decided ahead and has just made the book too large."""
    monkeypatch.setattr(decider, "MAX_BOOK_ACCOUNTS", 4)
    async with desk(database_url) as opener, second_desk(database_url, opener.ledger_id, "x") as one:
        accounts = await opener.open(8)
        assert await one.codes(transfer(accounts[0], accounts[1])) == [None]
        lock = await blocked(one)
        first = asyncio.create_task(one.codes(transfer(accounts[0], accounts[1])))
        await waiting(one, 1)
        many = [transfer(accounts[i], accounts[i + 1]) for i in (2, 4, 6)]
        second = asyncio.create_task(one.codes(*many))
        await asyncio.sleep(0.1)
        third = asyncio.create_task(one.codes(transfer(accounts[0], accounts[1])))
        await asyncio.sleep(0.1)
        await lock.close()
        assert await asyncio.gather(first, second, third) == [[None], [None] * 3, [None]]
        await audit(await one.rows(ENTRY_SUMS))
        assert await one.value("select count(*) from entries") == 12


async def test_an_unknown_ledger_harms_no_other(database_url: str) -> None:
    async with desk(database_url) as one:
        [a, b] = await one.open(2)
        with pytest.raises(FinFlowError, match="ledger_unknown"):
            await one.service.submit("led_00000000007008000000000000", [one.request(transfer(a, b))])
        with pytest.raises(FinFlowError, match="ledger_unknown"):
            await one.service.submit(one.ledger_id[:-1] + "x", [one.request(transfer(a, b))])
        assert await one.codes(transfer(a, b)) == [None]


async def test_a_group_is_booked_whole_or_not_at_all(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        [poor] = await one.open(overdraft_limit="0")
        group = [one.request(each) for each in (transfer(a, poor, "3"), transfer(poor, b, "4"))]
        refused = await one.service.submit(one.ledger_id, group, True)
        assert [record.code for record in refused] == ["group_refused", "exceeds_available"]
        assert (await one.service.account(poor)).version == 0
        replayed = await one.service.submit(one.ledger_id, group, True)
        assert [(r.code, r.replayed, r.seq) for r in replayed] == [(r.code, True, r.seq) for r in refused]
        assert await one.codes(transfer(a, poor, "4"), transfer(poor, b, "4"), atomic=True) == [None, None]
        mixed = [group[0], one.request(transfer(a, b))]
        assert [r.code for r in await one.service.submit(one.ledger_id, mixed, True)] == [
            "idempotency_conflict"
        ] * 2
        kinds = await one.rows("select count(*) from journal where kind = 'post'")
        assert kinds[0][0] == 4


async def test_a_hold_released_by_a_refused_group_is_still_held(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        [held] = await one.do(transfer(a, b, "5", pending=True))
        hold_id = held.transaction_id(1)
        assert await one.codes(c.PostPending(hold_id), transfer(a, b, "x"), atomic=True) == [
            "group_refused",
            "amount_malformed",
        ]
        assert (await one.service.transaction(hold_id)).status == "pending"
        assert await one.codes(c.PostPending(hold_id)) == [None]
        assert (await one.service.transaction(hold_id)).status == "posted"
