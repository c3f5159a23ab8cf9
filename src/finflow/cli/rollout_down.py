"""`finflow rollout down`: what rollouts of a service have left running, stopped for good."""

import click

from finflow.cli import echo_json
from finflow.cli.options import data_option, json_option
from finflow.cli.rollout import place, service_argument
from finflow.kernel.errors import EXIT_DONE


@click.command
@service_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be stopped.")
@data_option
@json_option
def down(service: str | None, yes: bool, dry_run: bool, data: str | None, as_json: bool) -> int:
    """Stop the router and every process that rollouts of a service have started; the log stays."""
    import asyncio

    import msgspec

    from finflow.app import rollout_end

    place_ = place(data, service)
    found = rollout_end.ends(place_)
    what = ", ".join([*(["the router"] if found.router else []), *found.releases]) or "nothing"
    if not dry_run:
        if not yes:
            click.confirm(f"Stop {what} of {place_.name}? Nobody is served then.", abort=True, err=True)
        asyncio.run(rollout_end.down(place_))
    if as_json:
        echo_json({"service": place_.name, "stopped": not dry_run, **msgspec.to_builtins(found)})
    else:
        click.echo(f"{place_.name}: {'would stop' if dry_run else 'stopped'} {what}.")
    return EXIT_DONE
