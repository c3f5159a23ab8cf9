"""How a process fares: time, memory, files, garbage, and how late its event loop is.

`watched()` runs beside the work: it wakes four times a second, which measures the loop's lag, asks what it
was given (pools, queues) for their gauges, and reads /proc every few seconds.
"""

import asyncio
import gc
import os
import platform
import resource
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Final

from finflow.telemetry import instruments

TICK_S: Final = 0.25
_PROC_EVERY: Final = 8
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_THREADS, _START = 17, 19


def describe(version: str, release: str, role: str) -> None:
    """Say what runs here, once."""
    instruments.BUILD.bind(version, release, platform.python_version()).set(1)
    instruments.PROCESSES.bind(role).set(1)


@asynccontextmanager
async def watched(*samplers: Callable[[], None]) -> AsyncIterator[None]:
    """Keeps this process's vital signs up to date while the block runs."""
    pauses = _Pauses()
    gc.callbacks.append(pauses)
    beat = asyncio.create_task(_beat(samplers), name="vitals")
    try:
        yield
    finally:
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)
        gc.callbacks.remove(pauses)


async def _beat(samplers: tuple[Callable[[], None], ...]) -> None:
    lag, usage, count = instruments.LOOP_LAG.bind(), Usage(), 0
    while True:
        if count % _PROC_EVERY == 0:
            usage.sample()
        for sample in samplers:
            sample()
        count += 1
        due = perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        lag.observe(max(0.0, perf_counter() - due))


async def sampled(sample: Callable[[], None]) -> None:
    """Have a gauge set at each tick, until cancelled: for what changes too often to set it each time."""
    while True:
        sample()
        await asyncio.sleep(TICK_S)


class Usage:
    """What the kernel says that this process uses."""

    def __init__(self) -> None:
        self._cpu = instruments.CPU.bind()
        self._gauges = [
            family.bind()
            for family in (
                instruments.RESIDENT,
                instruments.OPEN_FDS,
                instruments.MAX_FDS,
                instruments.THREADS,
            )
        ]
        instruments.START_TIME.bind().set(_started_s())

    def sample(self) -> None:
        """Read it now."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        self._cpu.add(max(0.0, used.ru_utime + used.ru_stime - self._cpu.value))
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
        # The listing itself holds one open.
        open_fds = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - pathlib makes an object of each
        max_fds = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        for gauge, value in zip(
            self._gauges, (resident, open_fds, max_fds, int(_stat()[_THREADS])), strict=True
        ):
            gauge.set(value)


def _stat() -> list[str]:
    return Path("/proc/self/stat").read_text().rpartition(")")[2].split()


def _started_s() -> float:
    booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    return int(booted.split()[1]) + int(_stat()[_START]) / _TICKS_PER_S


class _Pauses:
    """The garbage collector's callback: how often, and for how long."""

    def __init__(self) -> None:
        self._counts = [instruments.GC_COLLECTIONS.bind(str(generation)) for generation in range(3)]
        self._pause = instruments.GC_PAUSE.bind()
        self._since = 0.0

    def __call__(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._since = perf_counter()
        else:
            self._counts[min(info["generation"], 2)].inc()
            self._pause.observe(perf_counter() - self._since)
