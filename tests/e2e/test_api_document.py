"""Schemathesis over the whole OpenAPI document: whatever is sent, the answer is one that it names."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from oracles.http import Bank
from oracles.workers import worker

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
EXAMPLES = "40"


async def test_every_answer_is_one_that_the_document_names(database_url: str, tmp_path: Path) -> None:
    async with worker(database_url) as (_, client):
        one = await Bank(client).found()
        a, b = await one.open(), await one.open()
        posted = (await one.post(one.transfer(a, b, "5"))).json()["transaction_id"]
        known = {"FINFLOW_LEDGER": one.ledger_id, "FINFLOW_ACCOUNT": a, "FINFLOW_TXN": posted}
        done = await _schemathesis(f"{client.base_url}/openapi.json", tmp_path, known)
        assert done.returncode == 0, done.stdout[-16000:] + done.stderr[-2000:]
        assert (await client.get(f"/v1/ledgers/{one.ledger_id}/trial-balance")).json()["balanced"] is True


async def _schemathesis(
    document: str, folder: Path, known: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    program = [
        sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
        "run", document, "--checks", "all", "--max-examples", EXAMPLES, "--seed", "20261122",
        # A request of the right shape may still break a rule of the ledger, which answers 422.
        "--exclude-checks", "positive_data_acceptance",
        "--phases", "examples,coverage,fuzzing", "--request-timeout", "30", "--no-color",
        "--suppress-health-check", "all",
    ]  # fmt: skip
    environment = os.environ | known | {"SCHEMATHESIS_HOOKS": HOOKS.stem, "PYTHONPATH": str(HOOKS.parent)}
    return await asyncio.to_thread(
        subprocess.run, program, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
