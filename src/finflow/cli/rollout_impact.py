"""`finflow rollout impact`: whom and what a release touched, listed and exportable."""

import asyncio
import csv
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from finflow.cli import echo_json
from finflow.cli.options import data_option, database_url_option, json_option
from finflow.kernel.errors import EXIT_DONE, FinFlowError

if TYPE_CHECKING:
    from finflow.rollout.ports import Impact

_FORMATS: Final = (".jsonl", ".csv")
COLUMNS: Final = (
    "transaction_id", "ledger_id", "seq", "recorded_at", "kind", "caller", "customers", "money",
)  # fmt: skip


def _export_path(_: click.Context, parameter: click.Parameter, value: str | None) -> Path | None:
    if value is None:
        return None
    path = Path(value)
    if path.suffix not in _FORMATS:
        raise click.BadParameter(f"its name ends with {' or '.join(_FORMATS)}", param=parameter)
    return path


@click.command
@click.argument("release", metavar="RELEASE")
@click.option("--since", metavar="MOMENT", required=True, help="The first moment, like 2026-12-24T12:00:00Z.")
@click.option("--until", metavar="MOMENT", help="The moment after the last [now].")
@click.option(
    "--export",
    metavar="FILE",
    callback=_export_path,
    help="Write each transaction to FILE.jsonl or FILE.csv.",
)
@data_option
@database_url_option
@json_option
def impact(
    release: str, since: str, until: str | None, export: Path | None, as_json: bool, **flags: Any
) -> int:
    """Show which customers, transactions and money RELEASE touched."""
    from datetime import UTC, datetime

    until = until or datetime.now(UTC).isoformat().replace("+00:00", "Z")
    found, written = asyncio.run(_impact(flags, (release, since, until), export))
    if as_json:
        told: dict[str, Any] = {"release": release, "since": since, "until": until}
        told |= {"customers": found.customers, "transactions": found.transactions, "money": dict(found.money)}
        echo_json(told if export is None else {**told, "exported": written})
    else:
        _print(release, since, until, found)
    if export is not None:
        click.echo(f"{written} transactions are in {export}.", err=True)
    return EXIT_DONE


def _print(release: str, since: str, until: str, found: "Impact") -> None:
    click.echo(f"release       {release}")
    click.echo(f"from          {since}")
    click.echo(f"until         {until}")
    click.echo(f"customers     {found.customers:,}")
    click.echo(f"transactions  {found.transactions:,}")
    for currency, amount in found.money.items():
        click.echo(f"money         {amount} {currency}")


async def _impact(
    flags: Mapping[str, Any], asked: tuple[str, str, str], export: Path | None
) -> "tuple[Impact, int]":
    from finflow.app import Config
    from finflow.app.impact import blast_radius
    from finflow.shadow.impact import parsed

    # Before anything is started: a moment that is none needs no database.
    for text in asked[1:]:
        parsed(text)
    async with blast_radius(Config.load(flags)) as radius:
        found = await radius.impact(*asked)
        written = 0 if export is None else await _exported(radius.listed(*asked), export)
    return found, written


async def _exported(rows: AsyncIterator[Mapping[str, Any]], path: Path) -> int:
    """Write a file that is whole or not there, for its owner alone: it names customers."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            written = await (_json_lines if path.suffix == ".jsonl" else _csv)(rows, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise FinFlowError("export_failed", f"{path}: {error.strerror}", "--export") from error
    finally:
        fresh.unlink(missing_ok=True)
    return written


async def _json_lines(rows: AsyncIterator[Mapping[str, Any]], file: TextIO) -> int:
    import msgspec

    written = 0
    async for row in rows:
        file.write(msgspec.json.encode(row).decode() + "\n")
        written += 1
        _progress(written)
    return written


async def _csv(rows: AsyncIterator[Mapping[str, Any]], file: TextIO) -> int:
    """One line a transaction; several customers, or currencies, stand in one field, a space between."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    written = 0
    async for row in rows:
        money = " ".join(f"{amount} {currency}" for currency, amount in row["money"].items())
        told = {**row, "customers": " ".join(row["customers"]), "money": money}
        writer.writerow([_harmless(str(told[name])) for name in COLUMNS])
        written += 1
        _progress(written)
    return written


def _harmless(text: str) -> str:
    """A field that a spreadsheet would run as a formula begins with an apostrophe."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _progress(written: int) -> None:
    if written % 10_000 == 0 and sys.stderr.isatty():
        click.echo(f"\r{written:,} transactions", err=True, nl=False)
