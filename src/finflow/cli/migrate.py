"""`finflow migrate`: the schema, brought up to date, whether FinFlow runs or not."""

import asyncio
from typing import Any

import click

from finflow.app import Config, traced
from finflow.cli import echo_json
from finflow.cli.options import data_option, database_url_option, json_option
from finflow.db import migrations
from finflow.stack.folder import DataFolder
from finflow.stack.service import database


@click.command
@data_option
@database_url_option
@json_option
def migrate(as_json: bool, **flags: Any) -> None:
    """Bring the database's schema up to date."""
    applied = asyncio.run(_migrate(Config.load(flags)))
    if as_json:
        echo_json({"applied": applied})
        return
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("The schema is up to date.", err=True)


async def _migrate(config: Config) -> list[str]:
    state = DataFolder(config.data).read_state()
    # The state file masks the password of a server that is not ours.
    if config.database_url is None and state is not None and state.postgres is not None:
        return await migrations.migrate(state.database_url)
    async with traced(config), database(config.data, config.database_url) as url:
        return await migrations.migrate(url)
