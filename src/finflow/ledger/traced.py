"""The group commit in traces: one trace a batch, linked with a span of every request that it served.

A request's own span, `ledger.submit`, is the time from its arrival in the queue to its answer. It is made
only where the request's trace is kept; its attribute `finflow.queue_wait_ms` says how much of that was
waiting for the batch before. The batch's trace holds what the database was asked.
"""

import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from finflow.telemetry import tracing
from finflow.telemetry.logs import Thrifty
from finflow.telemetry.tracing import Trace, Work

if TYPE_CHECKING:
    from finflow.ledger.batch import Batch

log = logging.getLogger(__name__)

_failures: Final = Thrifty()


def shared_root() -> Trace:
    """The root of a batch's trace."""
    return tracing.tracer().begin_for_others("ledger.group_commit")


async def traced(writing: Coroutine[Any, Any, None], batch: "Batch", ledger_no: int) -> None:
    """Write a batch as part of its trace; say once where its transaction failed."""
    root = batch.root
    # The batch was gathered while the one before was written; its own time begins with its first work.
    root.started_ns = min([tracing.now_ns(), *(span.started_ns for span in root.spans[:1])])
    # A ledger has one tenant, so whoever came first says whose lines and spans these are.
    if batch.jobs and (first := batch.jobs[0].caller) is not None:
        root.tenant = tracing.tenant_of(first)
    token = tracing.enter(root)
    began_ns = tracing.now_ns()
    try:
        await writing
    finally:
        error = _outcome(batch)
        if error is not None:
            _say(error, batch, ledger_no)
        tracing.leave(token)
        if root.recording:
            _join(root, batch, ledger_no, began_ns, error)
            tracing.tracer().finish(root, error)


def _join(root: Trace, batch: "Batch", ledger_no: int, began_ns: int, error: str | None) -> None:
    """Both sides' links and numbers. The callers' tasks run only after this, so nobody ends too early."""
    work = Work(root, "ledger.submit", began_ns, error)
    work.attributes["finflow.ledger_no"] = ledger_no
    work.serve(
        [(job.caller, job.queued_s, len(job.requests)) for job in batch.jobs if job.caller is not None]
    )
    # Jobs stand in the order of their arrival.
    waited_s = max(0.0, began_ns / 1e9 - batch.jobs[0].queued_s) if batch.jobs else 0.0
    root.attributes.update(
        {
            "finflow.ledger_no": ledger_no,
            "finflow.commands": batch.size,
            "finflow.jobs": len(batch.jobs),
            "finflow.decided_ahead": batch.head is not None,
            "finflow.queue_wait_ms.max": waited_s * 1e3,
        }
    )


def _outcome(batch: "Batch") -> str | None:
    """The code that the jobs of a failed batch were answered with; one job stands for all."""
    for job in batch.jobs[:1]:
        if job.reply.done() and not job.reply.cancelled() and (error := job.reply.exception()):
            return tracing.error_name(error)
    return None


def _say(code: str, batch: "Batch", ledger_no: int) -> None:
    """One line for a write transaction that failed: which, never what was in it."""
    allowed, silent = _failures.allow(code)
    if allowed:
        facts = {"code": code, "ledger_no": ledger_no, "commands": batch.size, "jobs": len(batch.jobs)}
        log.error("write transaction failed", extra={**facts, "unsaid_before": silent} if silent else facts)
