"""An Ingress in memory: the same split and the same refusals, without a router. For tests and rehearsals."""

import hashlib
from collections.abc import Mapping, Sequence

from finflow.kernel.errors import FinFlowError
from finflow.rollout.buckets import bucket_of
from finflow.rollout.ports import Endpoint, Served
from finflow.rollout.verdicts import FULL_WEIGHT_BP, Side


class FakeRouter:
    """What outlives a controller: weight, backends, and what was served. `reachable` False plays a crash."""

    def __init__(self, seed: int = 42) -> None:
        self.seed = seed
        self.reachable = True
        self.weight_bp = 0
        self.backends: dict[Side, tuple[Endpoint, ...]] = dict.fromkeys(Side, ())
        self.counts: dict[Side, int] = dict.fromkeys(Side, 0)
        self.served: list[Served] = []

    def request(
        self,
        customer: str = "",
        *,
        override: str = "",
        status: int = 200,
        at_s: float = 0.0,
        duration_s: float = 0.001,
    ) -> Side:
        """Play one request: which side it goes to. A side without processes answers 503."""
        side = Side.CANDIDATE if bucket_of(customer, self.seed) < self.weight_bp else Side.BASELINE
        if override in list(Side):
            side = Side(override)
        self.counts[side] += 1
        digest = hashlib.sha256(customer.encode()).hexdigest()[:16] if customer else ""
        self.served.append(Served(at_s, side, digest, status if self.backends[side] else 503, duration_s))
        return side


class FakeIngress:
    """The port over a FakeRouter; as many of these as there are controllers."""

    def __init__(self, router: FakeRouter | None = None) -> None:
        self.router = router or FakeRouter()
        self._seen = len(self.router.served)

    def _reached(self) -> FakeRouter:
        if not self.router.reachable:
            raise FinFlowError("ingress_unreachable", "The router was made to be silent.")
        return self.router

    async def set_backends(self, side: Side, endpoints: Sequence[Endpoint]) -> None:
        router, wanted = self._reached(), tuple(dict.fromkeys(endpoints))
        needed = side is Side.BASELINE or router.weight_bp > 0
        if not wanted and router.backends[side] and needed:
            raise FinFlowError("ingress_refused", f"The {side} is sent requests.", "endpoints")
        router.backends[side] = wanted

    async def backends(self, side: Side) -> Sequence[Endpoint]:
        return self._reached().backends[side]

    async def set_weight(self, weight_bp: int) -> None:
        router = self._reached()
        if not 0 <= weight_bp <= FULL_WEIGHT_BP:
            raise FinFlowError("ingress_refused", f"{weight_bp} is not 0 to {FULL_WEIGHT_BP}.", "weight_bp")
        if weight_bp and not router.backends[Side.CANDIDATE]:
            raise FinFlowError("ingress_refused", "The candidate has no processes.", "weight_bp")
        router.weight_bp = weight_bp

    async def weight(self) -> int:
        return self._reached().weight_bp

    async def routed(self) -> Mapping[Side, int]:
        return dict(self._reached().counts)

    async def reload(self) -> None:
        self._reached()

    async def fresh(self) -> Sequence[Served]:
        served = self._reached().served
        found, self._seen = served[self._seen :], len(served)
        return found
