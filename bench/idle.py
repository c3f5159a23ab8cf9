"""What connections cost that are open and idle: memory of the workers, before, with, and after a thousand.

`python -m bench.idle [--json] [--keep] [--short]`. Every connection asks once, as a client's pool does, and
then stays silent. What counts is the growth of the workers' proportional set size, summed over all of their
processes; the first thousand connections are opened and closed again before, so that buffers which a
process keeps for ever are not blamed on them, and are shown apart.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

import psutil
import uvloop

from bench.ground import report
from finflow.stack.service import Stack, StackSettings, running

CONNECTIONS = 1_000
ASK = b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n"

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def opened(host: str, port: int, count: int) -> list[Line]:
    """So many connections, each of which has been answered once."""
    lines: list[Line] = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(ASK)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        lines.append((reader, writer))
    return lines


async def closed(lines: list[Line]) -> None:
    for _, writer in lines:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in lines), return_exceptions=True)


async def memory_mb(stack: Stack) -> float:
    """Proportional set size of all workers in MB, once it has come to rest."""
    before = -1.0
    while True:
        await asyncio.sleep(1)
        found = sum(psutil.Process(pid).memory_full_info().pss for pid in stack.worker_pids) / 1e6
        if abs(found - before) < 0.2:
            return found
        before = found


async def alive(lines: list[Line]) -> int:
    """How many of the connections still answer; the server hangs up on those that are silent for 10 s."""
    for _, writer in lines:
        writer.write(ASK)
    asked = (reader.readuntil(b"\r\n\r\n") for reader, _ in lines)
    heads = await asyncio.gather(*asked, return_exceptions=True)
    return sum(isinstance(head, bytes) and head.startswith(b"HTTP/1.1 200") for head in heads)


async def measure(connections: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="finflow-bench-") as folder:
        settings = StackSettings(data=Path(folder) / "data", workers=2)
        async with running(settings) as stack:
            host, _, port = stack.url.removeprefix("http://").partition(":")
            at_first = await memory_mb(stack)
            await closed(await opened(host, int(port), connections))
            warm = await memory_mb(stack)
            lines = await opened(host, int(port), connections)
            with_idle = await memory_mb(stack)
            answering = await alive(lines)
            await closed(lines)
            after = await memory_mb(stack)
    return {
        "connections": connections,
        "workers": 2,
        "idle_mb": round(with_idle - warm, 1),
        "idle_and_first_use_mb": round(with_idle - at_first, 1),
        "kept_after_closing_mb": round(after - at_first, 1),
        "workers_at_first_mb": round(at_first, 1),
        "still_answering": answering,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="a hundred connections: shows that it runs")
    options = parser.parse_args()
    figures = uvloop.run(measure(100 if options.short else CONNECTIONS))
    report("idle", figures, seed=0, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
