"""What waits to be written: jobs of callers, and the batch that one database transaction makes of them."""

import asyncio
from typing import Final, NamedTuple

from finflow.ledger.book import Head, Record
from finflow.ledger.commands import MOVES_MONEY, Request
from finflow.ledger.store import Packed
from finflow.ledger.traced import shared_root
from finflow.telemetry.tracing import Span

# Commands decided between two looks at the event loop: about a millisecond.
SLICE: Final = 128


class Job(NamedTuple):
    """Requests of one caller that are answered together; `atomic` decides them all or nothing."""

    requests: list[Request]
    atomic: bool
    reply: "asyncio.Future[list[Record]]"
    queued_s: float = 0.0
    span: "Span | None" = None

    def slices(self) -> list[list[Request]]:
        """Parts that are decided at one go: all of a group, all of a job that repeats a key, else a few."""
        if self.atomic or len({request.key for request in self.requests}) < len(self.requests):
            return [self.requests]
        return [self.requests[i : i + SLICE] for i in range(0, len(self.requests), SLICE)]


class Batch:
    """Jobs for one database transaction, and what was decided of them ahead, on the book of `epoch`."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.root = shared_root()
        self.size = 0
        # Only transactions: nothing that another session would have to see committed to check its rows.
        self.money_only = True
        self.has_head = False
        self.committing = False
        self.began_s = 0.0
        self.restart(-1, 0)

    def restart(self, epoch: int, base_seq: int) -> None:
        """Nothing is decided yet; what will be starts from `base_seq`."""
        self.epoch = epoch
        self.base_seq = base_seq
        self.replies: list[list[Record]] = []
        self.packed: list[Packed] = []
        self.head: Head | None = None

    def add(self, job: Job) -> None:
        """One more job, undecided: so is the batch."""
        self.jobs.append(job)
        self.size += len(job.requests)
        self.money_only = self.money_only and all(isinstance(r.command, MOVES_MONEY) for r in job.requests)
        self.head = None

    def take_over(self, other: "Batch") -> None:
        """The jobs of a batch that nobody has begun to write become jobs of this one."""
        for job in other.jobs:
            self.add(job)
        # A trace that decisions were made on the book and are void: it must be read anew.
        self.packed += other.packed
        other.jobs, other.size = [], 0
        other.restart(-1, 0)

    def requests(self) -> list[Request]:
        """All requests in the order in which they are decided."""
        return [request for job in self.jobs for request in job.requests]

    def succeed(self, replies: list[list[Record]]) -> None:
        """Every job gets its own records."""
        for job, reply in zip(self.jobs, replies, strict=True):
            if not job.reply.done():
                job.reply.set_result(reply)

    def fail(self, error: Exception) -> None:
        """Every job gets the same error."""
        for job in self.jobs:
            if not job.reply.done():
                job.reply.set_exception(error)
