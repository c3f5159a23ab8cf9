"""What a rollout is promised to do, in one document: the judge, the router and a deployment.

`python -m bench.rollout [--json] [--keep] [--short]`. Its parts run on their own as well: simulated releases
(`bench.rollout_judge`), requests through Caddy and HAProxy (`bench.rollout_ingress`), and a commit on its way
to its first answer (`bench.rollout_deploy`). `overhead_p99_ms` is that of the router that `finflow up` puts
in front; each router's own figure stands beside it.
"""

import argparse
from typing import Any

import uvloop

from bench import rollout_deploy, rollout_ingress, rollout_judge
from bench.ground import report
from finflow.stack.front import chosen


def figures(*, short: bool) -> dict[str, Any]:
    """Everything; the simulation first, which needs no server. `deploy_` begins what deployments came to."""
    found = rollout_judge.figures(short=short)
    found |= uvloop.run(rollout_ingress.measure(short))
    shipped = f"{chosen('auto')}_overhead_p99_ms"
    if shipped in found:
        found["overhead_p99_ms"] = found[shipped]
    deployments = uvloop.run(rollout_deploy.measure(2 if short else 6))
    return found | {_named(name): value for name, value in deployments.items()}


def _named(name: str) -> str:
    return name if name.startswith("deploy") else f"deploy_{name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="a small round of each: shows that it runs")
    options = parser.parse_args()
    report(
        "rollout", figures(short=options.short), seed=rollout_judge.SEED, as_json=options.json,
        keep=options.keep,
    )  # fmt: skip


if __name__ == "__main__":
    main()
