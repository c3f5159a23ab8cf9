"""What waits to be written: jobs of callers, and the batch that one database transaction makes of them."""

import asyncio
from typing import NamedTuple

from finflow.ledger.book import Head, Record
from finflow.ledger.commands import Request
from finflow.ledger.store import Packed


class Job(NamedTuple):
    """Requests of one caller that are answered together; `atomic` decides them all or nothing."""

    requests: list[Request]
    atomic: bool
    reply: "asyncio.Future[list[Record]]"


class Batch:
    """Jobs for one database transaction, and what was decided of them ahead, on the book of `epoch`."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.size = 0
        self.restart(-1, 0)

    def restart(self, epoch: int, base_seq: int) -> None:
        """Nothing is decided yet; what will be starts from `base_seq`."""
        self.epoch = epoch
        self.base_seq = base_seq
        self.replies: list[list[Record]] = []
        self.packed: list[Packed] = []
        self.head: Head | None = None

    def requests(self) -> list[Request]:
        return [request for job in self.jobs for request in job.requests]
