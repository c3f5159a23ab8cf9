"""A fleet in memory, for tests of whatever commands fleets. It passes the same contract as the real ones."""

from collections.abc import Sequence

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ports import Endpoint


class FakeFleet:
    """Processes that exist as numbers only.

    `broken` makes every start fail, `unready` keeps all of them from becoming ready, `slow_to_drain` has
    a drain cut something off; `calls` is what was asked, in order.
    """

    def __init__(self, first_port: int = 20_000) -> None:
        self._first_port = first_port
        self.processes = 0
        self.broken = False
        self.unready = False
        self.slow_to_drain = False
        self.calls: list[str] = []

    async def start(self, processes: int) -> None:
        """Have so many."""
        self.calls.append(f"start {processes}")
        if self.broken:
            raise FinFlowError("fleet_failed", "this fleet was broken by its test")
        self.processes = processes

    async def ready(self, within_s: float) -> bool:
        """Whether there are any and nothing keeps them."""
        self.calls.append("ready")
        return self.processes > 0 and not self.unready

    async def endpoints(self) -> Sequence[Endpoint]:
        """One port for each, the same ones every time."""
        count = 0 if self.unready else self.processes
        return [Endpoint("127.0.0.1", self._first_port + number) for number in range(count)]

    def last_words(self) -> str:
        """What its test has done to it."""
        return "its test keeps them" if self.unready else ""

    async def drain(self, within_s: float) -> bool:
        """Has none afterwards."""
        self.calls.append("drain")
        had, self.processes = self.processes, 0
        return not (had and self.slow_to_drain)

    async def stop(self) -> None:
        """Has none afterwards."""
        self.calls.append("stop")
        self.processes = 0
