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
    from finflow.ledger.batch import Batch, Job

log = logging.getLogger(__name__)

_failures: Final = Thrifty()
_SUBMIT: Final = "ledger.submit"


def shared_root() -> Trace:
    """The root of a batch's trace."""
    return tracing.tracer().begin_for_others("ledger.group_commit")


async def traced(writing: Coroutine[Any, Any, None], batch: "Batch", ledger_no: int) -> None:
    """Write a batch as part of its trace; say once where its transaction failed."""
    root, began_ns = batch.root, tracing.now_ns()
    # The batch was gathered while the one before was written; its own time begins with its first work.
    root.started_ns = root.spans[0].started_ns if root.spans else began_ns
    # A ledger has one tenant, so whoever came first says whose lines and spans these are.
    if batch.jobs and (first := batch.jobs[0].caller) is not None:
        root.tenant = tracing.tenant_of(first)
    token = tracing.enter(root)
    try:
        await writing
    finally:
        error = None if batch.failure is None else tracing.error_name(batch.failure)
        if error is not None:
            _say(error, batch, ledger_no)
        tracing.leave(token)
        if root.recording:
            _join(root, batch, ledger_no, began_ns, error)
            tracing.tracer().finish(root, error)


def gave_up(job: "Job", batch: "Batch", ledger_no: int, error: BaseException) -> None:
    """A caller goes before it is answered: if its trace is kept, it says what it waited for until now.

    That is its batch, or where it has none yet, the one before it, which is kept with it when it ends.
    """
    if job.caller is not None and batch.root.recording:
        began_ns = int(batch.began_s * 1e9) or tracing.now_ns()
        said: tracing.Attributes = {"finflow.ledger_no": ledger_no}
        work = Work(batch.root, _SUBMIT, began_ns, tracing.error_name(error), said)
        work.serve([(job.caller, job.queued_s, len(job.requests))])


def _join(root: Trace, batch: "Batch", ledger_no: int, began_ns: int, error: str | None) -> None:
    """Both sides' links and numbers. The callers' tasks run only after this, so nobody ends too early."""
    jobs = batch.jobs
    Work(root, _SUBMIT, began_ns, error, {"finflow.ledger_no": ledger_no}).serve(
        [(job.caller, job.queued_s, len(job.requests)) for job in jobs if job.caller is not None]
    )
    # Jobs stand in the order of their arrival.
    waited_ms = max(0.0, began_ns / 1e6 - jobs[0].queued_s * 1e3) if jobs else 0.0
    root.attributes = {
        "finflow.ledger_no": ledger_no,
        "finflow.commands": batch.size,
        "finflow.jobs": len(jobs),
        "finflow.decided_ahead": batch.head is not None,
        "finflow.queue_wait_ms.max": waited_ms,
    }


def _say(code: str, batch: "Batch", ledger_no: int) -> None:
    """One line for a write transaction that failed: which, never what was in it."""
    allowed, silent = _failures.allow(code)
    if allowed:
        facts = {"code": code, "ledger_no": ledger_no, "commands": batch.size, "jobs": len(batch.jobs)}
        log.error("write transaction failed", extra={**facts, "unsaid_before": silent} if silent else facts)
