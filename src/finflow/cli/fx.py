"""`finflow fx`: rates, quotes, conversions, positions. Thin over the client."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from finflow.cli import listing, screens
from finflow.cli.connect import ask
from finflow.cli.options import api_options, key_option, limit_option, making_options
from finflow.kernel.errors import EXIT_DONE

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import TextIO

    from finflow.client.fx import FoundRate, Positions, Rate
    from finflow.client.service import Client
    from finflow.imports.rates import Wanted

_ledger = click.option(
    "--ledger", "ledger_id", metavar="LEDGER", required=True, help="Whose rates and books."
)
_base = click.argument("base", metavar="BASE")
_quote = click.argument("quote", metavar="QUOTE")


@click.group
def fx() -> None:
    """Push and find rates, quote, convert, show positions."""


# --- rates


@fx.command
@_base
@_quote
@_ledger
@click.option("--at", metavar="MOMENT", help="The rate that held then [now].")
@api_options
def rate(base: str, quote: str, ledger_id: str, at: str | None, **where: Any) -> int:
    """Find the rate from BASE to QUOTE: given, inverse, or through a pivot."""
    ask(where, lambda api: api.fx.rate(ledger_id, base, quote, at=at), _found)
    return EXIT_DONE


@fx.command
@_base
@_quote
@_ledger
@limit_option
@api_options
def rates(base: str, quote: str, ledger_id: str, limit: int, **where: Any) -> int:
    """List the rates of a pair, newest first."""

    async def question(api: "Client") -> "list[Rate]":
        found = api.fx.rates(ledger_id, base, quote, page_size=listing.page_size(limit))
        return await listing.first(found, limit)

    ask(where, question, _rates)
    return EXIT_DONE


@fx.command
@_base
@_quote
@click.argument("value", metavar="RATE")
@_ledger
@click.option("--source", default="manual", show_default=True, help="Who says so.")
@click.option("--observed-at", metavar="MOMENT", help="From when on it holds [now].")
@click.option("--valid-until", metavar="MOMENT", help="When it is stale [a day later].")
@making_options
def push(
    base: str, quote: str, value: str, ledger_id: str, source: str, observed_at: str | None,
    valid_until: str | None, **where: Any,
) -> int:  # fmt: skip
    """Push a rate: one BASE is worth RATE of QUOTE."""

    async def question(api: "Client") -> "Rate":
        from finflow.client.fx import NewRate

        new = NewRate(base, quote, value, source, observed_at or datetime.now(UTC), valid_until)
        [kept] = await api.fx.push_rates(ledger_id, [new])
        return kept

    ask(where, question, screens.fields)
    return EXIT_DONE


@fx.command("import")
@click.argument("file", metavar="[FILE]", required=False)
@_ledger
@click.option(
    "--ecb", is_flag=True, help="The ECB's history, which the extra `fx` installs, instead of a FILE."
)
@click.option("--from", "first", metavar="DATE", help="Only from this day on.")
@click.option("--until", "last", metavar="DATE", help="Only until this day, which is included.")
@click.option("--currencies", metavar="USD,SGD,...", help="Only these [all that accounts can hold].")
@click.option(
    "--valid-for-days", type=click.IntRange(1, 366), default=5, show_default=True, help="Of the ECB's."
)
@click.option("--dry-run", is_flag=True, help="Read and count, send nothing.")
@api_options
def import_(file: str | None, ledger_id: str, ecb: bool, dry_run: bool, **options: Any) -> int:
    """Import rates from a CSV file or the ECB's history; a second run adds nothing twice."""
    if bool(file) == ecb:
        raise click.UsageError("Name a FILE, or --ecb.")

    async def question(api: "Client") -> "dict[str, Any]":
        from finflow.client.fx import RATES_AT_ONCE
        from finflow.imports.rates import read

        sent, seen = 0, set[str]()
        with _opened(file) as lines:
            found = read(lines, _wanted(options))
            while batch := list(islice(found, RATES_AT_ONCE)):
                if not dry_run:
                    await api.fx.push_rates(ledger_id, batch)
                sent += len(batch)
                seen |= {code for each in batch for code in (each.base, each.quote)}
        return {"rates": sent, "currencies": sorted(seen), "sent": not dry_run}

    ask(options, question, _imported)
    return EXIT_DONE


