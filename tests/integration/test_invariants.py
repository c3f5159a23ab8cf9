"""The invariants as a check: sound books pass; each damage that somebody with all rights does is found."""

import asyncpg
import pytest

from finflow.ledger import commands as c
from finflow.rollout.verdicts import Judgement, Verdict
from finflow.shadow.invariants import InvariantsCheck
from oracles.service import Desk, desk, transfer

ROWS = 1_000


def checking(url: str, rows: int = ROWS, *, whole: bool = False) -> InvariantsCheck:
    return InvariantsCheck(url, "books", rows, 30, whole=whole)


async def look(url: str) -> Judgement:
    return await checking(url, whole=True).judge()


async def busy(one: Desk) -> tuple[str, str, str]:
    """Every kind of row: postings, a hold and its capture, a reversal, refusals, changes; a floor in use."""
    a, b = await one.open(2)
    [low] = await one.open(kind="liability", overdraft_limit="10")
    await one.do(transfer(a, b, "3"), transfer(low, b, "5"), transfer(b, low, "15"))
    [held] = await one.do(transfer(a, b, "2", pending=True))
    [posted] = await one.do(transfer(a, b, "1"))
    await one.do(c.PostPending(held.transaction_id(1), "1"), c.ReverseTransaction(posted.transaction_id(1)))
    assert (await one.codes(transfer(b, low, "100")))[0] is not None
    await one.do(c.ChangeAccount(a, metadata={"a": "b"}), *[transfer(a, b)] * 30)
    return a, b, low


async def test_sound_books_pass_at_every_look(database_url: str) -> None:
    check = checking(database_url)
    async with desk(database_url) as one:
        assert (await check.judge()).verdict is Verdict.PASS
        a, b, _ = await busy(one)
        first = await check.judge()
        assert (first.verdict, first.numbers["rows"]) == (Verdict.PASS, 42)
        await one.do(transfer(a, b))
        assert (await check.judge()).numbers["rows"] == 1
        assert (await check.judge()).numbers["rows"] == 0
    assert (await look(database_url)).verdict is Verdict.PASS


async def test_more_rows_than_a_look_takes_are_inconclusive_until_read(database_url: str) -> None:
    check = checking(database_url)
    async with desk(database_url) as one:
        a, b = await one.open(2)
        await check.judge()
        await one.do(*[transfer(a, b)] * 2_500)
        looks = [await check.judge() for _ in range(4)]
        assert [each.verdict for each in looks] == [Verdict.INCONCLUSIVE] * 2 + [Verdict.PASS] * 2
        assert [each.numbers["rows"] for each in looks] == [1_000, 1_000, 500, 0]
        assert [each.numbers["rows_left"] for each in looks] == [1_500, 500, 0, 0]


