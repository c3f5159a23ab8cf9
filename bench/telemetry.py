"""What telemetry costs: an observation, a scrape, and all of it at the HTTP benchmark, on against off.

`python -m bench.telemetry [--json] [--keep] [--short]`. Microseconds are the best of several rounds, beside
prometheus_client in the same run. The HTTP part runs stacks side by side, half of them bench.bare without
anything that watches it, and posts to them in turn with wrk, a second at a time and many times, because the
machine's own speed changes by more than what is measured from one half minute to the next; `on` counts,
traces to a receiver that takes everything, and logs. There are several of each, because where a process
happens to lie in memory makes it up to a twentieth faster or slower for as long as it lives. Without wrk that
part is left out, and the result says so.
"""

import argparse
import asyncio
import itertools
import random
import shutil
import tempfile
import timeit
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import fmean, pstdev
from time import perf_counter
from typing import Any

import aiohttp
import prometheus_client
import psutil
import uvloop

from bench import tracing
from bench.ground import OUT_OF_REACH, ledgers, median, report, token
from bench.http import SCRIPT, WORKERS, write_load, wrk
from bench.ledger import make_ledger
from bench.noisy import Customer, stretch
from finflow.stack.service import Stack, StackSettings, running
from finflow.telemetry.collecting import Collector, block_path
from finflow.telemetry.exposition import pieces
from finflow.telemetry.instruments import REQUEST_EDGES_S
from finflow.telemetry.metrics import Registry

SERIES = 10_000
PROCESSES = 2
# Posts a second to each of two stacks, and as many reads, where latency is measured without a queue.
PACED_PER_S = 75
# Of each kind.
STACKS = 4
# Until most accounts were posted on, which both kinds remember.
WARM_S = 3
ROOT = Path(__file__).parents[1]


def micros(work: Callable[..., object], *arguments: object, rounds: int = 15, times: int = 20_000) -> float:
    """The best round's microseconds a call."""
    timer = timeit.Timer("work(*a)" if arguments else "work()", globals={"work": work, "a": arguments})
    return round(min(timer.repeat(rounds, times)) / times * 1e6, 3)


def observations() -> dict[str, float]:
    """A counter and a histogram, ours and prometheus_client's."""
    ours, theirs = Registry(), prometheus_client.CollectorRegistry()
    counter = ours.counter("bench_requests", "Requests.", ("route",)).bind("/")
    histogram = ours.histogram(
        "bench_time_seconds", "Time.", REQUEST_EDGES_S, ("route",), exemplars=True
    ).bind("/")
    same = prometheus_client.Counter("bench_requests", "Requests.", ["route"], registry=theirs).labels("/")
    same_time = prometheus_client.Histogram(
        "bench_time_seconds", "Time.", ["route"], registry=theirs, buckets=REQUEST_EDGES_S
    ).labels("/")
    found = {
        "counter_us": micros(counter.inc),
        "prometheus_client_counter_us": micros(same.inc),
        "histogram_us": micros(histogram.observe, 0.0123),
        "prometheus_client_histogram_us": micros(same_time.observe, 0.0123),
        "exemplar_us": micros(histogram.exemplify, 0.0123, b"t" * 16, b"s" * 8, 1.0),
    }
    for name in ("counter", "histogram"):
        ratio = found[f"{name}_us"] / found[f"prometheus_client_{name}_us"]
        found[f"{name}_ratio_to_prometheus_client"] = round(ratio, 3)
    return found


