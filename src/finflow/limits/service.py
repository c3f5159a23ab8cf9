"""The shell of the limits: who is let in now, what each tenant may, and what was changed about it."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from finflow.db.pool import acquired
from finflow.kernel import ids
from finflow.kernel.clock import to_micros
from finflow.kernel.errors import FinFlowError
from finflow.limits import store
from finflow.limits.buckets import Buckets
from finflow.limits.model import SECOND_NS, Limits, Override, Verdict, seconds

if TYPE_CHECKING:
    import asyncpg

log = logging.getLogger(__name__)

REFRESH_S: Final = 1.0
REFRESH_AGAIN_S: Final = 5.0
MAX_CALLER: Final = 255
# Beyond its burst a tenant's requests wait for their turn, evenly spaced, for so long at most.
QUEUE_MS: Final = 250
MAX_SHARES: Final = 10_000
# The operator's share; tenants are numbered with 32 bits.
_OPERATOR: Final = 1 << 33
_ADDRESSES: Final = 1 << 62


class LimitsView(msgspec.Struct, frozen=True):
    """What a tenant may do: requests a second and at once on a host, and under way in a worker.

    `overridden` names the fields that are the tenant's own, the others are the default.
    """

    tenant_id: str
    requests_per_s: int
    burst: int
    concurrency: int
    overridden: list[str]
    version: int


class Entry(NamedTuple):
    """What a request hears at the door.

    `wait_s`: 0, or the seconds after which it may come again. `delay_s`: its turn is so far away that waiting
    for it right here is better than coming again. `headers`: what is left.
    """

    wait_s: int
    delay_s: float
    headers: tuple[tuple[bytes, bytes], ...]


class Share:
    """What one tenant may do and does in this process."""

    __slots__ = ("burst", "concurrency", "in_flight", "interval_ns", "key", "policy", "queue")

    def __init__(self, key: int, limits: Limits) -> None:
        self.key = key
        self.in_flight = 0
        self.allow(limits)

    def allow(self, limits: Limits) -> None:
        """Let these limits count from now on."""
        self.interval_ns, self.burst, self.concurrency = limits.interval_ns, limits.burst, limits.concurrency
        self.queue = limits.requests_per_s * QUEUE_MS // 1000
        text = f'"requests";q={limits.burst};w={limits.window_s}, "concurrency";q={limits.concurrency}'
        self.policy = (b"ratelimit-policy", f'{text};qu="concurrent-requests"'.encode())

    def entry(self, verdict: Verdict) -> Entry:
        """What a verdict over burst and queue means, and what is left, as the RateLimit headers say it."""
        left = max(0, verdict.remaining - self.queue)
        at_once = max(0, self.concurrency - self.in_flight - 1)
        # Whole seconds, rounded up; the division of a negative number rounds the other way.
        full_in_s = -(-verdict.full_in_ns // SECOND_NS)
        said = b'"requests";r=%d;t=%d, "concurrency";r=%d' % (left, full_in_s, at_once)
        headers = (self.policy, (b"ratelimit", said))
        if verdict.wait_ns:
            return Entry(seconds(verdict.wait_ns), 0, headers)
        return Entry(0, max(0, verdict.full_in_ns - self.burst * self.interval_ns) / SECOND_NS, headers)


class LimitService:
    """Holds tenants to their limits. `strangers_per_s` bounds what an address may cost before it is known."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        buckets: Buckets,
        default: Limits,
        strangers_per_s: int,
    ) -> None:
        self._pool = pool
        self._buckets = buckets
        self._default = default
        self._stranger = Share(_ADDRESSES, Limits(strangers_per_s, 2 * strangers_per_s, 1))
        self._overrides: dict[int, Override] = {}
        self._since = datetime(1970, 1, 2, tzinfo=UTC)
        # By the tenant's id, so that finding a share is one look-up.
        self._shares: dict[str | None, Share] = {}

    # --- at the door

    def enter(self, tenant_id: str | None) -> Entry:
        """Count a request of this tenant (None: of the operator) against its rate. Never waits or raises."""
        share = self._share(tenant_id)
        return share.entry(self._buckets.take(share.key, share.interval_ns, share.burst + share.queue))

    def start(self, tenant_id: str | None) -> bool:
        """Let a request begin, unless too many of its tenant are under way; it calls `leave` once."""
        share = self._share(tenant_id)
        if share.in_flight >= share.concurrency:
            return False
        share.in_flight += 1
        return True

    def leave(self, tenant_id: str | None) -> None:
        """A request that began has been answered, or is gone."""
        self._shares[tenant_id].in_flight -= 1

    def stranger(self, address: str, cost: int = 1) -> int:
        """Charge an address for work that was done before it was known; seconds to wait if it is too much.

        With a cost of 0 nothing is charged, and the answer says whether any more work may be done.
        """
        digest = blake2b(address.encode(), digest_size=7).digest()
        rule = self._stranger
        key = _ADDRESSES | int.from_bytes(digest, "big")
        verdict = self._buckets.take(key, rule.interval_ns, rule.burst, cost)
        if verdict.wait_ns:
            return seconds(verdict.wait_ns)
        return 1 if cost == 0 and verdict.remaining == 0 else 0

    def _share(self, tenant_id: str | None) -> Share:
        found = self._shares.get(tenant_id)
        if found is not None:
            return found
        if len(self._shares) >= MAX_SHARES:
            # Whoever has nothing under way loses nothing: the bucket lies elsewhere.
            self._shares = {name: share for name, share in self._shares.items() if share.in_flight}
        number = _number(tenant_id)
        share = self._shares[tenant_id] = Share(number or _OPERATOR, self._limits_of(number))
        return share

    def _limits_of(self, tenant_no: int) -> Limits:
        return self._overrides.get(tenant_no, Override()).over(self._default)

    # --- what each tenant may

    async def watch(self) -> None:
        """Follow the changes that are made anywhere, until cancelled."""
        while True:
            followed = await self.followed()
            await asyncio.sleep(REFRESH_S if followed else REFRESH_AGAIN_S)

    async def followed(self) -> bool:
        """`refresh`, whatever it runs into; asked before the first request, so that none slips through."""
        try:
            await self.refresh()
        except Exception as error:
            # What was known goes on counting; a schema that is older than this release has no limits.
            log.warning("limits were not read", extra={"error": repr(error), "again_in_s": REFRESH_AGAIN_S})
            return False
        return True

    async def refresh(self) -> None:
        """Let count what was changed since the last time."""
        async with acquired(self._pool) as connection:
            changed = await store.changed_since(connection, self._since)
        for tenant_no, (changed_at, override) in changed.items():
            self._since = max(self._since, changed_at)
            self._overrides[tenant_no] = override
        if changed:
            for tenant_id, share in self._shares.items():
                if (number := _number(tenant_id)) in changed:
                    share.allow(self._limits_of(number))

    async def read(self, tenant_id: str) -> LimitsView:
        """What a tenant may do. Raises tenant_unknown."""
        async with acquired(self._pool) as connection:
            tenant_no = await _existing(connection, tenant_id)
            version, override = await store.newest(connection, tenant_no)
        return self._view(tenant_id, version, override)

    async def change(
        self, tenant_id: str, fields: dict[str, int | None], expected: Sequence[str] | None, by: str
    ) -> LimitsView:
        """Give a tenant limits of its own; None in `fields` is the default, a field left out stays.

        `expected`: the versions that may be changed, as text; None any. Raises tenant_unknown and
        precondition_failed.
        """
        async with acquired(self._pool) as connection:
            tenant_no = await _existing(connection, tenant_id)
            version, override = await store.newest(connection, tenant_no)
            wanted = override._replace(**fields)
            if expected is not None and str(version) not in expected:
                raise FinFlowError("precondition_failed", param="If-Match")
            if wanted != override:
                version += 1
                if not await store.add(connection, tenant_no, version, by[:MAX_CALLER], wanted):
                    raise FinFlowError("precondition_failed", param="If-Match")
        await self.refresh()
        return self._view(tenant_id, version, wanted)

    def _view(self, tenant_id: str, version: int, override: Override) -> LimitsView:
        own = [name for name, value in override._asdict().items() if value is not None]
        return LimitsView(tenant_id, *override.over(self._default), own, version)


async def _existing(connection: store.Connection, tenant_id: str) -> int:
    tenant_no = _number(tenant_id)
    created_at = await store.tenant_created_at(connection, tenant_no)
    if created_at is None or ids.mint("ten", to_micros(created_at), 0, tenant_no) != tenant_id:
        raise FinFlowError("tenant_unknown", f"no tenant {tenant_id[:40]!r}")
    return tenant_no


def _number(tenant_id: str | None) -> int:
    """A tenant's number; 0 for the operator and for what is no tenant's id."""
    place = None if tenant_id is None else ids.parse("ten", tenant_id)
    return 0 if place is None else place.number
