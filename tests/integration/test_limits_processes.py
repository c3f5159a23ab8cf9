"""Several processes take from the same buckets: none is lost, none is double, and nobody's death blocks."""

import asyncio
import fcntl
import os
import random
import signal
import sys
from pathlib import Path

from finflow.limits.buckets import Buckets
from oracles.taker import SLOW_NS

TAKER = Path(__file__).parents[1] / "oracles" / "taker.py"


async def taker(path: Path, *arguments: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, str(TAKER), str(path), *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )


async def test_processes_together_get_the_burst_and_not_one_more(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    many = [await taker(path, 7, 39_999, 20_000) for _ in range(4)]
    passed = [int((await child.communicate())[0]) for child in many]
    assert sum(passed) == 39_999
    memory = Buckets(path)
    assert memory.take(7, SLOW_NS, 39_999).wait_ns > 0
    memory.close()


async def test_a_process_that_is_killed_leaves_no_lock_behind(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    memory, chance = Buckets(path), random.Random(3)  # noqa: S311 - seeded moments of death
    taken = 0
    for _ in range(8):
        child = await taker(path, 7, 1_000_000, 0)
        assert child.stdout is not None
        await child.stdout.readline()
        await asyncio.sleep(chance.random() / 20)
        child.kill()
        await child.wait()
        before = memory.take(7, SLOW_NS, 1_000_000, cost=0).remaining
        for _ in range(1_000):
            assert memory.take(7, SLOW_NS, 1_000_000).wait_ns == 0
        # Exactly these: whatever the dead one held, nobody is let in beside the count.
        assert memory.take(7, SLOW_NS, 1_000_000, cost=0).remaining == before - 1_000
        assert before < 1_000_000 - taken
        taken = 1_000_000 - before + 1_000
    memory.close()


def test_a_holder_that_never_lets_go_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    memory = Buckets(path)
    reader, writer = os.pipe()
    holder = os.fork()
    if holder == 0:  # the child: a lock on every set, and then nothing
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            os.write(writer, b"x")
            signal.pause()
    assert os.read(reader, 1) == b"x"
    try:
        passed = [memory.take(7, SLOW_NS, 3).wait_ns == 0 for _ in range(5)]
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    assert passed == [True] * 3 + [False] * 2
    memory.close()
