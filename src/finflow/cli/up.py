"""`finflow up`: the database and the API, until Ctrl-C."""

import io
import os
import shlex
from time import monotonic
from typing import Any

import click

from finflow.app import Config, running, traced
from finflow.cli import echo_json
from finflow.cli.options import (
    data_option,
    database_url_option,
    ingress_option,
    json_option,
    port_option,
    workers_option,
)
from finflow.cli.until import Stop, first, run
from finflow.stack.children import open_log
from finflow.stack.folder import DataFolder
from finflow.stack.service import Stack
from finflow.telemetry import levels, logs
from finflow.telemetry.redaction import redact


@click.command
@data_option
@port_option
@workers_option
@ingress_option
@database_url_option
@json_option
def up(as_json: bool, **flags: Any) -> None:
    """Start the database and the API, and run until Ctrl-C."""
    config = Config.load(flags)
    folder = DataFolder(config.data)
    folder.create()
    with open_log(None if config.log_to == "stdout" else folder.logs / "up.log") as log:
        logs.configure(config.log_level, io.TextIOWrapper(log), config.release)
        run(lambda stop: _up(config, as_json, stop))


async def _up(config: Config, as_json: bool, stop: Stop) -> None:
    started = monotonic()
    click.echo(f"Starting FinFlow on {config.data} ...", err=True)
    async with traced(config), running(config) as stack:
        levels.watch(config.data, config.log_level)
        stop.arm()
        facts = _facts(stack, monotonic() - started)
        if as_json:
            echo_json(facts)
        else:
            # Another terminal knows the default folder, but not what was typed here.
            where = f" --data {shlex.quote(facts['data'])}" if config.sources["data"] == "flag" else ""
            click.echo(_welcome(facts, f"finflow token{where}"))
        await first(stop.wait(), stack.broken())
        click.echo("Stopping ...", err=True)
    click.echo("Stopped.", err=True)


def _facts(stack: Stack, seconds: float) -> dict[str, Any]:
    return {
        "url": stack.url,
        "database_url": redact(stack.database_url),
        "pid": os.getpid(),
        "workers": stack.worker_pids,
        "ingress": stack.settings.ingress,
        "workers_url": stack.fleet.url if stack.fleet else None,
        "data": str(stack.folder.root),
        "logs": str(stack.folder.logs),
        "migrations": stack.migrations,
        "seconds": round(seconds, 3),
    }


def _through(facts: dict[str, Any]) -> str:
    return f" behind {facts['ingress'].capitalize()}" if facts["ingress"] else ""


def _welcome(facts: dict[str, Any], token: str) -> str:
    bearer = f'-H "Authorization: Bearer $({token})"'
    return f"""\
FinFlow is ready after {facts["seconds"]:.1f} s.
  API       {facts["url"]} ({len(facts["workers"])} workers{_through(facts)})
  Database  {facts["database_url"]}
  Data      {facts["data"]}
  Logs      {facts["logs"]}

Open a tenant:
  curl -s {facts["url"]}/v1/tenants {bearer} -H 'Content-Type: application/json' -d '{{"name": "My bank"}}'

Ctrl-C stops everything."""