MORE = "update entries set {column} = {column} + 1 where seq = {seq} and {side} > 0"
DAMAGES = {
    "amount": ("update entries set amount = amount + 1 where seq = 4 and amount > 0", "entries", 4),
    "both amounts": ("update entries set amount = 2 * amount where seq = 4", "entries", 4),
    "total": (MORE.format(column="posted_debits", seq=10, side="amount"), "entries", 10),
    "held": (MORE.format(column="pending_debits", seq=7, side="held"), "entries", 7),
    "entry gone": ("delete from entries where seq = 5 and amount > 0", "entries", 5),
    "entry of another": ("update entries set seq = 3 where seq = 5 and amount > 0", "entries", 5),
    "row gone": ("delete from journal where seq = 6", "seq_dense", 6),
    "first row gone": ("delete from journal where seq = 1", "seq_dense", 1),
    "last row gone": ("delete from journal where seq = (select max(seq) from journal)", "head", 41),
    "head behind": ("update heads set seq = seq - 1", "head", 41),
    "head ahead": ("update heads set seq = seq + 1", "head", 42),
    "head gone": ("delete from heads", "head", None),
    "floor": ("update accounts set floor = 0 where account_no = 3", "floor", None),
    "newest total": (
        "update entries e set posted_credits = posted_credits + 7 where version = "
        "(select max(version) from entries n where n.account_no = e.account_no) and account_no = 1",
        "entries", 42,
    ),
    "key twice": (
        "drop index journal_by_key; update journal set key = (select key from journal where seq = 8) "
        "where seq = 9", "unique_keys", None,
    ),
    "index gone": ("drop index journal_by_key", "unique_keys", None),
    "index for some": (
        "drop index journal_by_key; create unique index on journal (ledger_no, key) where code is null",
        "unique_keys", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(DAMAGES))
async def test_every_damage_is_found_and_named(database_url: str, name: str) -> None:
    statement, rule, seq = DAMAGES[name]
    async with desk(database_url) as one:
        await busy(one)
        assert (await look(database_url)).verdict is Verdict.PASS
        await damaged(database_url, statement)
        judgement = await look(database_url)
        assert judgement.verdict is Verdict.FAIL
        assert judgement.numbers["rule"] == rule
        assert judgement.numbers.get("seq") == seq or seq is None
        if rule != "unique_keys":
            assert judgement.numbers["ledger_id"] == one.ledger_id
            assert one.ledger_id in judgement.words
        if name == "floor":
            assert judgement.numbers["account_no"] == 3
        # What was found broken stays broken at the next look.
        check = checking(database_url, whole=True)
        assert [(await check.judge()).verdict for _ in range(2)] == [Verdict.FAIL] * 2


async def damaged(url: str, statement: str) -> None:
    """As somebody who may switch the database's own checks off."""
    connection = await asyncpg.connect(url)
    try:
        for table in ("journal", "entries", "accounts", "heads"):
            await connection.execute(f"alter table {table} disable trigger all")
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_an_unbalanced_transaction_is_found_by_its_sum(database_url: str) -> None:
    async with desk(database_url) as one:
        await busy(one)
        # One side of a transaction, with all totals after it made to fit: only the sum is wrong.
        await damaged(
            database_url,
            "update entries set amount = amount + 5 where account_no = 2 and seq = 4; "
            "update entries set posted_debits = posted_debits + 5 where account_no = 2 and seq >= 4",
        )
        judgement = await look(database_url)
        assert judgement.numbers["rule"] == "balanced"
        assert judgement.numbers["seq"] == 4
        assert "sum of SGD is 500" not in judgement.words
        assert "SGD is off by 5 posted" in judgement.words


async def test_damage_after_the_first_look_is_found_by_the_next(database_url: str) -> None:
    check = checking(database_url)
    async with desk(database_url) as one:
        a, b, _ = await busy(one)
        assert (await check.judge()).verdict is Verdict.PASS
        await one.do(transfer(a, b))
        await damaged(database_url, "update entries set amount = amount + 1 where seq = 43 and amount > 0")
        judgement = await check.judge()
        assert judgement.verdict is Verdict.FAIL
        assert judgement.numbers["seq"] == 43
        # History is not read again, but what it adds up to is.
        await damaged(database_url, "update entries set amount = amount - 1 where seq = 43 and amount > 1")
        assert (await check.judge()).verdict is Verdict.PASS
        await damaged(
            database_url,
            "update entries set posted_debits = posted_debits + 1 where (account_no, version) = "
            "(select account_no, max(version) from entries where account_no = 1 group by 1)",
        )
        assert (await check.judge()).numbers["rule"] == "trial_balance"


async def test_a_database_that_is_gone_is_an_error() -> None:
    judgement = await look("postgresql://nobody:s3cr3t@127.0.0.1:1/none")
    assert judgement.verdict is Verdict.ERROR
    assert "s3cr3t" not in judgement.words


async def test_where_there_is_no_ledger_nothing_was_looked_at(database_url: str) -> None:
    assert (await look(database_url)).verdict is Verdict.INCONCLUSIVE
