"""`finflow db`: change a schema in phases, for any PostgreSQL and any folder of SQL. Thin over finflow.db."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from finflow.cli import echo_json
from finflow.cli.options import data_option, database_url_option, json_option
from finflow.kernel.errors import EXIT_DONE, EXIT_NO, FinFlowError

if TYPE_CHECKING:
    from finflow.app import Config
    from finflow.db.change import SchemaChange
    from finflow.db.contracting import Permit

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

folder_option = click.option(
    "--folder",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder of SQL files [FinFlow's own].",
)
change_argument = click.argument("change", required=False, metavar="[CHANGE]")
dry_run_option = click.option("--dry-run", is_flag=True, help="Do it and take it back; change nothing.")


def _options(command: F) -> F:
    """What every verb has that asks a database."""
    return data_option(database_url_option(folder_option(change_argument(json_option(command)))))


@click.group
def db() -> None:
    """Change a schema in phases: plan, lint, expand, backfill, verify, contract."""


@asynccontextmanager
async def _url(config: "Config") -> AsyncIterator[str]:
    from finflow.app import traced
    from finflow.stack.folder import DataFolder
    from finflow.stack.service import database

    state = DataFolder(config.data).read_state()
    # The state file masks the password of a server that is not ours.
    if config.database_url is None and state is not None and state.postgres is not None:
        yield state.database_url
        return
    async with traced(config), database(config.data, config.database_url) as url:
        yield url


def _run(
    where: dict[str, Any], work: "Callable[[SchemaChange], Awaitable[T]]", pace: dict[str, Any] | None = None
) -> T:
    """Opens the database that the options name, and does one thing to its schema."""
    from finflow.app import Config
    from finflow.db.change import SchemaChange
    from finflow.db.migrations import PACKAGED
    from finflow.db.phases import ignored
    from finflow.db.throttle import Pace

    if others := ignored(where["folder"] or PACKAGED):
        click.echo(f"Left out, not being named NNNN_name.PHASE.sql: {', '.join(others[:5])}", err=True)
    config = Config.load({"data": where["data"], "database_url": where["database_url"]})

    async def opened() -> T:
        async with _url(config) as url:
            folder = where["folder"] or PACKAGED
            change = SchemaChange(url, folder, change=where["change"], pace=Pace(**(pace or {})))
            return await work(change)

    return asyncio.run(opened())


def _told_names(where: dict[str, Any], verb: str, names: list[str], dry_run: bool, nothing: str) -> int:
    if where["as_json"]:
        echo_json({verb: names, "dry_run": dry_run})
        return EXIT_DONE
    for name in names:
        click.echo(f"{'would be ' if dry_run else ''}{verb} {name}")
    if not names:
        click.echo(nothing, err=True)
    return EXIT_DONE


@db.command
@_options
def plan(**where: Any) -> int:
    """Say what would be done in which phase, with locks and table sizes."""
    from finflow.cli import db_screens

    planned = _run(where, lambda change: change.plan())
    if where["as_json"]:
        echo_json({"steps": planned})
    else:
        click.echo(db_screens.plan(planned))
    return EXIT_DONE


@db.command
@_options
def status(**where: Any) -> int:
    """Show every step: pending, begun, paused or done, and how far backfills are."""
    from finflow.cli import db_screens

    statuses = _run(where, lambda change: change.status())
    if where["as_json"]:
        echo_json({"steps": statuses})
    else:
        click.echo(db_screens.status(statuses))
    return EXIT_DONE


@db.command
@dry_run_option
@_options
def expand(dry_run: bool, **where: Any) -> int:
    """Add what the new release needs; the one that runs does not mind."""
    names = _run(where, lambda change: change.expand(dry_run=dry_run))
    return _told_names(where, "applied", names, dry_run, "Nothing is left to expand.")


@db.command
@click.option(
    "--share",
    type=click.FloatRange(min=0.01, max=1),
    default=0.15,
    show_default=True,
    help="Work this part of the time; 1 is full speed.",
)
@click.option(
    "--batch-ms",
    type=click.FloatRange(min=1),
    default=5,
    show_default=True,
    help="Aim for batches this long.",
)
@click.option(
    "--max-lag-s",
    type=click.FloatRange(min=0.1),
    default=5,
    show_default=True,
    help="Rest while a replica is farther behind.",
)
@click.option("--pause", is_flag=True, help="Stop backfills that run, wherever they run.")
@click.option("--resume", is_flag=True, help="Let paused backfills go on.")
@click.option("--mended", is_flag=True, help="Go on with a file that was changed after it failed.")
@dry_run_option
@_options
def backfill(
    share: float,
    batch_ms: float,
    max_lag_s: float,
    pause: bool,
    resume: bool,
    mended: bool,
    dry_run: bool,
    **where: Any,
) -> int:
    """Fill in what expand has made room for, in keyed batches; interrupted, it goes on where it was."""
    if pause and resume:
        raise click.UsageError("--pause and --resume exclude each other.")
    if pause or resume:
        names = _run(where, lambda change: change.pause(pause))
        word = "paused" if pause else "resumed"
        return _told_names(where, word, names, False, f"No backfill was there to be {word}.")
    pace = {"share": share, "batch_ms": batch_ms, "max_lag_s": max_lag_s}
    names = _run(where, lambda change: _backfilled(change, mended, dry_run), pace)
    return _told_names(where, "backfilled", names, dry_run, "Nothing is left to backfill.")


async def _backfilled(change: "SchemaChange", mended: bool, dry_run: bool) -> list[str]:
    from finflow.cli.db_screens import BackfillProgress

    if mended and not dry_run:
        await change.adopt()
    with BackfillProgress() as progress:
        return await change.backfill(progress.told, dry_run=dry_run)


@db.command
@_options
def verify(**where: Any) -> int:
    """Ask the verify files whether every backfill is whole; exit 1 if one is not."""
    from finflow.cli import db_screens

    findings = _run(where, lambda change: change.verify())
    held = all(each.held for each in findings)
    if where["as_json"]:
        echo_json({"held": held, "findings": findings})
    else:
        click.echo(db_screens.verified(findings))
    return EXIT_DONE if held else EXIT_NO


@db.command
@click.option("--service", metavar="NAME", help="Ask the decision log of this service's rollout.")
@click.option(
    "--at-full", is_flag=True, help="You say that the new release has all traffic, for long enough."
)
@click.option(
    "--quiet-s",
    type=click.FloatRange(min=0),
    default=3600,
    show_default=True,
    help="How long all traffic has to have been there.",
)
@click.option(
    "--old-release",
    metavar="TEXT",
    default="",
    help="What application_name says of the old release's sessions.",
)
@click.option(
    "--ignore-application",
    "ignored",
    metavar="NAME",
    multiple=True,
    help="Sessions that do no harm; may be repeated.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@dry_run_option
@_options
def contract(
    service: str | None,
    at_full: bool,
    quiet_s: float,
    old_release: str,
    ignored: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    **where: Any,
) -> int:
    """Take away what only the old release used. There is no way back from here."""
    from finflow.app import Config
    from finflow.app.schema_check import full_since
    from finflow.db.contracting import Permit

    since = full_since(Config.load({"data": where["data"]}).data, service) if service else None
    permit = Permit(since, at_full, quiet_s, old_release, ignored)
    if not (yes or dry_run):
        click.confirm("Take away what only the old release used?", abort=True, err=True)
    names = _run(where, lambda change: _contracted(change, permit, dry_run))
    return _told_names(where, "contracted", names, dry_run, "Nothing is left to contract.")


async def _contracted(change: "SchemaChange", permit: "Permit", dry_run: bool) -> list[str]:
    if not await change.sees_sessions():
        click.echo(
            "This user may not see others' sessions, so whether the old release is still connected is"
            " unknown; grant it pg_read_all_stats.",
            err=True,
        )
    return await change.contract(permit, dry_run=dry_run)


@db.command
@click.argument("places", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "sarif"]), default="text", show_default=True
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here.")
@click.option("--notes", is_flag=True, help="Show notes too: what the runner does by itself, and taste.")
@click.option("--waived", is_flag=True, help="Show what is waived, with its reason.")
@folder_option
@json_option
def lint(
    places: tuple[Path, ...],
    form: str,
    output: Path | None,
    notes: bool,
    waived: bool,
    folder: Path | None,
    as_json: bool,
) -> int:
    """Lint folders and files of SQL [FinFlow's own]; exit 1 if an error stands unwaived."""
    import msgspec

    from finflow.db.lint import report, service
    from finflow.db.migrations import PACKAGED

    found = service.lint([_near(each) for each in places or (folder or PACKAGED,)])
    if as_json or form == "json":
        text = msgspec.json.encode(report.as_json(found)).decode()
    elif form == "sarif":
        text = msgspec.json.encode(report.sarif(found)).decode()
    else:
        text = report.shown(found, notes, waived)
    if output is None:
        click.echo(text)
    else:
        _write(output, text)
        click.echo(report.summary(found), err=True)
    return EXIT_NO if found.refused else EXIT_DONE


def _near(path: Path) -> Path:
    """The path as it is seen from here, so that reports name files as a person would."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path


def _write(output: Path, text: str) -> None:
    fresh = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        fresh.write_text(text + "\n")
        fresh.replace(output)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise FinFlowError("file_unreadable", f"{output}: {error.strerror}") from error
