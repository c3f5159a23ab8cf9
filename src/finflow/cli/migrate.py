"""`finflow migrate`: the schema, brought up to date, whether FinFlow runs or not."""

import asyncio
from typing import Any

import click

from finflow.app import Config, traced
from finflow.cli import echo_json
from finflow.cli.options import data_option, database_url_option, json_option
from finflow.db import migrations
from finflow.db.change import SchemaChange
from finflow.db.phases import Phase
from finflow.db.steps import DONE
from finflow.stack.folder import DataFolder
from finflow.stack.service import database


@click.command
@data_option
@database_url_option
@json_option
def migrate(as_json: bool, **flags: Any) -> None:
    """Bring the database's schema up to date."""
    applied, left = asyncio.run(_migrate(Config.load(flags)))
    if as_json:
        echo_json({"applied": applied})
        return
    for name in applied:
        click.echo(f"applied {name}")
    if left:
        click.echo(f"{', '.join(left)}: see `finflow db status`.", err=True)
    elif not applied:
        click.echo("The schema is up to date.", err=True)


async def _migrate(config: Config) -> tuple[list[str], list[str]]:
    state = DataFolder(config.data).read_state()
    # The state file masks the password of a server that is not ours.
    if config.database_url is None and state is not None and state.postgres is not None:
        return await migrations.migrate(state.database_url), await _left(state.database_url)
    async with traced(config), database(config.data, config.database_url) as url:
        return await migrations.migrate(url), await _left(url)


async def _left(url: str) -> list[str]:
    """Later phases that are not done yet: they are for `finflow db`, or for a rollout."""
    if all(step.phase is Phase.EXPAND for step in migrations.load()):
        return []
    return [each.name for each in await SchemaChange(url).status() if each.state != DONE]
