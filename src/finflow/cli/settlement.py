"""`finflow settlement`: messages and netting from files, which need no server; cycles of one that runs."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import msgspec

from finflow.cli import echo_json, listing, screens
from finflow.cli.connect import ask
from finflow.cli.options import api_options, json_option, limit_option
from finflow.cli.settlement_messages import reconcile, send
from finflow.kernel.errors import EXIT_DONE, EXIT_NO, FinFlowError

if TYPE_CHECKING:
    from finflow.client.service import Client
    from finflow.client.settlement import Cycle, Report
    from finflow.client.settlement_audit import Audit
    from finflow.settlement.iso20022.summary import Summary
    from finflow.settlement.netting import NettingReport, Obligation

_file = click.argument("file", metavar="FILE")
_cycle = click.argument("cycle_id", metavar="CYCLE")


@click.group
def settlement() -> None:
    """Follow settlement cycles; check payment messages, net obligations, ask for value dates."""


settlement.add_command(send)
settlement.add_command(reconcile)


@settlement.command
@_file
@json_option
def check(file: str, as_json: bool) -> int:
    """Check an ISO 20022 message of any size and say what it holds; exit 1 if it is refused."""
    from finflow.settlement.iso20022.summary import summarise  # the XML library loads only where it is used

    with ExitStack() as files:
        found = summarise(_open(file, files))
    if as_json:
        echo_json(found)
    else:
        click.echo(_message(found))
    return EXIT_DONE


def _message(found: "Summary") -> str:
    facts = [screens.fields(found, without=("totals",))]
    if found.totals:
        rows = [(each.currency, each.count, each.amount) for each in found.totals]
        facts.append(screens.table(("CURRENCY", "COUNT", "AMOUNT"), rows, frozenset({"COUNT", "AMOUNT"})))
    return "\n\n".join(facts)


@settlement.command("net")
@_file
@json_option
def net_(file: str, as_json: bool) -> int:
    """Net obligations from lines of JSON and check the report against them; exit 1 if it does not hold."""
    from finflow.settlement.netting import faults_against, net

    with ExitStack() as files:
        obligations = list(_obligations(_open(file, files)))
    report = net(obligations)
    faults = faults_against(report, obligations)
    if as_json:
        echo_json({"report": report, "faults": faults})
    else:
        click.echo(_netting(report, faults))
    return EXIT_NO if faults else EXIT_DONE


def _obligations(file: BinaryIO) -> "Iterator[Obligation]":
    from finflow.settlement.netting import Obligation

    decoder = msgspec.json.Decoder(Obligation)
    for number, line in enumerate(file, 1):
        try:
            yield decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FinFlowError("request_malformed", f"line {number}: {error}", "FILE") from error


def _netting(report: "NettingReport", faults: list[str]) -> str:
    from finflow.kernel.money import exponent_of, to_text

    def shown(minor: int, currency: str) -> str:
        return to_text(minor, exponent_of(currency) or 0)

    positions = [
        (
            each.participant,
            each.currency,
            shown(each.payable_minor, each.currency),
            shown(each.receivable_minor, each.currency),
            shown(each.net_minor, each.currency),
        )
        for each in report.positions
    ]
    totals = [
        (
            each.currency,
            each.obligations,
            shown(each.gross_minor, each.currency),
            shown(each.settled_minor, each.currency),
            shown(each.saved_minor, each.currency),
            f"{each.saved_share:.1%}",
        )
        for each in report.totals
    ]
    head = ("CURRENCY", "OBLIGATIONS", "GROSS", "SETTLED", "SAVED", "SHARE")
    money = frozenset({"PAYABLE", "RECEIVABLE", "NET", *head[1:]})
    sound = f"The report agrees with the obligations, whose digest is\n{report.obligations_digest}."
    verdict = "\n".join(faults) or sound
    return "\n\n".join(
        (
            screens.table(("PARTICIPANT", "CURRENCY", "PAYABLE", "RECEIVABLE", "NET"), positions, money),
            screens.table(head, totals, money),
            verdict,
        )
    )


@settlement.command("value-date")
@click.argument("currency")
@click.option("--at", metavar="MOMENT", help="When the payment is accepted, with its time zone [now].")
@json_option
def value_date_(currency: str, at: str | None, as_json: bool) -> int:
    """Say on which day a payment in a currency settles."""
    from finflow.settlement.calendars import cut_off_of, value_date

    cut_off = cut_off_of(currency)
    moment = _moment(at)
    found: dict[str, Any] = {
        "currency": currency,
        "accepted_at": moment,
        "value_date": value_date(moment, cut_off),
        "cut_off": f"{cut_off.time:%H:%M} {cut_off.zone}",
        "calendar": cut_off.calendar,
    }
    if as_json:
        echo_json(found)
    else:
        click.echo("\n".join(f"{name:<12} {screens.text(value)}" for name, value in found.items()))
    return EXIT_DONE


def _moment(text: str | None) -> Any:
    from datetime import datetime

    from finflow.kernel.clock import system_clock, to_datetime

    if text is None:
        return to_datetime(system_clock())
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter("write it like 2026-06-01T16:59:00+08:00", param_hint="--at") from error
    if found.tzinfo is None:
        raise click.BadParameter("the moment needs a time zone", param_hint="--at")
    return found


# --- cycles of a FinFlow that runs


@settlement.command("list")
@click.option("--ledger", "ledger_id", metavar="LEDGER", required=True, help="Whose cycles.")
@limit_option
@api_options
def list_(ledger_id: str, limit: int, **where: Any) -> int:
    """List the settlement cycles of a ledger in the order of their opening."""

    async def question(api: "Client") -> "list[Cycle]":
        found = api.settlement.cycles(ledger_id, page_size=listing.page_size(limit))
        return await listing.first(found, limit)

    ask(where, question, _cycles)
    return EXIT_DONE


@settlement.command
@_cycle
@api_options
def show(cycle_id: str, **where: Any) -> int:
    """Show a cycle: its timeline, what rails were sent, and when it goes on."""
    ask(where, lambda api: api.settlement.cycle(cycle_id), _timeline)
    return EXIT_DONE


@settlement.command
@_cycle
@api_options
def report(cycle_id: str, **where: Any) -> int:
    """Show a cycle's netting report, recounted from its orders; exit 1 if it is not sound."""
    found = ask(where, lambda api: api.settlement.report(cycle_id), _report)
    return EXIT_NO if found.faults else EXIT_DONE


