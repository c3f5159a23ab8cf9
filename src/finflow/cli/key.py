"""`finflow key`: the keys that sign access tokens, on the folder itself; the workers see what changes."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from finflow.cli import echo_json
from finflow.cli.options import data_option, json_option
from finflow.kernel.errors import EXIT_DONE

if TYPE_CHECKING:
    from finflow.identity.keys import KeyFolder


@click.group
def key() -> None:
    """List, rotate and revoke the keys that sign access tokens."""


@key.command("list")
@data_option
@json_option
def list_(as_json: bool, **flags: Any) -> int:
    """List the keys, and until when each is published."""
    rows = _rows(_folder(flags))
    if as_json:
        echo_json(rows)
        return EXIT_DONE
    for row in rows:
        click.echo(f"{row['kid']}  {row['state']:<9}  published until {row['published_until'] or 'replaced'}")
    return EXIT_DONE


@key.command
@data_option
@json_option
def rotate(as_json: bool, **flags: Any) -> int:
    """Publish a new key, which signs two minutes later; the former stays until its last token has expired."""
    from finflow.identity.keys import LEAD_S

    fresh = _folder(flags).rotate(time.time())
    signs_at = _time(fresh.published_at_s + LEAD_S)
    if as_json:
        echo_json({"kid": fresh.kid, "signs_at": signs_at})
    else:
        click.echo(fresh.kid)
    click.echo(f"It signs from {signs_at} on.", err=True)
    return EXIT_DONE


@key.command
@click.argument("kid")
@click.option("--yes", is_flag=True, help="Do not ask.")
@data_option
def revoke(kid: str, yes: bool, **flags: Any) -> int:
    """Take a key out at once: every token that it signed is refused from then on."""
    if not yes:
        click.confirm(f"Every token that {kid} signed dies now. Go on?", abort=True, err=True)
    folder = _folder(flags)
    folder.revoke(kid, time.time())
    click.echo(f"Removed {kid}.", err=True)
    return EXIT_DONE


def _folder(flags: dict[str, Any]) -> "KeyFolder":
    from pathlib import Path

    from finflow.app import Config
    from finflow.identity.keys import KeyFolder
    from finflow.stack.folder import DataFolder

    config = Config.load(flags)
    state = DataFolder(config.data).read_state()
    return KeyFolder(Path(state.keys) if state and state.keys else config.keys_folder)


def _rows(folder: "KeyFolder") -> list[dict[str, Any]]:
    from finflow.identity.keys import plan

    now_s = time.time()
    keys = folder.load()
    planned = plan(keys, now_s)
    signing = planned.signing.kid if planned.signing else None
    rows = []
    for each in reversed(keys):
        until_s = planned.until_s[each.kid]
        if each.kid == signing:
            state = "signing"
        else:
            state = "next" if until_s == float("inf") else "former" if now_s < until_s else "expired"
        until = None if until_s == float("inf") else _time(until_s)
        published = _time(each.published_at_s)
        rows.append({"kid": each.kid, "state": state, "published_at": published, "published_until": until})
    return rows


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
