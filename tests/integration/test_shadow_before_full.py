"""Before everybody is sent to a candidate, both books are compared as a whole, and nothing else passes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from finflow.app.rollout_checks import StepChecks
from finflow.app.shadow import CLONE_URL, Settings, ShadowFolder
from finflow.kernel.clock import system_clock
from finflow.ledger import copy
from finflow.rollout.fake_fleet import FakeFleet
from finflow.rollout.fake_ingress import FakeIngress, FakeRouter
from finflow.rollout.verdicts import Judgement, Verdict
from finflow.shadow.report import read_report
from oracles.service import Clock, desk, transfer
from oracles.shadowing import cloned, damage, watched
from stubs.rollout_specs import spec

LAST = 2
SHADOW = {"kind": "shadow", "least_compared": 1, "verify_within_s": 20}


@contextlib.asynccontextmanager
async def shadowed(live_url: str, clone_url: str, root: Path) -> AsyncIterator[Any]:
    """A desk that books live, and its shadow that replays meanwhile."""
    async with desk(live_url, clock=Clock(system_clock()), release="1.1") as one:
        accounts = await one.open(2)
        await cloned(live_url, clone_url)
        ShadowFolder(root).create()
        ShadowFolder(root).write_settings(Settings("1.0", "elsewhere", embedded=False))
        async with watched(live_url, clone_url, root) as shadow:
            await one.do(transfer(*accounts, "7"))
            stopping = asyncio.Event()
            running = asyncio.create_task(shadow.shadow.run(stopping))
            try:
                async with asyncio.timeout(20):
                    while not (await shadow.shadow.report("running")).compared:
                        await asyncio.sleep(0.05)
                yield one
            finally:
                stopping.set()
                await running


def checks_of(data: Path, **changes: Any) -> StepChecks:
    found = spec(checks=[{**SHADOW, **changes}])
    return StepChecks(found, data, data, FakeFleet(), FakeIngress(FakeRouter()))


async def before(checks: StepChecks, step: int) -> dict[str, Judgement]:
    found = [await check.judge() for check in checks.before(step, False, {})]
    return {each.gate: each for each in found}


async def test_a_fault_that_no_command_did_stops_the_last_step(
    database_url: str, database_url_empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINFLOW_DATABASE_URL", database_url)
    monkeypatch.setenv(CLONE_URL, database_url_empty)
    async with shadowed(database_url, database_url_empty, tmp_path / "shadow"):
        sound = await before(checks_of(tmp_path), LAST)
        assert [each.verdict for each in sound.values()] == [Verdict.PASS, Verdict.PASS]
        assert sound["shadow checksum"].numbers["accounts"] == 2
        assert set(await before(checks_of(tmp_path), LAST - 1)) == {"shadow"}
        assert set(await before(checks_of(tmp_path, verify_before_full=False), LAST)) == {"shadow"}
        wrong = "update entries set posted_debits = posted_debits + 1 where version = 1 and account_no = 1"
        await damage(database_url_empty, wrong)
        found = await before(checks_of(tmp_path), LAST)
        assert found["shadow"].verdict is Verdict.PASS
        assert found["shadow checksum"].verdict is Verdict.FAIL
        assert "apart" in found["shadow checksum"].words


@pytest.mark.parametrize("missing", ["FINFLOW_DATABASE_URL", CLONE_URL])
async def test_books_that_are_not_known_never_pass(
    database_url: str,
    database_url_empty: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
) -> None:
    monkeypatch.setenv("FINFLOW_DATABASE_URL", database_url)
    monkeypatch.setenv(CLONE_URL, database_url_empty)
    async with shadowed(database_url, database_url_empty, tmp_path / "shadow"):
        monkeypatch.delenv(missing)
        found = (await before(checks_of(tmp_path), LAST))["shadow checksum"]
    assert found.verdict is Verdict.ERROR
    assert missing in found.words


async def test_what_each_release_was_compared_survives_a_restart(
    database_url: str, database_url_empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "shadow"
    monkeypatch.setattr(copy, "_whole", [True])
    async with shadowed(database_url, database_url_empty, root):
        # The accounts were opened before the clone was made.
        report = read_report(root)
        assert report is not None
        assert report.by_release == {"1.1": 1}
    async with watched(database_url, database_url_empty, root) as shadow:
        assert (await shadow.catch_up()).by_release == {"1.1": 1}


async def test_what_is_compared_with_itself_is_no_comparison_of_a_release(
    database_url: str, database_url_empty: str, tmp_path: Path
) -> None:
    """Without what was asked, what was booked stands for it: a wrong amount would be equal to itself."""
    root = tmp_path / "shadow"
    async with shadowed(database_url, database_url_empty, root):
        report = read_report(root)
        assert report is not None
        assert (report.compared, report.by_release) == (1, {})


async def test_without_comparisons_nothing_is_summed_up(tmp_path: Path) -> None:
    found = await before(checks_of(tmp_path), LAST)
    assert [each.verdict for each in found.values()] == [Verdict.ERROR, Verdict.ERROR]
