"""How the kernel schedules processes of ours that are never alone on a processor. See docs/adr/0028."""

import os
from contextlib import suppress


def interrupt_nobody() -> None:
    """Have threads of this process, and of those it starts, wait for their turn when they wake up.

    A worker has a thread for connections and one for requests, and each message between them would take the
    processor from the other one, or from PostgreSQL, to do a few microseconds' work. An idle processor is
    taken at once either way, and what anybody gets in the long run stays the same.
    """
    with suppress(AttributeError, OSError):  # not Linux, or forbidden: it is slower then
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
