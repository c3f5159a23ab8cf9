"""Which phases of a schema change a step asks for, also where the first step is the last."""

import asyncio
from typing import Any

import pytest

from finflow.app.rollout_checks import SchemaPhases
from finflow.rollout.verdicts import Judgement, Verdict


class Schema:
    """Remembers what was asked of it; verified as soon as it was filled back."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def before_first_step(self) -> list[str]:
        self.asked.append("expand")
        return ["0001_a.expand"]

    async def during(self) -> list[str]:
        await asyncio.sleep(0)
        self.asked.append("backfill")
        return ["0001_a.backfill"]

    async def before_full(self) -> Judgement:
        whole = {"expand", "backfill"} <= set(self.asked)
        return Judgement("schema", Verdict.PASS if whole else Verdict.INCONCLUSIVE, {}, "")


def made(schema: Schema) -> SchemaPhases:
    found: Any = schema
    return SchemaPhases(lambda: found, "schema")


async def test_a_rollout_of_one_step_expands_and_fills_back_before_it() -> None:
    schema = Schema()
    phases = made(schema)
    async with asyncio.timeout(5):
        while (await phases.at(0, 0).judge()).verdict is not Verdict.PASS:
            await asyncio.sleep(0.01)
    assert schema.asked[0] == "expand"
    assert schema.asked.count("backfill") == 1


@pytest.mark.parametrize(("step", "asked"), [(0, ["expand"]), (1, []), (2, [])])
async def test_a_rollout_of_three_fills_back_beside_them(step: int, asked: list[str]) -> None:
    schema = Schema()
    found = await made(schema).at(step, 2).judge()
    await asyncio.sleep(0)
    assert schema.asked == asked
    assert found.verdict is (Verdict.INCONCLUSIVE if step == 2 else Verdict.PASS)
