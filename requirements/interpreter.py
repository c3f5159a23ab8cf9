"""Prints the Python that the environment is made with: the fastest of those that this machine offers.

Builds differ: one made without profile-guided optimisation takes a third longer for everything that we do.
A candidate has to be 3.11 or newer and able to make an environment with pip; `python3` wins unless another
is faster by a sixth or more. Run by the Makefile with any Python 3; `make PYTHON=...` decides instead.
"""

import shutil
import subprocess
import sys

CANDIDATES = ("python3", "/usr/bin/python3", "/usr/local/bin/python3")
CLEARLY_FASTER = 5 / 6
# Calls, attributes, dictionaries and small objects: what a transaction's decision is made of.
PROBE = """
import sys, ensurepip, venv, time
assert sys.version_info >= (3, 11)
class Account:
    def __init__(self, total): self.total = total
    def add(self, amount): self.total += amount; return self.total
def work(count):
    seen = {}
    for i in range(count):
        account = Account(i)
        seen[i % 100] = (account.add(i), str(i))
    return len(seen)
def timed():
    started = time.perf_counter(); work(60_000); return time.perf_counter() - started
print(min(timed() for _ in range(5)))
"""


def seconds(candidate: str) -> "float | None":
    """The best of a few short runs, or None where this Python cannot be used."""
    if shutil.which(candidate) is None:
        return None
    try:
        probe = [candidate, "-I", "-c", PROBE]
        done = subprocess.run(probe, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603 # a list of ours
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def chosen() -> "str | None":
    """The candidate to take, or None if there is none."""
    timed = {candidate: took for candidate in CANDIDATES if (took := seconds(candidate)) is not None}
    if not timed:
        return None
    first, fastest = next(iter(timed)), min(timed, key=lambda candidate: timed[candidate])
    return fastest if timed[fastest] <= timed[first] * CLEARLY_FASTER else first


if __name__ == "__main__":
    found = chosen()
    if found is None:
        sys.exit("FinFlow needs Python 3.11 or newer with venv and pip: make PYTHON=/path/to/python3.11 ...")
    sys.stdout.write(f"{found}\n")
