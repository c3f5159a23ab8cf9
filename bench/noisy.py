"""What one noisy tenant does to the others: their latency with and without the noise, in turn.

`python -m bench.noisy [--json] [--keep] [--short]`. Three quiet tenants post and read at a fixed rate,
whatever the answers do (an open loop); each request is timed from the moment it was due. Beside them wrk
makes noise without any pause, on 64 connections: posts of a fourth tenant, which has the shipped limits, or
requests with a forged token, a fresh one each. A ratio is the quiet tenants' p99 in a stretch with noise over
that in the stretch before it, without. All of it shares the machine's cores, both load generators too.
"""

import sys

if not __package__:
    # Run as a file, Python looks into this folder first, where http.py would stand for the library's http.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import asyncio
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import uvloop

from bench.ground import ledgers, median, quantile, report, token
from bench.http import SCRIPT, write_load, wrk
from bench.ledger import make_ledger
from finflow.ledger.service import LedgerService
from finflow.stack.service import Stack, StackSettings, running

QUIET = 3
RATE_PER_S = 40
NOISE_CONNECTIONS = 64
# The signature's last letters change from request to request, so that none was seen before.
FORGED = """
function setup(thread) thread:set("number", math.random(1, 9)) end
function init(args) bearer, sent = io.open(args[1]):read():sub(1, -12), 0 end
function request()
  sent = sent + 1
  local forged = bearer .. string.format("%d%09d", number, sent)
  return wrk.format("GET", "/v1/ledgers", {["Authorization"] = forged})
end
function done(s, l, r)
  print(string.format('RESULT %d %d %d 0 0 0', s.requests, s.duration, s.errors.status))
end
"""


class Customer(NamedTuple):
    """One tenant that behaves: its books, and the session that speaks for it."""

    ledger_id: str
    accounts: list[str]
    session: aiohttp.ClientSession


async def stretch(
    customers: list[Customer], seconds: float, rng: random.Random, rate_per_s: int = RATE_PER_S
) -> dict[str, float]:
    """Latency in milliseconds of posts and reads that start at a fixed rate, and how many failed.

    Each customer posts, and reads, `rate_per_s` times a second.
    """
    latencies: dict[str, list[float]] = {"post": [], "read": []}
    errors = 0

    async def one(customer: Customer, kind: str, due: float) -> None:
        nonlocal errors
        asked = _post(customer, rng) if kind == "post" else _read(customer, rng)
        async with asked as response:
            await response.read()
            errors += response.status >= 400
        latencies[kind].append((time.perf_counter() - due) * 1e3)

    start = time.perf_counter()
    per_s = rate_per_s * len(customers) * 2
    async with asyncio.TaskGroup() as group:
        for number in range(int(per_s * seconds)):
            due = start + number / per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            customer = customers[number // 2 % len(customers)]
            group.create_task(one(customer, ("post", "read")[number % 2], due))
    both = latencies["post"] + latencies["read"]
    return {
        "p50_ms": quantile(both, 0.5), "p99_ms": quantile(both, 0.99),
        "post_p99_ms": quantile(latencies["post"], 0.99), "read_p99_ms": quantile(latencies["read"], 0.99),
        "errors": errors,
    }  # fmt: skip


def _post(customer: Customer, rng: random.Random) -> Any:
    debit, credit = rng.sample(customer.accounts, 2)
    lines = [
        {"account_id": account, "direction": side, "amount": "1.00", "currency": "SGD"}
        for account, side in ((debit, "debit"), (credit, "credit"))
    ]
    body = msgspec.json.encode({"ledger_id": customer.ledger_id, "entries": lines})
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"q{rng.getrandbits(96):x}"}
    return customer.session.post("/v1/transactions", data=body, headers=headers)


def _read(customer: Customer, rng: random.Random) -> Any:
    return customer.session.get(f"/v1/accounts/{rng.choice(customer.accounts)}/balance")


class Noise(NamedTuple):
    """What wrk is told, for one kind of noise."""

    script: str
    arguments: tuple[str, ...]


