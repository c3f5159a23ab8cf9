"""`finflow generate`: a bank's history from a seed, as a file that `finflow import` reads."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

import click

from finflow.cli import echo_json
from finflow.kernel.errors import FinFlowError
from finflow.workload.model import HEADER, to_line
from finflow.workload.model import generate as generated_rows


@click.command
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed writes the same bytes.")
@click.option(
    "--accounts", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="Customer accounts."
)
@click.option(
    "--days", type=click.IntRange(1, 36_500), default=60, show_default=True, help="Days from 2026-01-01."
)
@click.option("--out", metavar="FILE", default="-", show_default=True, help="The file, or - for the output.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON (not with --out -).")
def generate(seed: int, accounts: int, days: int, out: str, as_json: bool) -> None:
    """Write a realistic bank history made from a seed."""
    if as_json and out == "-":
        raise click.UsageError("--json needs --out FILE: the rows are on standard output.")
    rows = 0
    with _opened(out) as file:
        file.write(HEADER)
        for row in generated_rows(seed, accounts, days):
            file.write(to_line(row))
            rows += 1
    if as_json:
        echo_json({"file": out, "rows": rows, "seed": seed, "accounts": accounts, "days": days})
    else:
        click.echo(f"{rows} rows of {accounts} accounts over {days} days.", err=True)
        if out != "-":
            click.echo(f"hint: finflow import {out} --mapping examples/generated.toml --verify", err=True)


def _opened(out: str) -> AbstractContextManager[IO[str]]:
    if out == "-":
        return nullcontext(sys.stdout)
    try:
        # The same bytes on every system, whatever its own line ends.
        return Path(out).open("w", encoding="ascii", newline="\n")
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{out}: {error.strerror}", "--out") from error
