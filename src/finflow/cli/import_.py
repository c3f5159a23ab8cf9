"""`finflow import`: bank history from a file into a ledger, resumable, verified against its own balances."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

import click
import msgspec

from finflow.app import Config
from finflow.cli import echo_json
from finflow.cli.connect import Access, api_url
from finflow.cli.options import data_option, json_option
from finflow.cli.progress import ByteProgress
from finflow.cli.until import Stop, run
from finflow.client.service import Client
from finflow.imports import mapping as mappings
from finflow.imports.report import LineFault, Report
from finflow.imports.service import (
    DEFAULT_BATCH,
    Importer,
    bounded_lines,
    check_batch_size,
    ledger_named,
)
from finflow.kernel.errors import EXIT_DONE, EXIT_NO, FinFlowError

_SHOWN_FAULTS: Final = 100


@click.command("import")
@click.argument("file", metavar="FILE")
@click.option("--mapping", "mapping_file", metavar="MAP.toml", required=True, help="What the columns mean.")
@click.option("--verify", is_flag=True, help="Compare every balance of the file with the ledger's entries.")
@click.option("--url", help="The API to import into [the one on the data folder, or one started for this].")
@click.option("--ledger", metavar="LEDGER_ID", help="The ledger [one named like the mapping].")
@click.option("--batch-size", type=int, default=DEFAULT_BATCH, show_default=True, help="Rows in one request.")
@click.option("--errors", metavar="FILE", help="Write every bad line there as a line of JSON.")
@data_option
@json_option
def import_(file: str, mapping_file: str, as_json: bool, errors: str | None, **options: Any) -> int:
    """Import bank history from a CSV file; a second run posts nothing twice."""
    mapping = mappings.parse(_text(mapping_file))
    check_batch_size(options["batch_size"])
    reports: list[Report] = []
    with ExitStack() as files:
        source = sys.stdin.buffer if file == "-" else files.enter_context(_open_to_read(file))
        faults = FaultPrinter(files.enter_context(_open_to_write(errors)) if errors else None)

        async def work(_: Stop) -> None:
            reports.append(await _import(source, mapping, faults, options))

        run(work)
        faults.say_how_many_more()
    report = reports[0]
    if as_json:
        echo_json(report)
    else:
        click.echo(_sentences(report))
    return EXIT_DONE if report.clean() else EXIT_NO


async def _import(
    source: BinaryIO, mapping: mappings.Mapping, faults: "FaultPrinter", options: dict[str, Any]
) -> Report:
    config = Config.load({"data": options["data"]})
    async with (
        api_url(options["url"], config) as url,
        _ledger(url, config, options["ledger"], mapping.name) as (api, ledger_id),
    ):
        click.echo(f"Importing into {ledger_id} at {url} ...", err=True)
        with ByteProgress("Importing", source) as progress:
            importer = Importer(
                api,
                ledger_id,
                mapping,
                batch_size=options["batch_size"],
                verify=options["verify"],
                on_fault=faults.add,
            )
            return await importer.run(progress.counted(bounded_lines(source)))


@asynccontextmanager
async def _ledger(
    url: str, config: Config, ledger_id: str | None, name: str
) -> AsyncIterator[tuple[Client, str]]:
    """A client that may post into the ledger, and its id; one of this name is opened if there is none."""
    access = Access(url, config)
    given, local = access.given(), access.local()
    if given is not None or local is None:
        async with Client(url, token=given) as api:
            found = None if ledger_id else await ledger_named(api, name) or await api.create_ledger(name)
            yield api, found.ledger_id if found else str(ledger_id)
        return
    async with Client(url, token=local.operator()) as platform:
        found = await (platform.ledger(ledger_id) if ledger_id else ledger_named(platform, name))
        tenant_id = found.tenant_id if found else (await platform.create_tenant("import")).tenant_id
    async with Client(url, token=local.of(tenant_id)) as api:
        yield api, (found or await api.create_ledger(name)).ledger_id


class FaultPrinter:
    """Names bad lines on standard error, the first hundred of them, and all of them in a file if given."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file
        self._count = 0

    def add(self, fault: LineFault) -> None:
        """Name one line."""
        self._count += 1
        if self._file is not None:
            self._file.write(msgspec.json.encode(fault) + b"\n")
        if self._count <= _SHOWN_FAULTS:
            click.echo(f"line {fault.line}: {fault.code}: {fault.reason}", err=True)

    def say_how_many_more(self) -> None:
        """Say how many lines were not named."""
        more = self._count - _SHOWN_FAULTS
        if more > 0:
            hint = "" if self._file else "; `--errors FILE` writes them all"
            click.echo(f"... and {more} more lines{hint}", err=True)


def _sentences(report: Report) -> str:
    return "\n".join(_facts(report))


def _facts(report: Report) -> Iterator[str]:
    yield (
        f"{report.rows:,} rows: {report.posted:,} posted, {report.replayed:,} there before, "
        f"{report.refused:,} refused, {report.broken:,} broken."
    )
    yield f"{report.rounding_legs:,} rounding legs; {report.unchained:,} rows off the chain of balances."
    yield f"{report.seconds:.1f} s, {report.transactions_per_s:,.0f} transactions/s."
    if report.balances_checked:
        yield f"{report.balances_equal:,} of {report.balances_checked:,} balances are equal to the file's."


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FinFlowError("file_unreadable", f"{path}: {error}", "--mapping") from error


def _open_to_read(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{path}: {error.strerror}", "FILE") from error


def _open_to_write(path: str) -> IO[bytes]:
    try:
        return Path(path).open("wb")
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{path}: {error.strerror}", "--errors") from error
