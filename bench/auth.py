"""What the token check, the tenant's scope and the limits cost: single posts with all of it, and with none.

`python -m bench.auth [--json] [--keep] [--short]`. Two fleets of two workers stand on one database, each with
a ledger of its own of the same tenant: one as it is shipped, one behind a door that takes everybody for that
tenant and counts nothing. That door exists here alone; there is no setting for it. wrk asks them in turn, so
that each ratio compares neighbours in time.
"""

import sys

if not __package__:
    # Run as a file, Python looks into this folder first, where http.py would stand for the library's http.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from bench.ground import OUT_OF_REACH, ledgers, median, report, token
from bench.http import CONNECTIONS, SCRIPT, WORKERS, write_load, wrk
from bench.ledger import make_ledger, open_requests
from finflow.api.asgi import build
from finflow.app import Config, services
from finflow.identity.model import SCOPES, Principal
from finflow.stack import ports
from finflow.stack.fleet import Fleet
from finflow.stack.service import Stack, StackSettings, running
from finflow.telemetry import logs

ROOT = Path(__file__).parents[1]
TENANT = "FINFLOW_BENCH_TENANT"


class OpenDoor:
    """Takes everybody for one tenant's client that may do everything, and looks at nothing."""

    def __init__(self, tenant_id: str) -> None:
        self._anybody = Principal("bench", tenant_id, frozenset(SCOPES), float("inf"), "bench")

    async def enter(self, scope: Any) -> tuple[()]:
        scope["state"]["principal"] = self._anybody
        return ()

    def leave(self, scope: Any) -> None:
        """Nobody was counted."""


def __getattr__(name: str) -> Any:
    """`bench.auth:unguarded` is what the workers of the second fleet serve."""
    if name != "unguarded":
        raise AttributeError(name)
    config = Config.load()
    logs.configure(config.log_level)
    return build(lambda: services(config), door=OpenDoor(os.environ[TENANT]))


@asynccontextmanager
async def second_fleet(stack: Stack, tenant_id: str) -> AsyncIterator[str]:
    """The URL of a fleet without the door, on the stack's database."""
    bound = ports.reserve("127.0.0.1", 0)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        TENANT: tenant_id,
        "FINFLOW_DATABASE_URL": stack.database_url,
        "FINFLOW_DATA": str(stack.folder.root),
    }
    fleet = Fleet("bench.auth:unguarded", bound, WORKERS, environment, stack.folder.logs / "bench.log")
    await fleet.start()
    try:
        yield fleet.url
    finally:
        await fleet.stop()
        bound.close()


async def measure(rounds: int, seconds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="finflow-bench-") as folder:
        settings = StackSettings(data=Path(folder) / "data", workers=WORKERS, environment=OUT_OF_REACH)
        async with running(settings) as stack, ledgers(stack.database_url, 2) as (service, _):
            tenant, ledger_id, accounts = await make_ledger(service, "guarded")
            other = await tenant.create_ledger("unguarded")
            records = await tenant.submit(other.ledger_id, open_requests())
            bearer, listing = Path(folder) / "bearer", Path(folder) / "accounts"
            second = Path(folder) / "accounts2"
            write_load(second, [each.account.account_id for each in records if each.account], bearer, "")
            write_load(listing, accounts, bearer, token(stack, tenant.tenant_id))
            async with second_fleet(stack, tenant.tenant_id) as url:
                on = (stack.url, str(listing), ledger_id)
                off = (url, str(second), other.ledger_id)
                seen = await _in_turn(on, off, str(bearer), rounds, seconds)
            balanced = [(await tenant.trial_balance(each)).balanced for each in (ledger_id, other.ledger_id)]
    return _figures(*seen) | {"books_balanced": all(balanced)}


Target = tuple[str, str, str]
Runs = list[dict[str, float]]


async def _in_turn(on: Target, off: Target, bearer: str, rounds: int, seconds: int) -> tuple[Runs, Runs]:
    """Runs against both; which of them comes first changes from round to round."""
    runs: tuple[Runs, Runs] = ([], [])
    for number in range(-1, rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            url, listing, ledger_id = (on, off)[which]
            run = await wrk(url, SCRIPT, seconds, listing, ledger_id, f"run{number}", bearer)
            if number >= 0:
                runs[which].append(run)
    return runs


def _figures(on: Runs, off: Runs) -> dict[str, Any]:
    ratios = [a["per_s"] / b["per_s"] for a, b in zip(on, off, strict=True)]
    return {
        "with_per_s": round(median([run["per_s"] for run in on])),
        "without_per_s": round(median([run["per_s"] for run in off])),
        "ratio": median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "with_p99_ms": median([run["p99_ms"] for run in on]),
        "without_p99_ms": median([run["p99_ms"] for run in off]),
        "errors": int(sum(run["errors"] for run in (*on, *off))),
        "workers": WORKERS,
        "connections": CONNECTIONS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="one small round: shows that it runs")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        report("auth", {"skipped": "wrk is not installed"}, seed=1993, as_json=options.json, keep=False)
        return
    rounds, seconds = (1, 3) if options.short else (6, 6)
    figures = uvloop.run(measure(rounds, seconds))
    report("auth", figures, seed=1993, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
