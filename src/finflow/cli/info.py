"""`finflow info`: the configuration and where it comes from. Reads only, and needs nothing to run."""

import platform
import sys
from typing import Any

import click

from finflow import __version__
from finflow.app import Config
from finflow.cli import echo_json
from finflow.cli.options import (
    data_option,
    database_url_option,
    ingress_option,
    json_option,
    port_option,
    workers_option,
)
from finflow.stack.folder import DataFolder
from finflow.stack.front import SERVICE


@click.command
@data_option
@port_option
@workers_option
@ingress_option
@database_url_option
@json_option
def info(as_json: bool, **flags: Any) -> None:
    """Show every setting, where its value comes from, and the paths in use."""
    config = Config.load(flags)
    folder = DataFolder(config.data)
    paths = {
        "data": str(folder.root),
        "logs": str(folder.logs),
        "state": str(folder.state_file),
        "ingress": str(folder.root / "ingress" / SERVICE),
        "python": sys.executable,
    }
    versions = {"finflow": __version__, "python": platform.python_version()}
    if as_json:
        echo_json({"versions": versions, "settings": config.rendered(), "paths": paths})
        return
    click.echo(f"finflow {__version__}, Python {versions['python']}\n")
    _table([(each["name"], each["value"] or "-", each["source"]) for each in config.rendered()])
    click.echo()
    _table(list(paths.items()))


def _table(rows: list[tuple[Any, ...]]) -> None:
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())
