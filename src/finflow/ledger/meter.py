"""What the group commit counts of itself, per batch: never more than a call or two for each."""

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from finflow.kernel.errors import FinFlowError
from finflow.ledger.book import Record
from finflow.telemetry import instruments

if TYPE_CHECKING:
    from finflow.ledger.batch import Batch

_ACCEPTED, _REFUSED, _REPLAYED, _FAILED = (
    instruments.COMMAND[outcome] for outcome in instruments.COMMAND_OUTCOMES
)


def commit(began_s: float) -> None:
    """A transaction became durable by a step that began then."""
    instruments.commit_duration.observe(perf_counter() - began_s)


def committed(batch: "Batch", records: Sequence[Record]) -> None:
    """A batch is durable: its size, how long its jobs waited, what became of its commands."""
    now_s, began_s = perf_counter(), batch.began_s
    instruments.batch_size.observe(batch.size)
    instruments.write_duration.observe(now_s - began_s)
    # Jobs that joined a batch under way did not wait for its beginning: less than nothing is nothing.
    instruments.queue_wait.observe_each([began_s - job.queued_s for job in batch.jobs])
    replayed = refused = 0
    for record in records:
        if record.replayed:
            replayed += 1
        elif record.code is not None:
            refused += 1
            instruments.REFUSAL[record.code].inc()
    _REPLAYED.add(replayed)
    _REFUSED.add(refused)
    _ACCEPTED.add(batch.size - replayed - refused)


def failed(batch: "Batch", error: FinFlowError) -> None:
    """A batch was given up; its callers get this error."""
    code = error.kind.code
    instruments.WRITE_FAILURES.bind(code).inc()
    _FAILED.add(batch.size)
    if code == "outcome_unknown":
        instruments.unknown_outcomes.add(batch.size)


def again(reason: str) -> None:
    """A batch is tried again: void, key or database."""
    instruments.RETRY[reason].inc()
