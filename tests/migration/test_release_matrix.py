"""Old and new releases on each other's schema: the last release on today's, today's before a contract.

The last release is the revision named by FINFLOW_LAST_RELEASE, else the newest tag, else the state of the
main line right before the newest migration came: the release whose schema differs from today's.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finflow.db.change import SchemaChange
from finflow.db.contracting import Permit
from finflow.db.migrations import PACKAGED, load, migrate
from finflow.db.phases import Phase
from oracles.changes import write
from oracles.service import ENTRY_SUMS, audit, desk, second_desk, transfer

_ROOT = Path(__file__).parents[2]
_MIGRATIONS = "src/finflow/db/migrations"

# What the old release does, with its own code and its own words for tests: it starts, migrates, posts, reads.
_OLD = """
import asyncio, sys
import finflow
from finflow.db.migrations import migrate
from oracles.service import desk, transfer

async def main(url, root):
    assert finflow.__file__.startswith(root), finflow.__file__
    assert await migrate(url) == [], "an old instance that starts changes nothing"
    async with desk(url) as one:
        a, b = await one.open(2)
        assert await one.codes(transfer(a, b, "3"), transfer(a, b, "4")) == [None, None]
        assert (await one.service.trial_balance(one.ledger_id)).balanced
        print(one.ledger_id, a, b, (await one.service.balance(b)).balance)

asyncio.run(main(*sys.argv[1:]))
"""


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None


def _last_release() -> str | None:
    named = os.environ.get("FINFLOW_LAST_RELEASE") or _git("describe", "--tags", "--abbrev=0")
    if named:
        return named
    newest = _git(
        "log", "--first-parent", "-m", "--diff-filter=A", "-1", "--format=%H", "--", f"{_MIGRATIONS}/*.sql"
    )
    return _git("rev-parse", "--verify", "--quiet", f"{newest}^1") if newest else None


@pytest.fixture
def last_release(tmp_path: Path) -> Path:
    """The source and the tests' words of the last release, in a folder of their own."""
    revision = _last_release()
    if revision is None:
        pytest.skip("this checkout has no history to take the last release from")
    command = ["git", "archive", revision, "src", "tests/oracles", "examples"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"git archive {revision}: {done.stderr.decode().strip()}")
    folder = tmp_path / "last"
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", folder], input=done.stdout, check=True)
    return folder


async def test_the_last_release_works_on_todays_expanded_schema(
    last_release: Path, database_url_empty: str, template: str
) -> None:
    # On a database that is used already: backfills and contracts wait, as they do in a rollout.
    first = load()[0]
    one = write(last_release.parent / "first", {first.name: first.sql})
    await migrate(database_url_empty, one)
    expanded = [step.name for step in load() if step.phase is Phase.EXPAND and step.name != first.name]
    assert await migrate(database_url_empty) == expanded
    environment = {**os.environ, "PYTHONPATH": f"{last_release / 'src'}:{last_release / 'tests'}"}
    old = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _OLD, database_url_empty, str(last_release),
        env=environment, cwd=last_release, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(old.communicate(), 60)
    assert old.returncode == 0
    ledger_id, a, b, balance = output.decode().split()
    assert balance == "7.00"
    async with second_desk(database_url_empty, ledger_id, "new") as today:
        assert await today.codes(transfer(a, b, "5")) == [None]
        assert (await today.service.balance(b)).balance == "12.00"
        assert (await today.service.trial_balance(ledger_id)).balanced
        await audit(await today.rows(ENTRY_SUMS))


# A change of a table of ours, for which there is a phase of each kind. It fills in what nobody reads yet.
_CHANGE = {
    "9001_shown_name.expand": "alter table tenants add column shown_name text;",
    "9002_shown_name_index.expand": (
        "create index concurrently tenants_by_shown_name on tenants (shown_name);"
    ),
    "9001_shown_name.backfill": (
        "-- finflow: table=tenants key=tenant_no batch=1000\n"
        "update tenants set shown_name = name where tenant_no between $1 and $2;"
    ),
    "9001_shown_name.verify": "select tenant_no from tenants where shown_name is distinct from name;",
    "9001_shown_name.contract": "alter table tenants drop column shown_name;",
}


async def test_todays_service_works_through_every_phase(database_url: str, tmp_path: Path) -> None:
    own = {step.name: step.sql for step in load(PACKAGED)}
    change = SchemaChange(database_url, write(tmp_path / "all", own | _CHANGE))
    permit = Permit(at_full=True, ignored=("finflow",))
    async with desk(database_url) as one:
        a, b = await one.open(2)
        total = 0
        for phase in (change.expand, change.backfill, change.verify, lambda: change.contract(permit)):
            await phase()
            assert await one.codes(transfer(a, b, "1")) == [None]
            async with second_desk(database_url, one.ledger_id, f"p{total}") as other:
                assert await other.codes(transfer(a, b, "1")) == [None]
            total += 2
            assert (await one.service.balance(b)).balance == f"{total}.00"
        assert (await one.service.trial_balance(one.ledger_id)).balanced
        await audit(await one.rows(ENTRY_SUMS))
    assert {each.state for each in await change.status()} == {"done"}
