"""A process that takes from one bucket of a file as fast as it can: `python taker.py FILE KEY BURST TIMES`.

It prints how many of its requests passed. TIMES 0: until it is killed, a line for each thousand tries.
"""

import itertools
import sys
from pathlib import Path

from finflow.limits.buckets import Buckets

# One more request in a quarter of an hour: whatever the run takes, the bucket does not refill within it.
SLOW_NS = 10**12


def main(path: str, key: str, burst: str, times: str) -> None:
    memory = Buckets(Path(path))
    passed = 0
    for number in range(int(times)) if int(times) else itertools.count():
        passed += memory.take(int(key), SLOW_NS, int(burst)).wait_ns == 0
        if int(times) == 0 and number % 1000 == 0:
            print(number, flush=True)
    print(passed, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
