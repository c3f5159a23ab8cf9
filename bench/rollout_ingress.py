"""What a router in front of a service costs, and whether anybody notices a shift: Caddy and HAProxy.

`python -m bench.rollout_ingress [--json] [--keep] [--short]`. Two measurements, on this machine alone:

- failed_by_shift: wrk posts on 16 connections that stay open, one customer after another, while a rollout
  runs over and over: weights 5, 25, 50, 100 %, promotion, the old processes drained, stopped and started
  again as the next candidate, and a reload. Everything that wrk counts as an error counts here, over 50,000
  requests.
- overhead_p99_ms: 1,000 requests a second in an open loop, straight to a process and through each router in
  turn, several rounds in an order that changes; the figure is the median over the rounds of the difference
  between two p99 of one round. wrk has no constant rate, so a small generator on uvloop sends on a schedule
  and counts from the moment a request was due, waiting for a free connection included.

The service is another Caddy that answers at once, so that it adds as little noise as possible.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import uvloop

from bench.ground import median, quantile, report
from bench.http import wrk
from finflow.app.ingresses import ingress_of
from finflow.kernel.errors import FinFlowError
from finflow.rollout.ingress_spec import CaddySpec, HaproxySpec
from finflow.rollout.ports import Endpoint
from finflow.rollout.verdicts import Side
from finflow.stack.ingress.caddy import caddy_program
from finflow.stack.ingress.local import LocalIngress
from finflow.stack.ports import listening

RATE_PER_S: Final = 1_000
CONNECTIONS: Final = 64
SHIFTED_REQUESTS: Final = 50_000
SPECS: Final = {"haproxy": HaproxySpec, "caddy": CaddySpec}
CUSTOMERS: Final = 2_000

SCRIPT: Final = """
local sent = 0
function request()
  sent = sent + 1
  return wrk.format("POST", "/v1/transactions", {["Content-Type"] = "application/json",
    ["X-Customer-Id"] = "cus_" .. (sent % 2000)}, '{"amount":"1.00"}')
end
function done(summary, latency, requests)
  local e = summary.errors
  print(string.format("RESULT %d %d %d %d %d %d", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.timeout + e.status, latency:percentile(50), latency:percentile(99),
    latency:percentile(99.9)))
end
"""


class Service:
    """A process that answers at once, on a port that it keeps when it is started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.endpoint = Endpoint("127.0.0.1", port)
        self._config = folder / f"service-{port}.json"
        answer = {"handler": "static_response", "body": '{"status":"posted"}'}
        server = {"listen": [f"127.0.0.1:{port}"], "routes": [{"handle": [answer]}], "protocols": ["h1"]}
        apps = {
            "http": {"grace_period": "5s", "servers": {"s": server | {"automatic_https": {"disable": True}}}}
        }
        self._config.write_text(json.dumps({"admin": {"disabled": True}, "apps": apps}))
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        command = [str(caddy_program()), "run", "--config", str(self._config)]
        home = {"HOME": str(self._config.parent), "PATH": os.environ["PATH"]}
        self._process = await asyncio.to_thread(
            subprocess.Popen, command, stderr=subprocess.DEVNULL, env=home
        )
        while listening(self.endpoint.port) == 0:  # noqa: ASYNC110 - another process's socket has no event
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """As a fleet does it: told to end, it finishes what it has."""
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, 10)
            self._process = None


def _free_ports(count: int) -> list[int]:
    import socket

    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


@asynccontextmanager
async def services(folder: Path, count: int) -> AsyncIterator[list[Service]]:
    made = [Service(folder, port) for port in _free_ports(count)]
    try:
        for each in made:
            await each.start()
        yield made
    finally:
        for each in made:
            await each.stop()


@asynccontextmanager
async def router(
    kind: str, folder: Path, old: list[Service], new: list[Service]
) -> AsyncIterator[LocalIngress[Any]]:
    ingress = ingress_of(SPECS[kind](), folder / kind)
    assert isinstance(ingress, LocalIngress)
    try:
        await ingress.start([each.endpoint for each in old], [each.endpoint for each in new])
        yield ingress
    finally:
        await ingress.stop()


# --- does anybody notice a shift? ---


async def shifted(kind: str, at_least: int, seconds: int) -> dict[str, int]:
    """Requests, how many of them failed, and how much was changed meanwhile."""
    found = {"requests": 0, "failed": 0, "weights": 0, "reloads": 0, "drained": 0, "promotions": 0}
    with tempfile.TemporaryDirectory(prefix="finflow-bench-") as name:
        async with services(Path(name), 4) as made, router(kind, Path(name), made[:2], made[2:]) as ingress:
            changing = asyncio.ensure_future(_rollouts(ingress, made[:2], made[2:], found))
            while found["requests"] < at_least:
                run = await wrk(ingress.url, SCRIPT, seconds, connections=16)
                found["requests"] += int(run["requests"])
                found["failed"] += int(run["errors"])
                if changing.done():
                    changing.result()
            changing.cancel()
            with suppress(asyncio.CancelledError):
                await changing
    return found


async def _rollouts(
    ingress: LocalIngress[Any], old: list[Service], new: list[Service], found: dict[str, int]
) -> None:
    """One rollout after another, the roles changing; ends only by being cancelled."""
    while True:
        for weight_bp in (500, 2_500, 5_000, 10_000):
            await ingress.set_weight(weight_bp)
            found["weights"] += 1
            await asyncio.sleep(0.1)
        await ingress.set_backends(Side.BASELINE, [each.endpoint for each in new])
        await ingress.set_weight(0)
        found["promotions"] += 1
        for each in old:
            await each.stop()
            found["drained"] += 1
        await ingress.reload()
        found["reloads"] += 1
        for each in old:
            await each.start()
        await ingress.set_backends(Side.CANDIDATE, [each.endpoint for each in old])
        old, new = new, old