def scrape() -> dict[str, float]:
    """One scrape of so many series, each counted by two processes; and its longest hold on the thread."""
    with tempfile.TemporaryDirectory() as folder:
        kept = [_counted(Path(folder), number) for number in range(PROCESSES)]
        reader, whole_ms, longest_ms, size = Collector(Path(folder)), [], [], 0
        for _ in range(11):
            since = began = perf_counter()
            longest, size = 0.0, 0
            for piece in pieces(reader, openmetrics=False):
                size += len(piece)
                longest, since = max(longest, perf_counter() - since), perf_counter()
            whole_ms.append((perf_counter() - began) * 1e3)
            longest_ms.append(longest * 1e3)
        for each in kept:
            each.release()
    return {
        "scrape_series": SERIES,
        "scrape_first_ms": round(whole_ms[0], 1),
        "scrape_ms": median(whole_ms[1:]),
        "scrape_longest_hold_ms": median(longest_ms[1:]),
        "scrape_bytes": size,
    }


def _counted(folder: Path, number: int) -> Registry:
    """A registry of 10,000 lines: half of them counters, half of them parts of histograms."""
    made = Registry()
    family = made.counter("bench_requests", "Requests.", ("tenant", "outcome"), released=True)
    for tenant in range(SERIES // 2):
        family.bind(f"ten_01m82nreh9edy80000000{tenant:05}", "good").inc()
    lines = len(REQUEST_EDGES_S) + 3
    times = made.histogram("bench_time_seconds", "Time.", REQUEST_EDGES_S, ("route",), released=True)
    for route in range(SERIES // 2 // lines):
        times.bind(f"/v1/routes/{route}").observe(0.1)
    made.attach(block_path(folder, number), "bench", number)
    return made


# --- all of it, at the HTTP benchmark ---


async def http(
    rounds: int, seconds: int, paced_rounds: int, paced_s: int, pairs: int = STACKS
) -> dict[str, Any]:
    """Posts to stacks that are watched and to some that are not, in turn: as many as it takes, and at a rate.

    At full speed a quantile of latency is a queue's length over the throughput, and says the same once more.
    What watching adds to an answer shows where nobody queues: posts and reads at a fixed rate, to one of each
    at the same time, so that what else the machine does meets both.
    """
    async with AsyncExitStack() as stacks:
        folder = Path(stacks.enter_context(tempfile.TemporaryDirectory(prefix="finflow-bench-")))
        endpoint = await stacks.enter_async_context(_receiver())
        variants = {
            "on": ("finflow.api.asgi:application", {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}),
            "off": ("bench.bare:application", {"PYTHONPATH": str(ROOT)}),
        }
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
        paced: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
        customers: dict[tuple[str, int], Customer] = {}
        posts: dict[tuple[str, int], Callable[[int, str], Any]] = {}
        for name, pair in itertools.product(variants, range(pairs)):
            target, environment = variants[name]
            data = folder / f"{name}{pair}"
            settings = StackSettings(
                data=data, workers=WORKERS, port=0, target=target,
                environment=OUT_OF_REACH | environment | {"FINFLOW_DATA": str(data)},
            )  # fmt: skip
            stack = await stacks.enter_async_context(running(settings))
            posts[name, pair] = await _poster(stack, data.with_suffix(".accounts"))
            customers[name, pair] = await stacks.enter_async_context(_customer(stack))
            await posts[name, pair](WARM_S, "warm")
        rng = random.Random(1993)
        for number, pair in itertools.product(range(rounds), range(pairs)):
            # Which goes first changes, so that neither always follows the other.
            order = sorted(variants, reverse=bool(number % 2))
            for name in order:
                runs[name].append(await posts[name, pair](seconds, f"run{number}"))
            if number >= paced_rounds:
                continue
            both = [stretch([customers[name, pair]], paced_s, rng, PACED_PER_S) for name in order]
            for name, found in zip(order, await asyncio.gather(*both), strict=True):
                paced[name].append(found)
    return _compared(runs) | _compared_paced(paced) | {"http_stacks_of_each": pairs}


@asynccontextmanager
async def _customer(stack: Stack) -> AsyncIterator[Customer]:
    async with ledgers(stack.database_url, 2) as (service, _):
        tenant, ledger_id, accounts = await make_ledger(service, "paced")
    headers = {"Authorization": f"Bearer {token(stack, tenant.tenant_id)}"}
    async with aiohttp.ClientSession(stack.url, headers=headers) as session:
        yield Customer(ledger_id, accounts, session)


def _compared_paced(paced: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    pairs = list(zip(paced["on"], paced["off"], strict=True))
    return {
        "paced_per_s": 2 * PACED_PER_S,
        "paced_on_p99_ms": median([run["p99_ms"] for run in paced["on"]]),
        "paced_off_p99_ms": median([run["p99_ms"] for run in paced["off"]]),
        "paced_p99_more_ms": median([on["p99_ms"] - off["p99_ms"] for on, off in pairs]),
        "paced_p50_more_ms": median([on["p50_ms"] - off["p50_ms"] for on, off in pairs]),
        "paced_errors": int(sum(run["errors"] for each in paced.values() for run in each)),
    }


async def _poster(stack: Stack, listing: Path) -> Callable[[int, str], Any]:
    async with ledgers(stack.database_url, 2) as (service, _):
        tenant, ledger_id, accounts = await make_ledger(service, listing.stem)
    bearer = listing.with_suffix(".bearer")

    async def post(seconds: int, run: str) -> dict[str, float]:
        # Fresh for each run: all of them together take longer than a token lives.
        write_load(listing, accounts, bearer, token(stack, tenant.tenant_id))
        before_s = _cpu_s(stack)
        found = await wrk(stack.url, SCRIPT, seconds, str(listing), ledger_id, run, str(bearer))
        return found | {"cpu_us": (_cpu_s(stack) - before_s) / found["requests"] * 1e6}

    return post


def _cpu_s(stack: Stack) -> float:
    """Processor time of the workers: unlike the wall's, it hardly depends on what else the machine does."""
    times = [psutil.Process(pid).cpu_times() for pid in stack.worker_pids]
    return float(sum(each.user + each.system for each in times))


def _compared(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    pairs = list(zip(runs["on"], runs["off"], strict=True))
    found: dict[str, Any] = {
        f"http_{name}_{figure}": median([run[figure] for run in each])
        for name, each in runs.items()
        for figure in ("per_s", "p50_ms", "p99_ms", "cpu_us")
    }
    return found | {
        **_with_error("http_on_to_off", [on["per_s"] / off["per_s"] for on, off in pairs]),
        "http_on_to_off_cpu": median([on["cpu_us"] / off["cpu_us"] for on, off in pairs]),
        "http_p99_more_ms": median([on["p99_ms"] - off["p99_ms"] for on, off in pairs]),
        "http_errors": int(sum(run["errors"] for each in runs.values() for run in each)),
        "http_rounds": len(pairs),
    }


def _with_error(name: str, ratios: list[float]) -> dict[str, float]:
    """The mean of the middle half, which no outlier moves, and its standard error by resampling."""

    def middle(values: list[float]) -> float:
        cut = len(values) // 4
        return fmean(sorted(values)[cut : len(values) - cut])

    rng = random.Random(1993)
    again = [middle(rng.choices(ratios, k=len(ratios))) for _ in range(1_000)]
    return {name: round(middle(ratios), 3), f"{name}_error": round(pstdev(again), 4)}


@asynccontextmanager
async def _receiver() -> AsyncIterator[str]:
    """Takes every span that comes and answers at once, as a collector on the same machine would."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().splitlines()
                    if line.startswith(b"content-length:")
                )
                await reader.readexactly(length)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="one small round: shows that it runs")
    options = parser.parse_args()
    figures: dict[str, Any] = {**observations(), **scrape()}
    figures |= tracing.measure(options.short)
    if shutil.which("wrk") is None:
        figures["http_skipped"] = "wrk is not installed"
    else:
        sizes = (1, 3, 1, 3, 1) if options.short else (30, 1, 4, 5, STACKS)
        figures |= uvloop.run(http(*sizes))
    report("telemetry", figures, seed=1993, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
