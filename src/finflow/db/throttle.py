"""How fast a backfill goes: decided from what the last batches took and from how far replicas are behind.

Values in, values out. The work takes a share of the time, not all of it; a batch that takes longer than
batches of its size took before says that the machine is loaded, and the pauses grow until it no longer is.
"""

from collections import deque
from statistics import median
from typing import Final

import msgspec

_MEMORY: Final = 64
_MIN_ROWS: Final = 50
_MAX_PRESSURE: Final = 16.0
_MAX_PAUSE_S: Final = 5.0
# A batch is called slow when a row of it took this many times what a row took in calm ones.
_SLOW: Final = 1.6


class Pace(msgspec.Struct, frozen=True):
    """What a person allows: `share` of the time for work, batches of about `batch_ms`, lag of the replicas.

    `share` 1 is as fast as it goes.
    """

    share: float = 0.15
    batch_ms: float = 5.0
    max_lag_s: float = 5.0
    max_lag_bytes: int = 16 * 1024 * 1024


FULL_SPEED: Final = Pace(share=1.0, batch_ms=2_000.0)


class Lag(msgspec.Struct, frozen=True):
    """How far the farthest replica is behind; nothing where there is none, or where we may not see it."""

    seconds: float = 0.0
    bytes: int = 0


class Throttle:
    """The state of one run: how many rows the next batch has, how long to pause before it."""

    def __init__(self, pace: Pace, max_rows: int) -> None:
        self.pace = pace
        self.max_rows = max_rows
        # It begins small and grows: the first batches tell how fast this table goes.
        self.rows = max_rows if pace.share >= 1 else min(max_rows, max(_MIN_ROWS, max_rows // 4))
        self.pressure = 1.0
        self._row_s: deque[float] = deque(maxlen=_MEMORY)

    def after(self, batch_s: float, rows: int, rows_s: float | None = None) -> float:
        """Takes in what a batch took, and its rows of that, and answers how many seconds to pause.

        What a batch takes whatever its size, as a distant server's commit, must not make it smaller.
        """
        if rows > 0:
            self._judge(batch_s / rows)
        self._resize(batch_s if rows_s is None else rows_s)
        idle = batch_s * (1 / self.pace.share - 1)
        return min(_MAX_PAUSE_S, idle * self.pressure)

    def behind(self, lag: Lag) -> bool:
        """Whether the replicas need a rest. An idle replica's old seconds count for nothing without bytes."""
        return lag.bytes > self.pace.max_lag_bytes or (lag.bytes > 0 and lag.seconds > self.pace.max_lag_s)

    def hindered(self) -> None:
        """A batch was rolled back for a lock or a deadlock: the next one is smaller and waits longer."""
        self.rows = max(min(_MIN_ROWS, self.max_rows), self.rows // 2)
        self.pressure = min(_MAX_PRESSURE, self.pressure * 2)

    def _judge(self, row_s: float) -> None:
        calm = median(self._row_s) if len(self._row_s) >= _MEMORY // 8 else None
        self._row_s.append(row_s)
        if calm is not None and row_s > _SLOW * calm:
            self.pressure = min(_MAX_PRESSURE, self.pressure * 1.5)
        else:
            self.pressure = max(1.0, self.pressure * 0.8)

    def _resize(self, rows_s: float) -> None:
        wanted_s = self.pace.batch_ms / 1000
        if rows_s > wanted_s * 1.25:
            self.rows = max(min(_MIN_ROWS, self.max_rows), int(self.rows * 0.7))
        elif rows_s < wanted_s * 0.75:
            self.rows = min(self.max_rows, int(self.rows * 1.2) + 1)
