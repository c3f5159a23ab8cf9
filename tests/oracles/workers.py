"""A worker process of the interface under the server that carries it in production."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from oracles.tokens import FLAGS, operator_token


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


@asynccontextmanager
async def worker(
    database_url: str, output: Any = None, **settings: object
) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    """One worker on a free port, and the operator's client of it; the worker is stopped at the end.

    `output` is a file for all that it writes, `settings` are by their names in lower case.
    """
    port = free_port()
    program = [sys.executable, "-P", "-m", "finflow.stack.serve", "finflow.api.asgi:application", "127.0.0.1"]
    flags = {"database_url": database_url, "log_level": "error", "unverified_per_s": 100_000}
    flags |= {**FLAGS, **settings}
    environment = os.environ | {f"FINFLOW_{name.upper()}": str(value) for name, value in flags.items()}
    child = await asyncio.create_subprocess_exec(
        *program, str(port), env=environment, stdout=output, stderr=output
    )
    try:
        url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {operator_token()}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
            await _until_ready(client)
            yield child, client
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
            await asyncio.wait_for(child.wait(), 30)


async def _until_ready(client: httpx.AsyncClient) -> None:
    for _ in range(300):
        try:
            if (await client.get("/readyz")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise AssertionError("the worker did not become ready")