def _opened(file: str | None) -> "AbstractContextManager[TextIO]":
    from finflow.imports import rates as files

    return files.open_file(file or files.ecb_file())


def _wanted(options: dict[str, Any]) -> "Wanted":
    from finflow.imports.rates import Wanted

    named = options["currencies"]
    # Every rate of the ECB's has the euro on one side, so naming the other is enough.
    currencies = None if named is None else frozenset(code.strip() for code in named.split(",")) | {"EUR"}
    return Wanted(
        _date(options["first"], "--from"), _date(options["last"], "--until"), currencies,
        options["valid_for_days"],
    )  # fmt: skip


def _date(text: str | None, option: str) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"{option} is a date like 2026-01-31.") from error


# --- quotes and conversions


@fx.command
@click.argument("sell", metavar="SELL")
@click.argument("buy", metavar="BUY")
@_ledger
@click.option("--sell-amount", metavar="AMOUNT", help="How much to sell.")
@click.option("--buy-amount", metavar="AMOUNT", help="How much to buy; give one of the two.")
@click.option("--spread", default="0", show_default=True, help='The part the bank keeps: "0.005" is 0.5 %.')
@click.option("--valid-for-s", type=click.IntRange(1, 86_400), default=60, show_default=True, help="Seconds.")
@key_option
@making_options
def quote(
    sell: str, buy: str, ledger_id: str, sell_amount: str | None, buy_amount: str | None, spread: str,
    valid_for_s: int, key: str | None, **where: Any,
) -> int:  # fmt: skip
    """Fix both amounts of a conversion from SELL to BUY for a while."""
    if (sell_amount is None) == (buy_amount is None):
        raise click.UsageError("Give one of --sell-amount and --buy-amount.")
    ask(
        where,
        lambda api: api.fx.quote(
            ledger_id, sell, buy, sell_amount=sell_amount, buy_amount=buy_amount, spread=spread,
            valid_for_s=valid_for_s, key=key,
        ),
        screens.fields,
    )  # fmt: skip
    return EXIT_DONE


@fx.command
@click.argument("quote_id", metavar="QUOTE")
@api_options
def show(quote_id: str, **where: Any) -> int:
    """Show a quote, and whether it was used."""
    ask(where, lambda api: api.fx.read_quote(quote_id), screens.fields)
    return EXIT_DONE


@fx.command
@click.argument("quote_id", metavar="QUOTE")
@click.option("--from", "source", metavar="ACCOUNT", required=True, help="Pays what is sold.")
@click.option("--to", metavar="ACCOUNT", required=True, help="Gets what is bought.")
@key_option
@making_options
def convert(quote_id: str, source: str, to: str, key: str | None, **where: Any) -> int:
    """Convert by a quote, once, in one transaction."""
    ask(where, lambda api: api.fx.convert(quote_id, source, to, key=key), screens.transaction)
    return EXIT_DONE


@fx.command
@_ledger
@api_options
def positions(ledger_id: str, **where: Any) -> int:
    """Show what conversions left on the bank's own accounts."""
    ask(where, lambda api: api.fx.positions(ledger_id), _positions)
    return EXIT_DONE


# --- screens


def _found(found: "FoundRate") -> str:
    return f"{screens.fields(found)}\n\n{_rates(found.via)}"


def _rates(found: "Sequence[Rate] | list[Rate]") -> str:
    head = ("BASE", "QUOTE", "RATE", "SOURCE", "OBSERVED", "VALID UNTIL", "ID")
    rows = [
        (each.base, each.quote, each.rate, each.source, each.observed_at, each.valid_until, each.rate_id)
        for each in found
    ]
    return screens.table(head, rows, frozenset({"RATE"}))


def _imported(found: dict[str, Any]) -> str:
    verb = "sent" if found["sent"] else "read, none sent"
    word = "rate" if found["rates"] == 1 else "rates"
    return f"{found['rates']:,} {word} of {len(found['currencies'])} currencies {verb}."


def _positions(found: "Positions") -> str:
    head = ("CURRENCY", "POSITION", "SPREAD INCOME", "ROUNDING INCOME")
    rows = [
        (each.currency, each.position, each.spread_income, each.rounding_income) for each in found.positions
    ]
    return screens.table(head, rows, frozenset(head[1:]))
