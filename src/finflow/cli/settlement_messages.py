"""`finflow settlement send` and `reconcile`: messages go in, what was matched and what was not comes out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finflow.cli import screens
from finflow.cli.connect import ask
from finflow.cli.options import api_options
from finflow.kernel.errors import EXIT_DONE, EXIT_NO, FinFlowError

if TYPE_CHECKING:
    from finflow.client.service import Client
    from finflow.client.settlement_messages import Reconciliation, TakenMessage

_ledger = click.option("--ledger", "ledger_id", metavar="LEDGER", required=True, help="Whose settlement.")
_SHOWN_BREAKS = 100


@click.command
@click.argument("file", metavar="FILE")
@_ledger
@click.option("--sender", metavar="NAME", required=True, help="The participant whose message it is.")
@click.option("--rail", metavar="NAME", help="The rail for creditors of banks that are no participants.")
@api_options
def send(file: str, ledger_id: str, sender: str, rail: str | None, **where: Any) -> int:
    """Hand over an ISO 20022 message; exit 1 if a payment of it was refused. The same again is safe."""
    content = _content(file)
    found = ask(where, lambda api: api.settlement.send_message(ledger_id, sender, content, rail=rail), _taken)
    return EXIT_NO if found.refused else EXIT_DONE


@click.command
@click.argument("files", metavar="[FILE]...", nargs=-1)
@_ledger
@click.option(
    "--sender", metavar="NAME", help="The participant whose bank wrote the files [the only nostro's]."
)
@api_options
def reconcile(files: tuple[str, ...], ledger_id: str, sender: str | None, **where: Any) -> int:
    """Hand over a bank's reports, if any, then show what was matched; exit 1 while there are breaks."""
    contents = [_content(file) for file in files]

    async def question(api: "Client") -> "Reconciliation":
        if contents:
            name = sender or await _only_sender(api, ledger_id)
            for content in contents:
                await api.settlement.send_message(ledger_id, name, content)
            await _matched(api, ledger_id)
        return await api.settlement.reconciliation(ledger_id, limit=_SHOWN_BREAKS)

    found = ask(where, question, _report)
    return EXIT_NO if found.breaks else EXIT_DONE


async def _only_sender(api: "Client", ledger_id: str) -> str:
    names = {each.participant for each in await api.settlement.nostros(ledger_id)}
    if len(names) != 1:
        raise click.UsageError(f"the ledger has nostros of {len(names)} participants: name one by --sender")
    return names.pop()


async def _matched(api: "Client", ledger_id: str, patience_s: float = 30.0) -> None:
    """Wait until the figures stand still for two seconds: a worker matches what has come."""
    import asyncio

    before, still = None, 0
    for _ in range(int(patience_s)):
        found = await api.settlement.reconciliation(ledger_id, limit=1)
        figures = (found.matched, found.breaks)
        still = still + 1 if figures == before else 0
        if still == 2 or not found.breaks:
            return
        before = figures
        await asyncio.sleep(1.0)


def _content(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{path}: {error.strerror}", "FILE") from error


def _taken(found: "TakenMessage") -> str:
    parts = [screens.fields(found, without=("refusals",))]
    if found.refusals:
        rows = [(each.place, each.end_to_end_id, each.code, each.param) for each in found.refusals]
        parts.append(screens.table(("PLACE", "END TO END", "CODE", "PARAM"), rows, frozenset({"PLACE"})))
    return "\n\n".join(parts)


def _report(found: "Reconciliation") -> str:
    share = f"{found.share_within_promise:.2%} of {found.matched + found.late} movements within 5 minutes"
    parts = [f"{share}; {found.breaks} breaks, the oldest for {found.oldest_unmatched_s:.0f} s."]
    nostros = [
        (
            each.account, each.participant, each.currency, each.matched, each.late, each.breaks,
            " ".join(f"{rule.rule}:{rule.matched}" for rule in each.rules) or None,
        )
        for each in found.nostros
    ]  # fmt: skip
    head = ("ACCOUNT", "PARTICIPANT", "CURRENCY", "MATCHED", "LATE", "BREAKS", "RULES")
    parts.append(screens.table(head, nostros, frozenset({"MATCHED", "LATE", "BREAKS"})))
    if found.items:
        rows = [
            (each.kind, each.account, each.currency, each.difference, f"{each.age_s:.0f} s", each.owner,
             each.order_id or each.line_id)
            for each in found.items
        ]  # fmt: skip
        names = ("BREAK", "ACCOUNT", "CURRENCY", "DIFFERENCE", "AGE", "OWNER", "OF")
        parts.append(screens.table(names, rows, frozenset({"DIFFERENCE", "AGE"})))
    if found.next:
        parts.append(f"These are the oldest {len(found.items)} breaks.")
    return "\n\n".join(parts)
