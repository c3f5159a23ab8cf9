"""Schemathesis over the whole OpenAPI document: whatever is sent, the answer is one that it names."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oracles.http import Bank
from oracles.tokens import operator_token, tenant_token
from oracles.workers import worker

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
# The token comes from the environment: what stands in a command line, everybody on the machine can read.
CONFIG = 'headers = { Authorization = "Bearer ${FINFLOW_TOKEN}" }\n'


@pytest.mark.parametrize(
    ("caller", "examples"), [("tenant", 40), ("operator", 10), ("administrator", 10), ("nobody", 5)]
)
async def test_every_answer_is_one_that_the_document_names(
    database_url: str, tmp_path: Path, caller: str, examples: int
) -> None:
    async with worker(database_url) as (_, client):
        one = await Bank(client).found()
        a, b = await one.open(), await one.open()
        posted = (await one.post(one.transfer(a, b, "5"))).json()["transaction_id"]
        known = {
            "FINFLOW_TENANT_ID": one.tenant_id,
            "FINFLOW_LEDGER": one.ledger_id,
            "FINFLOW_ACCOUNT": a,
            "FINFLOW_TXN": posted,
        }
        tokens = {
            "tenant": tenant_token(one.tenant_id),
            "operator": operator_token(),
            "administrator": tenant_token(one.tenant_id, "admin"),
        }
        if caller in tokens:
            (tmp_path / "schemathesis.toml").write_text(CONFIG)
            known["FINFLOW_TOKEN"] = tokens[caller]
        done = await _schemathesis(f"{client.base_url}/openapi.json", tmp_path, known, examples)
        assert done.returncode == 0, done.stdout[-16000:] + done.stderr[-2000:]
        assert (await client.get(f"/v1/ledgers/{one.ledger_id}/trial-balance")).json()["balanced"] is True
        # Who was let in has left something behind, or the token was never sent.
        changes = await client.get(f"/v1/ledgers/{one.ledger_id}/changes")
        assert (len(changes.json()["items"]) > 2) == (caller == "tenant")
        everybody = await client.get("/v1/tenants", headers={"Authorization": f"Bearer {operator_token()}"})
        assert (len(everybody.json()["items"]) > 1) == (caller == "operator")


async def _schemathesis(
    document: str, folder: Path, known: dict[str, str], examples: int
) -> "subprocess.CompletedProcess[str]":
    program = [
        sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
        "run", document, "--checks", "all", "--max-examples", str(examples), "--seed", "20261122",
        # A request of the right shape may still break a rule of the ledger, which answers 422.
        "--exclude-checks", "positive_data_acceptance",
        "--phases", "examples,coverage,fuzzing", "--request-timeout", "30", "--no-color",
        "--suppress-health-check", "all",
    ]  # fmt: skip
    environment = os.environ | known | {"SCHEMATHESIS_HOOKS": HOOKS.stem, "PYTHONPATH": str(HOOKS.parent)}
    return await asyncio.to_thread(
        subprocess.run, program, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
