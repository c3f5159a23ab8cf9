"""What the journal says of a command, as the answer to the request that sent it."""

from collections.abc import Callable

from finflow.api.answers import Answer, created
from finflow.api.decoding import HttpRequest
from finflow.api.identity import caller_of
from finflow.api.measured import name_tenant
from finflow.api.problems import problem, request_id_of
from finflow.api.state import ledger_of
from finflow.kernel.errors import FinFlowError
from finflow.ledger.book import Record
from finflow.ledger.commands import Command, Request, TransactionCommand


async def submit(request: HttpRequest, ledger_id: str, key: str, command: Command) -> Record:
    """Decide one command and make it durable."""
    await name_tenant(request, ledger_id)
    [record] = await ledger_of(request).submit(ledger_id, [Request(key, command, caller_of(request))])
    return record


async def book(request: HttpRequest, ledger_id: str, key: str, command: TransactionCommand) -> Answer:
    """Submit a command that moves money: 201 with its transaction, or the problem that refused it."""
    record = await submit(request, ledger_id, key, command)
    if record.code is not None:
        return refused(request, record)
    return created(await ledger_of(request).show(ledger_id, record), record.replayed)


def answer(request: HttpRequest, record: Record, show: Callable[[Record], object], status: int) -> Answer:
    """Any other command's answer: `status` with what `show` makes of the record, or the problem."""
    if record.code is not None:
        return refused(request, record)
    shown = created(show(record), record.replayed)
    shown.status = status
    return shown


def refused(request: HttpRequest, record: Record) -> Answer:
    """The problem that a refusal is, the same each time but for the request's id."""
    error = FinFlowError(record.code or "internal", None, record.param)
    return problem(error, request_id_of(request), record.replayed)