# --- what does it cost? ---


class _Connection(asyncio.Protocol):
    """Sends one request at a time and says when the whole answer is there."""

    def __init__(self, load: "OpenLoop") -> None:
        self._load, self._due, self._got = load, 0.0, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, request: bytes, due: float) -> None:
        self._due, self._got = due, b""
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, blank, body = self._got.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) >= length:
            self._load.answered(self, self._due, head.startswith(b"HTTP/1.1 200"))

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost += 1


class OpenLoop:
    """So many requests a second, whether answers come or not."""

    def __init__(self, port: int) -> None:
        self.port, self.latencies_s, self.lost, self.wrong = port, [], 0, 0  # type: ignore[var-annotated] # floats
        self._free: deque[_Connection] = deque()
        self._waiting: deque[tuple[bytes, float]] = deque()

    def answered(self, connection: _Connection, due: float, good: bool) -> None:
        self.latencies_s.append(perf_counter() - due)
        self.wrong += not good
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._free.append(connection)

    async def run(self, seconds: float) -> list[float]:
        loop = asyncio.get_running_loop()
        opened = [
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.port)
            for _ in range(CONNECTIONS)
        ]
        self._free.extend(protocol for _, protocol in opened)
        began, total = perf_counter(), int(seconds * RATE_PER_S)
        for number in range(total):
            due = began + number / RATE_PER_S
            if (pause := due - perf_counter()) > 0:
                await asyncio.sleep(pause)
            self._send(_request(number), max(due, began))
        while len(self.latencies_s) < total and not self.lost:  # noqa: ASYNC110 - the end of a run may wait
            await asyncio.sleep(0.01)
        found, broken = self.latencies_s, self.lost + self.wrong
        for transport, _ in opened:
            transport.close()
        assert not broken, f"{broken} of {total} requests failed"
        return found

    def _send(self, request: bytes, due: float) -> None:
        if self._free:
            self._free.popleft().send(request, due)
        else:
            self._waiting.append((request, due))


def _request(number: int) -> bytes:
    body = b'{"amount":"1.00"}'
    head = (
        "POST /v1/transactions HTTP/1.1\r\nHost: service.test\r\nContent-Type: application/json\r\n"
        f"X-Customer-Id: cus_01h455vb4pex5vsk{number % CUSTOMERS:04x}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def overhead(kinds: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Quantiles straight and through each router, and the difference of a round's p99s, in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="finflow-bench-") as name:
        async with services(Path(name), 2) as (old, new):
            targets = {"direct": old.endpoint.port}
            async with _all(kinds, Path(name), old, new, targets):
                found: dict[str, list[list[float]]] = {target: [] for target in targets}
                for number in range(rounds + 1):
                    for target in sorted(targets, reverse=bool(number % 2)):
                        latencies = await OpenLoop(targets[target]).run(seconds)
                        # The first round warms up.
                        found[target] += [latencies] if number else []
    return _compared(found)


@asynccontextmanager
async def _all(
    kinds: list[str], folder: Path, old: Service, new: Service, targets: dict[str, int]
) -> AsyncIterator[None]:
    """Every router at once, over the same two processes, half of the customers on either."""
    if not kinds:
        yield
        return
    async with router(kinds[0], folder, [old], [new]) as ingress:
        await ingress.set_weight(5_000)
        targets[kinds[0]] = ingress.port
        async with _all(kinds[1:], folder, old, new, targets):
            yield


def _compared(found: dict[str, list[list[float]]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for target, runs in found.items():
        for label, share in (("p50", 0.5), ("p99", 0.99)):
            figures[f"{target}_{label}_ms"] = median([quantile(run, share) * 1e3 for run in runs])
    direct = found.pop("direct")
    for target, runs in found.items():
        more = [(quantile(a, 0.99) - quantile(b, 0.99)) * 1e3 for a, b in zip(runs, direct, strict=True)]
        figures[f"{target}_overhead_p99_ms"] = median(more)
    return figures


async def measure(short: bool) -> dict[str, Any]:
    kinds = []
    figures: dict[str, Any] = {"rate_per_s": RATE_PER_S, "connections": CONNECTIONS}
    for kind, spec in SPECS.items():
        try:
            ingress = ingress_of(spec(), Path(tempfile.gettempdir()) / "finflow-bench-none")
            assert isinstance(ingress, LocalIngress)
            ingress.program()
            kinds.append(kind)
        except FinFlowError as error:
            figures[f"{kind}_skipped"] = error.detail
    figures |= await overhead(kinds, *((1, 1) if short else (7, 10)))
    if shutil.which("wrk") is None:
        return figures | {"failed_by_shift_skipped": "wrk is not installed"}
    for kind in kinds:
        run = await shifted(kind, *((1, 3) if short else (SHIFTED_REQUESTS, 15)))
        figures |= {f"{kind}_shift_{name}": value for name, value in run.items()}
    figures["failed_by_shift"] = sum(figures[f"{kind}_shift_failed"] for kind in kinds)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="one small round: shows that it runs")
    options = parser.parse_args()
    figures = uvloop.run(measure(options.short))
    report("rollout_ingress", figures, seed=42, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
