"""What a rollout needs of the world. Adapters live elsewhere: ingresses and fleets where things run."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from finflow.rollout.verdicts import Judgement, Reading, Side


class Endpoint(msgspec.Struct, frozen=True, order=True):
    """Where one process answers."""

    host: str
    port: int


class Ingress(Protocol):
    """The router in front of one service. The split is sticky per customer and monotone in the weight.

    Every method raises FinFlowError ingress_unreachable when the router does not answer in time, and
    ingress_refused when it answers that it will not.
    """

    async def set_backends(self, side: Side, endpoints: Sequence[Endpoint]) -> None:
        """Make these the processes of a side; requests under way are finished where they are."""

    async def backends(self, side: Side) -> Sequence[Endpoint]:
        """The processes of a side, as the router has them."""

    async def set_weight(self, weight_bp: int) -> None:
        """Send this share of customers, in basis points, to the candidate; in force when this returns."""

    async def weight(self) -> int:
        """The share in force, in basis points, read from the router itself."""

    async def routed(self) -> Mapping[Side, int]:
        """Requests that the router has sent to either side since it started; they only grow."""

    async def reload(self) -> None:
        """Have the router read its configuration anew; the split and every request survive it."""


class Fleet(Protocol):
    """The processes of one release. Every verb may be repeated: it makes things so, and they stay so."""

    async def start(self, processes: int) -> None:
        """Have so many processes running; returns when each of them has been started."""

    async def ready(self, within_s: float) -> bool:
        """Whether all of them answer their readiness check, waiting at most this long."""

    async def endpoints(self) -> Sequence[Endpoint]:
        """Where the processes that are ready answer."""

    def last_words(self) -> str:
        """Why processes do not become ready, on a line, as far as somebody knows."""

    async def drain(self, within_s: float) -> bool:
        """Finish what is under way and take nothing new; False when something was cut off at the end."""

    async def stop(self) -> None:
        """End every process; at once for those that do not end by themselves."""


class Source(Protocol):
    """Where the numbers about both sides come from."""

    async def read(self) -> Mapping[Side, Reading]:
        """Totals by side; a side of which nothing is known is missing. Raises FinFlowError source_unreachable
        when there is no answer, and source_malformed when it cannot be read.
        """


class Notice(msgspec.Struct, frozen=True):
    """Something that people are told: `event` is one of the controller's events, `text` is one sentence."""

    rollout_id: str
    service: str
    event: str
    text: str
    at: str
    facts: Mapping[str, Any] = {}


class Notifier(Protocol):
    """One way of telling people."""

    async def notify(self, notice: Notice) -> None:
        """Deliver it, or raise FinFlowError notice_undelivered; a repeated notice does no harm."""


class Impact(msgspec.Struct, frozen=True):
    """What a candidate touched: how many customers and transactions, and money by currency in decimals."""

    customers: int
    transactions: int
    money: Mapping[str, str]


class BlastRadius(Protocol):
    """Knows what a release did to the business."""

    async def impact(self, release: str, since: str, until: str) -> Impact:
        """Totals between two RFC 3339 instants."""

    def listed(self, release: str, since: str, until: str) -> AsyncIterator[Mapping[str, Any]]:
        """One mapping for each transaction that the release did, oldest first."""


class Check(Protocol):
    """A gate that is asked before a step is taken: smoke tests, scans, approvals, freeze windows."""

    async def judge(self) -> Judgement:
        """Look now. Never raises: a check that cannot look says ERROR."""


class Approval(msgspec.Struct, frozen=True):
    """Somebody's yes to one thing, which the digest names."""

    digest: str
    by: str
    at: str


class Approvals(Protocol):
    """The approvals that were recorded for this rollout."""

    async def find(self, digest: str) -> Approval | None:
        """The approval of the thing with this digest, or None: approvals of other things do not count."""


class Served(msgspec.Struct, frozen=True):
    """One request that an ingress has answered: when (Unix seconds), by which side, for whom, how.

    `customer` is a digest of the customer key, empty where the request had none.
    """

    at_s: float
    side: Side
    customer: str
    status: int
    duration_s: float


class TrafficLog(Protocol):
    """What an ingress remembers of each request. It works for services that measure nothing themselves."""

    async def fresh(self) -> Sequence[Served]:
        """What was answered since the last call, oldest first; nothing twice. Raises source_unreachable."""
