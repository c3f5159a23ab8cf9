"""`finflow status`: does it run, and is it ready? Exit 0 yes, 1 it does not run, 3 it is not ready."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import click

from finflow.app import Config
from finflow.cli import echo_json
from finflow.cli.options import data_option, json_option
from finflow.kernel.errors import EXIT_DONE, EXIT_NO, EXIT_UNREACHABLE
from finflow.stack import ports
from finflow.stack.folder import DataFolder, State
from finflow.stack.processes import alive


@click.command
@data_option
@json_option
def status(as_json: bool, **flags: Any) -> int:
    """Say whether FinFlow runs, and how well."""
    config = Config.load(flags)
    state = DataFolder(config.data).read_state()
    facts = _facts(state) if state else {"running": False, "ready": False}
    if as_json:
        echo_json({"data": str(config.data), **facts})
    else:
        click.echo(_sentence(facts, str(config.data)))
    if state is None:
        return EXIT_NO
    return EXIT_DONE if facts["ready"] else EXIT_UNREACHABLE


def _facts(state: State) -> dict[str, Any]:
    address = urlsplit(state.url)
    answer = asyncio.run(ports.http_status(address.hostname or "", address.port or 0, "/readyz"))
    return {
        "running": True,
        "ready": answer == 200,
        "readyz": answer,
        "pid": state.up.pid,
        "url": state.url,
        "database_url": state.database_url,
        "database_running": state.postgres is None or alive(state.postgres),
        "ingress": state.ingress_kind,
        "ingress_running": state.ingress_kind is None or (state.ingress is not None and alive(state.ingress)),
        "workers_url": state.workers_url,
        "workers_running": sum(alive(worker) for worker in state.workers),
        "workers": len(state.workers),
    }


def _sentence(facts: dict[str, Any], data: str) -> str:
    if not facts["running"]:
        return f"FinFlow does not run on {data}."
    runs = f"FinFlow runs at {facts['url']} (process {facts['pid']}, {facts['workers']} workers)"
    if facts["ready"]:
        return f"{runs} and is ready."
    answer = facts["readyz"] or "nothing"
    database = "runs" if facts["database_running"] else "does not run"
    router = "" if facts["ingress_running"] else f" {facts['ingress'].capitalize()} does not run,"
    return (
        f"{runs} but is not ready: /readyz answers {answer},{router} "
        f"{facts['workers_running']} of {facts['workers']} workers run, the database {database}."
    )
