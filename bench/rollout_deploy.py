"""How long a new release takes from its commit to the first request that it is seen to answer.

`python -m bench.rollout_deploy [--json] [--keep] [--short]`. FinFlow itself is what is deployed: a commit in
a scratch clone changes the version, `finflow release build` makes a release of it, a fleet of two workers is
started and ready, the smoke set runs on it (whoever composes the whole pipeline passes one), the candidate
takes its 5 % at the ingress, and a customer of the candidate's share is asked for until the new version
answers. The baseline serves a steady load meanwhile, whose failed requests are counted. The first deployment
meets no dependencies, as after a change of the lock; those after it find them.
"""

import argparse
import asyncio
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from time import perf_counter, time
from typing import Any

import aiohttp
import uvloop

from bench.ground import OUT_OF_REACH, median, report
from finflow.app import fleets
from finflow.rollout.fleet_spec import CommandFleet
from finflow.rollout.ports import Endpoint, Fleet
from finflow.rollout.verdicts import Side
from finflow.stack.releases.build import Wanted, build
from finflow.stack.service import Stack, StackSettings, running

ROOT = Path(__file__).parents[1]
CANARY_BP = 500
CUSTOMERS = 2_000
WHO = {
    f"GIT_{role}_{what}": "bench@example.org"
    for role in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}

Smoke = Callable[[Sequence[Endpoint]], Awaitable[None]]


async def no_smoke(endpoints: Sequence[Endpoint]) -> None:
    """The smoke set is not of this benchmark's."""


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=folder, env={**os.environ, **WHO}, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def cloned(folder: Path) -> Path:
    """A repository of its own that holds this one's newest commit."""
    git(folder, "clone", "-q", "--no-hardlinks", "--depth", "1", f"file://{ROOT}", "clone")
    return folder / "clone"


def committed(clone: Path, version: str) -> str:
    """A commit that gives FinFlow this version."""
    path = clone / "src" / "finflow" / "__init__.py"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(f'__version__ = "{version}"' if line.startswith("__version__") else line for line in lines)
        + "\n"
    )
    git(clone, "commit", "-qam", f"Version {version}")
    return git(clone, "rev-parse", "HEAD")


def candidate_of(stack: Stack, release: str) -> Fleet:
    """Two workers of a release, beside those of `finflow up` and on the same database."""
    assert stack.front is not None
    spec = CommandFleet(
        command=(
            "{python}",
            "-P",
            "-m",
            "finflow.stack.serve",
            "finflow.api.asgi:application",
            "127.0.0.1",
            "{port}",
        ),
        release=release,
        ready_path="/readyz",
        environment={
            **OUT_OF_REACH,
            "FINFLOW_DATA": str(stack.folder.root),
            "FINFLOW_KEYS": str(stack.keys),
            "FINFLOW_ISSUER": stack.issuer,
            "FINFLOW_INGRESS_PROOF": str(stack.front.proof),
        },
        environment_from=("FINFLOW_DATABASE_URL",),
    )
    data = stack.folder.root
    return fleets.fleet(spec, data=data, service="finflow", release=release, base=data)


async def seen(url: str, version: str) -> int:
    """Asks for one customer after another until this version answers; how many requests that took."""
    async with aiohttp.ClientSession() as session:
        for number in range(CUSTOMERS):
            headers = {"X-Customer-Id": f"customer-{number}"}
            async with session.get(f"{url}/healthz", headers=headers) as response:
                if (await response.json())["release"] == version:
                    return number + 1
    raise RuntimeError("the new release answers nobody")


async def deployed(stack: Stack, clone: Path, number: int, smoke: Smoke) -> dict[str, Any]:
    """One deployment from commit to first answer, and back again."""
    assert stack.front is not None
    ingress, version = stack.front.ingress, f"0.1.0+deploy{number}"
    marks = [perf_counter()]
    commit = committed(clone, version)
    release, _ = await asyncio.to_thread(
        build,
        fleets.releases(stack.folder.root),
        Wanted(repository=clone, revision=commit, from_current=True),
        lambda _: None,
    )
    marks.append(perf_counter())
    fleet = candidate_of(stack, release.name)
    await fleet.start(2)
    if not await fleet.ready(60):
        raise RuntimeError("the candidate does not become ready")
    marks.append(perf_counter())
    await smoke(await fleet.endpoints())
    marks.append(perf_counter())
    await ingress.set_backends(Side.CANDIDATE, await fleet.endpoints())
    await ingress.set_weight(CANARY_BP)
    asked = await seen(stack.url, version)
    marks.append(perf_counter())
    lead_s = time() - datetime.fromisoformat(release.source.committed_at or "").timestamp()
    await ingress.set_weight(0)
    await ingress.set_backends(Side.CANDIDATE, [])
    whole = await fleet.drain(10)
    await fleet.stop()
    names = ("build_s", "ready_s", "smoke_s", "serve_s")
    phases = {name: after - before for name, before, after in zip(names, marks, marks[1:], strict=False)}
    return {
        **phases,
        "deploy_s": marks[-1] - marks[0],
        "lead_time_s": lead_s,
        "asked": asked,
        "drained": whole,
    }


@asynccontextmanager
async def loaded(url: str, statuses: Counter[int]) -> AsyncIterator[None]:
    """Four customers who ask all the time, 25 times a second each."""
    done = asyncio.Event()

    async def ask(number: int) -> None:
        async with aiohttp.ClientSession(headers={"X-Customer-Id": f"steady-{number}"}) as session:
            while not done.is_set():
                try:
                    async with session.get(f"{url}/healthz") as response:
                        statuses[response.status] += 1
                except aiohttp.ClientError:
                    statuses[0] += 1
                await asyncio.sleep(0.04)

    asking = [asyncio.create_task(ask(number)) for number in range(4)]
    try:
        yield
    finally:
        done.set()
        await asyncio.gather(*asking)


async def measure(rounds: int, smoke: Smoke = no_smoke) -> dict[str, Any]:
    statuses: Counter[int] = Counter()
    with tempfile.TemporaryDirectory(prefix="finflow-bench-") as folder:
        clone = cloned(Path(folder))
        settings = StackSettings(
            data=Path(folder) / "data", workers=2, environment=OUT_OF_REACH, ingress="caddy"
        )
        async with running(settings) as stack:
            os.environ["FINFLOW_DATABASE_URL"] = stack.database_url
            async with loaded(stack.url, statuses):
                runs = [await deployed(stack, clone, number, smoke) for number in range(rounds)]
    later = runs[1:]
    return {
        "deploy_s": median([run["deploy_s"] for run in later]),
        "deploy_s_max": round(max(run["deploy_s"] for run in later), 3),
        "deploy_new_lock_s": round(runs[0]["deploy_s"], 3),
        **{
            name: median([run[name] for run in later])
            for name in ("build_s", "ready_s", "smoke_s", "serve_s")
        },
        "lead_time_s": median([run["lead_time_s"] for run in later]),
        "drained_whole": all(run["drained"] for run in runs),
        "deployments": len(runs),
        "requests_meanwhile": statuses.total(),
        "failed_meanwhile": statuses.total() - statuses[200],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="two deployments: shows that it runs")
    options = parser.parse_args()
    figures = uvloop.run(measure(2 if options.short else 6))
    report("rollout_deploy", figures, seed=0, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
