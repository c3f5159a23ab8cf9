"""What the process that keeps the others running counts: their ends, in a small block of its own."""

from typing import Final

from finflow.telemetry.metrics import Registry

_SLOTS: Final = 64
_RECORD_BYTES: Final = 4_096
HOW: Final = ("killed", "failed", "ended")


class StackMeter:
    """Counts the ends of workers by how they came: by a signal, with a status, or with none."""

    def __init__(self) -> None:
        self.registry = Registry(_SLOTS, _RECORD_BYTES)
        ends = self.registry.counter(
            "finflow_worker_ends", "Workers that ended and were started again, by how they ended.", ("how",)
        )
        self._ends = {how: ends.bind(how) for how in HOW}
        roles = self.registry.gauge(
            "finflow_processes", "Processes that run, by what they do.", ("role",), released=True
        )
        roles.bind("stack").set(1)

    def worker_ended(self, status: int) -> None:
        """A worker's exit status, or the negated number of the signal that ended it."""
        self._ends["killed" if status < 0 else "failed" if status else "ended"].inc()