async def measure(rounds: int, seconds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="finflow-bench-") as folder:
        # The shipped limits: they are what is measured here.
        settings = StackSettings(data=Path(folder) / "data", workers=2)
        async with running(settings) as stack, ledgers(stack.database_url, 2) as (service, _):
            customers = [await _customer(stack, service, number) for number in range(QUIET)]
            noises = await _noises(stack, service, Path(folder))
            try:
                return await _measure(stack, customers, noises, rounds, seconds)
            finally:
                for customer in customers:
                    await customer.session.close()


async def _customer(stack: Stack, service: LedgerService, number: int) -> Customer:
    tenant, ledger_id, accounts = await make_ledger(service, f"quiet{number}")
    headers = {"Authorization": f"Bearer {token(stack, tenant.tenant_id)}"}
    return Customer(ledger_id, accounts, aiohttp.ClientSession(stack.url, headers=headers))


async def _noises(stack: Stack, service: LedgerService, folder: Path) -> dict[str, Noise]:
    tenant, ledger_id, accounts = await make_ledger(service, "noisy")
    listing, bearer, forged = folder / "accounts", folder / "bearer", folder / "forged"
    write_load(listing, accounts, bearer, token(stack, tenant.tenant_id))
    forged.write_text(bearer.read_text())
    return {
        "posts": Noise(SCRIPT, (str(listing), ledger_id, "noise", str(bearer))),
        "forged": Noise(FORGED, (str(forged),)),
    }


async def _measure(
    stack: Stack, customers: list[Customer], noises: dict[str, Noise], rounds: int, seconds: int
) -> dict[str, Any]:
    rng = random.Random(1993)
    await stretch(customers, seconds, rng)
    figures: dict[str, Any] = {"quiet_tenants": QUIET, "quiet_per_s": QUIET * RATE_PER_S * 2, "errors": 0}
    for name, noise in noises.items():
        alone, beside, heard = [], [], []
        for number in range(rounds):
            alone.append(await stretch(customers, seconds, rng))
            arguments = [f"{each}{number}" if each == "noise" else each for each in noise.arguments]
            # A second before and after, so that the burst that everybody has is spent before the measurement.
            wrk_runs = wrk(stack.url, noise.script, seconds + 4, *arguments, connections=NOISE_CONNECTIONS)
            making = asyncio.create_task(wrk_runs)
            await asyncio.sleep(3)
            beside.append(await stretch(customers, seconds, rng))
            heard.append(await making)
        figures |= _figures(name, alone, beside, heard)
        figures["errors"] += int(sum(each["errors"] for each in (*alone, *beside)))
    return figures


Stretches = list[dict[str, float]]


def _figures(name: str, alone: Stretches, beside: Stretches, heard: Stretches) -> dict[str, Any]:
    pairs = list(zip(alone, beside, strict=True))
    ratios = [with_noise["p99_ms"] / without["p99_ms"] for without, with_noise in pairs]
    return {
        f"{name}_p99_ratio": median(ratios),
        f"{name}_p99_ratios": [round(ratio, 3) for ratio in ratios],
        f"{name}_p50_ratio": median([b["p50_ms"] / a["p50_ms"] for a, b in pairs]),
        f"{name}_post_p99_ms": [median([each["post_p99_ms"] for each in side]) for side in (alone, beside)],
        f"{name}_read_p99_ms": [median([each["read_p99_ms"] for each in side]) for side in (alone, beside)],
        f"{name}_noise_per_s": round(median([run["per_s"] for run in heard])),
        f"{name}_noise_let_in_per_s": round(
            median([run["per_s"] * (1 - run["errors"] / run["requests"]) for run in heard])
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="one small round: shows that it runs")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        report("noisy", {"skipped": "wrk is not installed"}, seed=1993, as_json=options.json, keep=False)
        return
    rounds, seconds = (1, 4) if options.short else (5, 8)
    figures = uvloop.run(measure(rounds, seconds))
    report("noisy", figures, seed=1993, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
