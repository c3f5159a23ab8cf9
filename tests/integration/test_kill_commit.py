"""COMMIT whose answer never came: the service finds out what became of it, and books nothing twice."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from finflow.kernel.errors import FinFlowError
from finflow.ledger import writer
from oracles.proxy import Proxy, Where
from oracles.service import ENTRY_SUMS, Desk, audit, desk, second_desk, transfer


@pytest_asyncio.fixture
async def proxied(database_url: str) -> AsyncIterator[tuple[Desk, Desk, Proxy]]:
    """A ledger reached directly, the same one through a proxy, and the proxy."""
    with tempfile.TemporaryDirectory(prefix="ffp-") as folder:
        base, _, server = database_url.partition("?host=")
        proxy = Proxy(Path(server), Path(folder))
        await proxy.start()
        async with desk(database_url) as direct:
            async with second_desk(f"{base}?host={folder}", direct.ledger_id, "p") as behind:
                yield direct, behind, proxy
            await proxy.stop()


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_commit_that_is_cut_is_resolved(
    proxied: tuple[Desk, Desk, Proxy], where: Where, times: int
) -> None:
    direct, behind, proxy = proxied
    a, b = await direct.open(2)
    for _ in range(3):
        # cold, then decided ahead on a warm book
        proxy.cut(*[where] * times)
        records = await behind.do(transfer(a, b, "1"), transfer(a, b, "x"), transfer(a, b, "2"))
        assert [record.code for record in records] == [None, "amount_malformed", None]
        assert await behind.codes(transfer(a, b, "4")) == [None]
    # A commit that was done is found, so the second cut of `times` meets the look-up's own or the next one.
    assert proxy.cut_count == 3 * times
    assert (await direct.service.balance(b)).balance == "21.00"
    await whole(direct, 2 + 3 * 4)
    assert await direct.codes(transfer(a, b, "1")) == [None]


async def test_a_lost_answer_is_the_stored_one(proxied: tuple[Desk, Desk, Proxy]) -> None:
    """What the service answers after the cut is what the journal says, `seq` and entries included."""
    direct, behind, proxy = proxied
    a, b = await direct.open(2)
    await behind.do(transfer(a, b, "1"))
    proxy.cut("after")
    [answered] = await behind.do(transfer(a, b, "5"))
    [stored] = await direct.service.journal(direct.ledger_id, answered.seq - 1, 1)
    assert (answered.key, answered.recorded_at, answered.entries) == (
        stored.key,
        stored.recorded_at,
        stored.entries,
    )
    assert [entry.amount for entry in answered.entries] == [-500, 500]


async def test_others_that_wait_behind_a_cut_commit_are_booked(proxied: tuple[Desk, Desk, Proxy]) -> None:
    direct, behind, proxy = proxied
    a, b = await direct.open(2)
    await behind.do(transfer(a, b, "1"))
    proxy.cut("after", "before", "after")
    jobs = []
    for _ in range(30):
        jobs.append(asyncio.create_task(behind.codes(transfer(a, b, "1"))))
        await asyncio.sleep(0.003)
    assert await asyncio.gather(*jobs) == [[None]] * 30
    assert proxy.cut_count == 3
    assert (await direct.service.balance(b)).balance == "31.00"
    await whole(direct, 2 + 31)


async def test_an_outcome_that_stays_unknown_is_called_unknown(
    proxied: tuple[Desk, Desk, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not refused, not booked: unknown, until the same key is sent again."""
    direct, behind, proxy = proxied
    a, b = await direct.open(2)
    for where, name in (("after", "unknown-1"), ("before", "unknown-2")):
        request = behind.request(transfer(a, b, "5"), name)
        proxy.cut(where)  # type: ignore[arg-type]
        with monkeypatch.context() as patched:
            patched.setattr(writer, "RETRY_FOR_S", 0.0)
            with pytest.raises(FinFlowError, match="outcome_unknown") as caught:
                await behind.service.submit(behind.ledger_id, [request])
        assert caught.value.kind.retryable
        [again] = await behind.service.submit(behind.ledger_id, [request])
        assert (again.code, again.replayed) == (None, where == "after")
    assert (await direct.service.balance(b)).balance == "10.00"
    await whole(direct, 4)


async def whole(one: Desk, count: int) -> None:
    """The journal is dense and as long as it must be, and every account's entries add up."""
    seqs = [row[0] for row in await one.rows("select seq from journal order by seq")]
    assert seqs == list(range(1, count + 1))
    assert await one.value("select seq from heads") == count
    assert (await one.service.trial_balance(one.ledger_id)).balanced
    await audit(await one.rows(ENTRY_SUMS))
