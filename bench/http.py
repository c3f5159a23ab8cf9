"""Single-transaction HTTP requests, beside an empty route of the same workers in the same run.

`python -m bench.http [--json] [--keep] [--short]`. Two workers, 500 keep-alive connections, two-entry
transactions over 10,000 accounts, a fresh idempotency key each, a tenant's token, limits out of reach. wrk
drives it, because a load generator in Python would eat the machine; where wrk is not installed, the
benchmark says so and measures nothing. Every answer that wrk counted is compared with what the ledger's
journal holds afterwards.
"""

import sys

if not __package__:
    # Run as a file, Python looks into this folder first, where http.py would stand for the library's http.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import asyncio
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import psutil
import uvloop

from bench.ground import OUT_OF_REACH, ledgers, median, report, token
from bench.ledger import make_ledger
from finflow.ledger.tenant import TenantLedgers
from finflow.stack.service import Stack, StackSettings, running

WORKERS = 2
CONNECTIONS = 500

# Keys are unique across wrk's threads and runs; amounts and accounts come from a seeded generator.
SCRIPT = """
local accounts = {}
local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end
function init(args)
  for line in io.lines(args[1]) do accounts[#accounts + 1] = line end
  ledger, run, sent, bearer = args[2], args[3], 0, io.open(args[4]):read()
  math.randomseed(1993 + number)
end
function request()
  sent = sent + 1
  local debit = math.random(#accounts)
  local credit = debit % #accounts + 1
  local amount = string.format("%d.%02d", math.random(0, 99), math.random(1, 99))
  local rest = '","amount":"' .. amount .. '","currency":"SGD"}'
  local body = '{"ledger_id":"' .. ledger .. '","entries":[' ..
    '{"account_id":"' .. accounts[debit] .. '","direction":"debit' .. rest .. ',' ..
    '{"account_id":"' .. accounts[credit] .. '","direction":"credit' .. rest .. ']}'
  return wrk.format("POST", "/v1/transactions", {["Content-Type"] = "application/json",
    ["Authorization"] = bearer, ["Idempotency-Key"] = run .. "-" .. number .. "-" .. sent}, body)
end
function done(summary, latency, requests)
  local e = summary.errors
  print(string.format("RESULT %d %d %d %d %d %d", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.timeout + e.status, latency:percentile(50), latency:percentile(99),
    latency:percentile(99.9)))
end
"""
EMPTY = "function done(s, l, r) print(string.format('RESULT %d %d 0 0 0 0', s.requests, s.duration)) end"


async def wrk(
    url: str, script: str, seconds: int, *arguments: str, connections: int = CONNECTIONS
) -> dict[str, float]:
    """Runs wrk once; requests a second, errors, and latency quantiles in milliseconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            "wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", file.name, url, "--",
            *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output = (await process.communicate())[0].decode()
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    assert found, output
    requests, micros, errors, p50, p99, p999 = (int(number) for number in found.groups())
    return {
        "requests": requests, "per_s": requests / micros * 1e6, "errors": errors,
        "p50_ms": p50 / 1e3, "p99_ms": p99 / 1e3, "p999_ms": p999 / 1e3,
    }  # fmt: skip


async def measure(rounds: int, seconds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="finflow-bench-") as folder:
        settings = StackSettings(data=Path(folder) / "data", workers=WORKERS, environment=OUT_OF_REACH)
        async with running(settings) as stack, ledgers(stack.database_url, 2) as (service, _):
            tenant, ledger_id, accounts = await make_ledger(service, "http")
            listing, bearer = Path(folder) / "accounts", Path(folder) / "bearer"
            write_load(listing, accounts, bearer, token(stack, tenant.tenant_id))
            return await _measure(stack, tenant, ledger_id, (str(listing), str(bearer)), rounds, seconds)


def schedule(stack: Stack, policy: int) -> None:
    """Have the kernel schedule all threads of the workers so."""
    for pid in stack.worker_pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setscheduler(int(thread.name), policy, os.sched_param(0))


def write_load(listing: Path, accounts: list[str], bearer: Path, token: str) -> None:
    """What the script reads: accounts, one a line, and the header that says who asks."""
    listing.write_text("\n".join(accounts) + "\n")
    bearer.write_text(f"Bearer {token}")


async def _measure(
    stack: Stack, tenant: TenantLedgers, ledger_id: str, files: tuple[str, str], rounds: int, seconds: int
) -> dict[str, Any]:
    before = (await tenant.trial_balance(ledger_id)).seq
    posts: list[dict[str, float]] = []
    ordinary: list[dict[str, float]] = []
    empties: list[dict[str, float]] = []
    listing, bearer = files

    async def posting(run: str, for_s: int) -> dict[str, float]:
        return await wrk(stack.url, SCRIPT, for_s, listing, ledger_id, run, bearer)

    await posting("warm", max(2, seconds // 3))
    for number in range(rounds):
        posts.append(await posting(f"run{number}", seconds))
        # The same with workers whose threads interrupt whoever runs, as Linux has it without being asked.
        schedule(stack, os.SCHED_OTHER)
        ordinary.append(await posting(f"ordinary{number}", seconds))
        schedule(stack, os.SCHED_BATCH)
        empties.append(await wrk(f"{stack.url}/healthz", EMPTY, max(2, seconds // 3)))
    rss = max(psutil.Process(pid).memory_info().rss for pid in stack.worker_pids) / 2**20
    after = await tenant.trial_balance(ledger_id)
    answered = int(sum(run["requests"] for run in posts + ordinary))
    return {
        "requests_per_s": round(median([run["per_s"] for run in posts])),
        "p50_ms": median([run["p50_ms"] for run in posts]),
        "p99_ms": median([run["p99_ms"] for run in posts]),
        "p999_ms": median([run["p999_ms"] for run in posts]),
        "errors": int(sum(run["errors"] for run in posts + ordinary)),
        "batch_to_ordinary_scheduling": median(
            [p["per_s"] / o["per_s"] for p, o in zip(posts, ordinary, strict=True)]
        ),
        "empty_route_per_s": round(median([run["per_s"] for run in empties])),
        "empty_route_ratio": median([p["per_s"] / e["per_s"] for p, e in zip(posts, empties, strict=True)]),
        "worker_rss_mb": round(rss, 1),
        "workers": WORKERS,
        "connections": CONNECTIONS,
        "answered": answered,
        # What was in flight when wrk stopped is journaled but not counted by it.
        "journaled_at_least_as_answered": after.seq - before >= answered,
        "books_balanced": after.balanced,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="one small round: shows that it runs")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        report("http", {"skipped": "wrk is not installed"}, seed=1993, as_json=options.json, keep=False)
        return
    rounds, seconds = (1, 3) if options.short else (3, 12)
    figures = uvloop.run(measure(rounds, seconds))
    report("http", figures, seed=1993, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
