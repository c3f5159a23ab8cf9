"""For any orders, outcomes and interruptions: books balance, holds are resolved, netted equals gross."""

import random
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finflow.kernel.errors import FinFlowError
from finflow.settlement.orders import OrderDraft
from finflow.settlement.rails import FakeRail
from oracles.rail import report, uetrs_of
from oracles.settling import CREDITOR, Bank, bank

MEMBERS = ("ALFA", "BETA", "CITI", "DELTA")

ORDER = st.tuples(
    st.sampled_from(MEMBERS),
    st.sampled_from([*MEMBERS, "RAIL1", "RAIL2"]),
    st.integers(min_value=1, max_value=60_000),
    st.sampled_from(["net", "net", "net", "gross"]),
)
# What happens at the places that a step comes to: it breaks there, or it does not.
BREAKS = st.lists(st.booleans(), max_size=40)
ANSWERS = st.lists(st.sampled_from(["ACSC", "RJCT", "PART", "ACSC"]), max_size=8)


class Interrupted(FinFlowError):
    """What a crash looks like from within one process: the step ends where it is."""

    def __init__(self) -> None:
        super().__init__("database_unreachable", "interrupted")


class Fate:
    """Breaks steps and answers messages as drawn."""

    def __init__(self, breaks: list[bool], answers: list[str]) -> None:
        self.breaks, self.answers, self.heard = breaks, answers, 0

    def reached(self, _: str) -> None:
        if self.breaks and self.breaks.pop(0):
            raise Interrupted

    def answer(self, message_id: str, data: bytes) -> list[bytes]:
        self.heard += 1
        status = self.answers.pop(0) if self.answers else "ACSC"
        refused = uetrs_of(data)[:1] if status == "PART" else []
        return [report(f"R{self.heard}-{message_id}", message_id, status, refused)]


async def _pay_patiently(one: Bank, drafts: list[OrderDraft], key: str) -> None:
    while True:
        try:
            await one.pay(*drafts, key=key)
        except Interrupted:
            continue
        return


async def _run(url: str, batches: list[list[Any]], fate: Fate, limit: str | None) -> None:
    rails = {name: FakeRail(fate.answer) for name in ("RAIL1", "RAIL2")}
    async with bank(url, rails, fate.reached) as one:
        for name in MEMBERS:
            await one.add(name, settlement_limit=limit)
        for name in rails:
            await one.add(name, kind="rail")
        for number, batch in enumerate(batches):
            drafts = [
                one.draft(payer, payee, f"{minor // 100}.{minor % 100:02}", mode=mode, creditor=CREDITOR)
                for payer, payee, minor, mode in batch
                if payer != payee and (mode == "net" or payee in MEMBERS)
            ]
            if drafts:
                await _pay_patiently(one, drafts, f"batch-{number}")
            one.one.clock.at += 3 * 3_600_000_000
            await one.worker.until_idle()
        for _ in range(400):
            if await one.one.value("select count(*) from settlement_work") == 0:
                break
            one.one.clock.at += 3_600_000_000
            await one.worker.until_idle()
        else:
            raise AssertionError(await one.one.rows("select * from settlement_work"))
        await one.whole()
        for row in await one.one.rows("select cycle_no from settlement_steps where action = 'net'"):
            cycle = await one.room.steps.read(await _ledger_no(one), row["cycle_no"])
            found = await one.settlement.report(_cycle_id(cycle))
            assert found.faults == []


async def _ledger_no(one: Bank) -> int:
    number: int = await one.one.value("select ledger_no from settlement_cycles limit 1")
    return number


def _cycle_id(row: Any) -> str:
    from finflow.settlement.orders import cycle_id

    return cycle_id(row.ledger_no, row.cycle.cycle_no, row.opened_at)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(st.lists(ORDER, max_size=12), min_size=1, max_size=4),
    breaks=BREAKS,
    answers=ANSWERS,
    limit=st.sampled_from([None, None, "300", "50"]),
)
async def test_any_run_ends_whole(
    postgres: Any, template: str, batches: list[list[Any]], breaks: list[bool], answers: list[str],
    limit: str | None,
) -> None:  # fmt: skip
    name = f"prop_{random.getrandbits(48):x}"
    admin = await asyncpg.connect(postgres.url("postgres"))
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        await _run(postgres.url(name), batches, Fate(list(breaks), list(answers)), limit)
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()


@pytest.mark.parametrize("seed", range(3))
async def test_a_few_hundred_orders_with_breaks_everywhere(database_url: str, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - a test that can be repeated
    batches = [
        [
            (dice.choice(MEMBERS), dice.choice([*MEMBERS, "RAIL1", "RAIL2"]), dice.randint(1, 5_000),
             dice.choice(["net", "gross"]))
            for _ in range(100)
        ]
        for _ in range(3)
    ]  # fmt: skip
    breaks = [dice.random() < 0.5 for _ in range(200)]
    await _run(database_url, batches, Fate(breaks, ["RJCT", "ACSC", "PART"]), None)
