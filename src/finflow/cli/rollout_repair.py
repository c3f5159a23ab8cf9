"""`finflow rollout repair`: what a release did wrong, with reversals and corrections, applied on command."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finflow.cli import echo_json
from finflow.cli.options import api_options, data_option, database_url_option, json_option
from finflow.kernel.errors import EXIT_DONE, EXIT_NO, FinFlowError

if TYPE_CHECKING:
    from finflow.shadow.repair import Api, Applied, Plan

_file = click.argument("file", metavar="PLAN")


@click.group
def repair() -> None:
    """List a release's wrong transactions, propose reversals and corrections, apply them once."""


@repair.command
@data_option
@database_url_option
@click.option("--folder", metavar="FOLDER", help="The shadow's folder [DATA/shadow].")
@click.option("--out", metavar="FILE", help="Where the plan is written [FOLDER/repair.json].")
@click.option("--dry-run", is_flag=True, help="Show the plan and write no file.")
@json_option
def plan(folder: str | None, out: str | None, dry_run: bool, as_json: bool, **flags: Any) -> int:
    """Propose repairs for the cases of a shadow, as a file for approval. Nothing is booked."""
    from finflow.cli.rollout_shadow import live_url_of, place_of
    from finflow.shadow.repair import write_plan
    from finflow.shadow.report import read_cases, read_report

    place = place_of(folder, flags)
    if read_report(place.root) is None:
        raise FinFlowError("shadow_not_running", f"there is no report in {place.root}")
    made = asyncio.run(_made(live_url_of(flags), read_cases(place.root)))
    path = Path(out) if out else place.root / "repair.json"
    if not dry_run:
        write_plan(path, made)
        click.echo(f"Written to {path}; `finflow rollout repair apply {path}` applies it.", err=True)
    _print(made, as_json, _shown(made))
    return EXIT_DONE


async def _made(live_url: str, cases: Any) -> "Plan":
    from finflow.db.pool import connect
    from finflow.shadow.repair import make_plan

    connection = await connect(live_url, application_name="finflow repair")
    try:
        return await make_plan(connection, cases, datetime.now(UTC).isoformat(timespec="seconds"))
    finally:
        await connection.close(timeout=5)


@repair.command
@_file
@json_option
def show(file: str, as_json: bool) -> int:
    """Show a plan."""
    from finflow.shadow.repair import read_plan

    found = read_plan(Path(file))
    _print(found, as_json, _shown(found))
    return EXIT_DONE


@repair.command
@_file
@click.option("--yes", is_flag=True, help="Do it without asking.")
@click.option(
    "--attempt", type=click.IntRange(1, 100), default=1, show_default=True, help="After a refusal, one more."
)
@click.option("--dry-run", is_flag=True, help="Say what would be booked.")
@api_options
def apply(file: str, yes: bool, attempt: int, dry_run: bool, **where: Any) -> int:
    """Apply a plan through the API, in the tenants' names; a second time it does nothing."""
    from finflow.shadow.repair import read_plan

    found = read_plan(Path(file))
    count = len(found.items) - len(found.for_people)
    if dry_run:
        _print(found, where["as_json"], _shown(found))
        return EXIT_DONE
    if count and not yes:
        click.confirm(f"Take back {count} transactions and book their corrections?", abort=True, err=True)
    applied = asyncio.run(_applied(found, where, attempt))
    facts = {
        "repaired": sum(each.done for each in applied),
        "refused": sum(not each.done for each in applied),
        "for_people": len(found.for_people),
        "items": applied,
    }
    _print(facts, where["as_json"], _outcome(facts, applied))
    click.echo("`finflow rollout shadow verify` proves that the books are right.", err=True)
    return EXIT_NO if facts["refused"] else EXIT_DONE


async def _applied(found: "Plan", where: dict[str, Any], attempt: int) -> "list[Applied]":
    from finflow.shadow.repair import apply_plan

    async with AsyncExitStack() as stack:
        return await apply_plan(found, _apis(where, stack), attempt)


def _apis(where: dict[str, Any], stack: AsyncExitStack) -> "Callable[[str], Awaitable[Api]]":
    """The API in each tenant's name: with what the environment gives, else with the local keys."""
    from finflow.app import Config
    from finflow.cli.connect import Access, running_url
    from finflow.client.service import Client
    from finflow.shadow.repair import Api

    config = Config.load({"data": where["data"]})
    url = running_url(where, config)
    access = Access(url, config)
    known: dict[str, Api] = {}

    async def api_of(tenant_id: str) -> Api:
        if tenant_id not in known:
            local = access.local()
            token = access.given() or (None if local is None else local.of(tenant_id))
            client = await stack.enter_async_context(Client(url, token=token, timeout_s=30, budget_s=60))
            known[tenant_id] = Api(client.reverse, client.void, client.post)
        return known[tenant_id]

    return api_of


# --- screens ----------------------------------------------------------------------------------------------


def _print(facts: Any, as_json: bool, text: str) -> None:
    if as_json:
        echo_json(facts)
    else:
        click.echo(text)


def _shown(found: "Plan") -> str:
    from finflow.cli import screens

    head = ("CASE", "TRANSACTION", "DO", "THEN", "WHY A PERSON")
    rows = [
        (str(i.case_no), i.transaction_id, i.action, "correct" if i.correction else "", i.reason or "")
        for i in found.items
    ]
    words = f"{len(found.items) - len(found.for_people)} to repair, {len(found.for_people)} for a person."
    digest = f"Plan {found.digest[:16]} of {found.made_at}."
    return f"{digest} {words}" + ("\n\n" + screens.table(head, rows, frozenset({"CASE"})) if rows else "")


def _outcome(facts: dict[str, Any], applied: "list[Applied]") -> str:
    from finflow.cli import screens

    words = f"{facts['repaired']} repaired, {facts['refused']} refused, {facts['for_people']} for a person."
    rows = [
        (str(a.case_no), a.transaction_id, a.taken_back or "", a.corrected or "",
         f"{a.step}: {a.code}" if a.code else ("done before" if a.replayed else "done"))
        for a in applied
    ]  # fmt: skip
    if not rows:
        return words
    head = ("CASE", "TRANSACTION", "TAKEN BACK BY", "CORRECTED BY", "OUTCOME")
    return f"{words}\n\n{screens.table(head, rows, frozenset({'CASE'}))}"