@settlement.command
@click.argument("order_id", metavar="ORDER")
@api_options
def audit(order_id: str, **where: Any) -> int:
    """Show everything about one order: transactions, cycle, messages, returns, reconciliation."""
    ask(where, lambda api: api.settlement.audit(order_id), _audit)
    return EXIT_DONE


@settlement.command
@_cycle
@api_options
def run(cycle_id: str, **where: Any) -> int:
    """Have a cycle whose cut-off is over go on now; a worker of the server does it."""
    ask(where, lambda api: api.settlement.run(cycle_id), _timeline)
    return EXIT_DONE


@settlement.command
@_cycle
@api_options
def retry(cycle_id: str, **where: Any) -> int:
    """Have a failed cycle submitted again now."""
    ask(where, lambda api: api.settlement.retry(cycle_id), _timeline)
    return EXIT_DONE


def _cycles(found: "list[Cycle]") -> str:
    head = ("CYCLE", "CURRENCY", "VALUE DATE", "CUT-OFF", "STATE")
    rows = [(each.cycle_id, each.currency, each.value_date, each.cut_off_at, each.state) for each in found]
    return screens.table(head, rows)


def _timeline(found: "Cycle") -> str:
    steps = [(each.action, each.at, each.attempt or None, each.evidence) for each in found.steps]
    parts = [screens.fields(found, without=("work",))]
    if steps:
        parts.append(screens.table(("STEP", "AT", "ATTEMPT", "RESTS ON"), steps, frozenset({"ATTEMPT"})))
    if found.submissions:
        head = ("ATTEMPT", "RAIL", "MESSAGE", "ORDERS", "VERDICT", "DETAIL")
        rows = [
            (each.attempt, each.rail, each.message_id, each.orders, each.verdict, each.detail)
            for each in found.submissions
        ]
        parts.append(screens.table(head, rows, frozenset({"ATTEMPT", "ORDERS"})))
    if found.work:
        why = f"; last time: {found.work.last_error}" if found.work.last_error else ""
        parts.append(f"It goes on at {screens.text(found.work.due_at)}{why}.")
    return "\n\n".join(parts)


def _report(found: "Report") -> str:
    head = ("PARTICIPANT", "PAYABLE", "RECEIVABLE", "NET", "ORDERS")
    rows = [
        (each.participant, each.payable, each.receivable, each.net, each.obligations)
        for each in found.positions
    ]
    verdict = "\n".join(found.faults) or "The report agrees with the orders."
    named = screens.fields(found, without=("saved_share",))
    share = f"saved_share  {found.saved_share:.1%}"
    return f"{named}\n{share}\n\n{screens.table(head, rows, frozenset(head[1:]))}\n\n{verdict}"


def _audit(found: "Audit") -> str:
    parts = [screens.fields(found.order), _booked(found)]
    if found.cycle:
        steps = [(each.action, each.at, each.attempt or None, each.evidence) for each in found.cycle.steps]
        timeline = screens.table(("STEP", "AT", "ATTEMPT", "RESTS ON"), steps)
        parts.append(f"{found.cycle.cycle_id} is {found.cycle.state}.\n{timeline}")
    if found.messages:
        sent = [(each.direction, each.kind, each.message_id, each.at, each.digest) for each in found.messages]
        parts.append(screens.table(("MESSAGE", "KIND", "ID", "AT", "SHA-256"), sent))
    for each in found.movements:
        seen = f"found in {each.line_id} by {each.rule}" if each.line_id and each.rule else each.rule
        parts.append(f"{each.direction} {each.amount} on {each.account}: {seen or each.break_kind}")
    if found.returned:
        parts.append(f"It comes back, says {found.returned.source}: {found.returned.reason}")
    return "\n\n".join(parts)


def _booked(found: "Audit") -> str:
    """A line for each entry, and one for a transaction that was refused and has none."""
    head = ("TRANSACTION", "AT", "CODE", "ACCOUNT", "DIRECTION", "AMOUNT", "HELD", "BALANCE")
    rows: list[tuple[object, ...]] = []
    for booked in found.transactions:
        named = (booked.kind, booked.recorded_at, booked.code)
        lines: list[tuple[object, ...]] = [
            (e.account_id, e.direction, e.amount, e.held, e.balance) for e in booked.entries
        ]
        rows += [(*named, *line) for line in lines or [(None,) * 5]]
    return screens.table(head, rows, frozenset(head[5:]))


def _open(path: str, files: ExitStack) -> BinaryIO:
    if path == "-":
        return sys.stdin.buffer
    try:
        return files.enter_context(Path(path).open("rb"))
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{path}: {error.strerror}", "FILE") from error
