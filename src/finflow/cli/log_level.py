"""`finflow log-level`: what the running processes write, changed without a restart."""

import click

from finflow.app import Config
from finflow.cli import echo_json
from finflow.cli.options import data_option, json_option
from finflow.kernel.errors import FinFlowError
from finflow.stack.folder import DataFolder, folder_error
from finflow.telemetry import levels
from finflow.telemetry.logs import LEVELS

_AS_CONFIGURED = "configured"


@click.command("log-level")
@click.argument("level", required=False, type=click.Choice([*LEVELS, _AS_CONFIGURED]))
@data_option
@json_option
def log_level(level: str | None, data: str | None, as_json: bool) -> None:
    """Show or change what the running FinFlow logs; `configured` takes a change back."""
    config = Config.load({"data": data})
    folder = DataFolder(config.data)
    if level is not None:
        _change(folder, level)
    found = levels.wanted(folder.root)
    if as_json:
        echo_json({"level": found or config.log_level, "changed": found is not None})
    else:
        click.echo(found or f"{config.log_level} (as configured)")


def _change(folder: DataFolder, level: str) -> None:
    if folder.read_state() is None:
        raise FinFlowError("stack_not_running", f"Nothing runs on {folder.root}.")
    try:
        if level == _AS_CONFIGURED:
            levels.withdraw(folder.root)
        else:
            levels.ask(folder.root, level)
    except OSError as error:
        raise folder_error(error, folder.root) from error
