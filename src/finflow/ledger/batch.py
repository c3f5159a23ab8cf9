"""What waits to be written: jobs of callers, and the batch that one database transaction makes of them."""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from finflow.ledger.book import Head, Record
from finflow.ledger.commands import MOVES_MONEY, Request
from finflow.ledger.save import Decided
from finflow.ledger.traced import shared_root
from finflow.telemetry.tracing import Running

# Commands decided between two looks at the event loop: about a millisecond.
SLICE: Final = 128


class Job(msgspec.Struct, eq=False):
    """Requests of one caller that are answered together; `atomic` decides them all or nothing."""

    requests: list[Request]
    atomic: bool
    reply: "asyncio.Future[list[Record]]"
    queued_s: float = 0.0
    caller: "Running | None" = None
    # What it is written with, as soon as it is in one.
    batch: "Batch | None" = None

    @property
    def whole(self) -> bool:
        """Whether its requests are decided at one go, by themselves: a group, or a job that repeats a key."""
        count = len(self.requests)
        return self.atomic or (count > 1 and len({request.key for request in self.requests}) < count)


class Run(NamedTuple):
    """Requests that are decided together: of one job, or of a few small ones that came at the same time."""

    requests: list[Request]
    atomic: bool
    whole: bool

    def slices(self) -> list[list[Request]]:
        """Parts that are decided at one go."""
        if self.whole:
            return [self.requests]
        return [self.requests[i : i + SLICE] for i in range(0, len(self.requests), SLICE)]


def next_run(jobs: Sequence[Job], start: int) -> tuple[Run, int]:
    """What is decided next of the jobs from `start` on, and how many jobs that is: at least one."""
    first = jobs[start]
    requests, end, whole = list(first.requests), start + 1, first.whole
    while not whole and end < len(jobs):
        job = jobs[end]
        if len(requests) + len(job.requests) > SLICE or job.whole:
            break
        requests += job.requests
        end += 1
    return Run(requests, first.atomic, whole), end - start


class Batch:
    """Jobs for one database transaction, and what was decided of them ahead, on the book of `epoch`."""

    def __init__(self, release: str | None = None) -> None:
        self._release = release
        self.jobs: list[Job] = []
        self.root = shared_root()
        self.size = 0
        # Only transactions: nothing that another session would have to see committed to check its rows.
        self.money_only = True
        self.has_head = False
        self.committing = False
        # Whether decisions were made on the book that are not written: it is not what its `seq` says.
        self.on_book = False
        self.began_s = 0.0
        # What its jobs were answered with, where it was given up.
        self.failure: Exception | None = None
        self.restart(-1, 0)

    def restart(self, epoch: int, base_seq: int) -> None:
        """Nothing is decided yet; what will be starts from `base_seq`."""
        self.epoch = epoch
        self.base_seq = base_seq
        self.decided_jobs = 0
        self.decided = Decided(self._release)
        self.head: Head | None = None

    def add(self, job: Job) -> None:
        """One more job, undecided: so is the batch."""
        job.batch = self
        self.jobs.append(job)
        self.size += len(job.requests)
        self.money_only = self.money_only and all(isinstance(r.command, MOVES_MONEY) for r in job.requests)
        self.head = None

    def take_over(self, other: "Batch") -> None:
        """The jobs of a batch that nobody has begun to write become jobs of this one."""
        for job in other.jobs:
            self.add(job)
        self.on_book = self.on_book or other.on_book
        other.jobs, other.size, other.on_book = [], 0, False
        other.restart(-1, 0)

    def let_go(self) -> None:
        """It is answered: the one after it still asks what it was, and nobody what was in it.

        Its jobs would hold hundreds of requests in memory, in the processor's caches above all.
        """
        self.jobs, self.decided = [], Decided(self._release)

    def requests(self) -> list[Request]:
        """All requests in the order in which they are decided."""
        return [request for job in self.jobs for request in job.requests]

    def keys(self) -> list[str]:
        """The idempotency keys of all requests."""
        return [request.key for job in self.jobs for request in job.requests]

    def succeed(self, records: list[Record]) -> None:
        """Every job gets its own records: they stand in the order of the requests."""
        start = 0
        for job in self.jobs:
            end = start + len(job.requests)
            if not job.reply.done():
                job.reply.set_result(records[start:end])
            start = end

    def fail(self, error: Exception) -> None:
        """Every job gets the same error."""
        self.failure = error
        for job in self.jobs:
            if not job.reply.done():
                job.reply.set_exception(error)
