"""Options that several commands share, named and worded once."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

data_option = click.option("--data", metavar="FOLDER", help="The data folder (FINFLOW_DATA).")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
database_url_option = click.option(
    "--database-url",
    metavar="URL",
    help="A PostgreSQL >= 15 to use instead of the embedded one (FINFLOW_DATABASE_URL keeps it out of `ps`).",
)
port_option = click.option("--port", type=int, help="The API's port (FINFLOW_PORT) [8400, or a free one].")
ingress_option = click.option(
    "--ingress",
    metavar="KIND",
    help="Serve through caddy, haproxy or none (FINFLOW_INGRESS) [caddy if it is there].",
)
workers_option = click.option("--workers", type=int, help="API worker processes (FINFLOW_WORKERS) [cores].")
url_option = click.option(
    "--url", envvar="FINFLOW_URL", help="The API (FINFLOW_URL) [the one that runs on the data folder]."
)
key_option = click.option(
    "--idempotency-key",
    "key",
    metavar="KEY",
    help="Your name for this intent: repeated, it is done once [a fresh one].",
)
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show so many at most."
)


def api_options(command: F) -> F:
    """What every command has that asks the API: where it is, and how to print the answer."""
    return url_option(data_option(json_option(command)))


def making_options(command: F) -> F:
    """The same for a command that makes something: a shell wants to keep the new id."""
    return api_options(click.option("--id", "only_id", is_flag=True, help="Print the new id alone.")(command))


def metadata_option(words: str) -> Callable[[F], F]:
    """`--metadata NAME=VALUE`, to be repeated."""
    return click.option(
        "--metadata", metavar="NAME=VALUE", multiple=True, callback=_pairs, help=f"{words}; may be repeated."
    )


def _pairs(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, sign, _value in pairs:
        if not name or not sign:
            raise click.BadParameter("write it as NAME=VALUE", param=parameter)
    return {name: value for name, _sign, value in pairs}
