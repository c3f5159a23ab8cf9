"""`finflow verify` as a user runs it: of `finflow up`, of a foreign service, with everything wrong."""

import json
import os
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from console import ROOT, Stack, started

from finflow.app import Config
from finflow.app.smoke import Smoke, smoke_check
from finflow.kernel.errors import FinFlowError
from finflow.rollout.verdicts import Verdict

Done = subprocess.CompletedProcess[str]
_EXAMPLE = ROOT / "examples" / "verify"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with started() as stack:
        yield stack


@pytest.fixture(scope="module")
def notes() -> Iterator[str]:
    command = [sys.executable, str(_EXAMPLE / "notes.py"), "0"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    yield child.stdout.readline().split()[-1]
    child.kill()
    child.communicate()


def verify(environment: dict[str, str], *words: str) -> Done:
    command = [sys.executable, "-m", "finflow", "verify", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def plain(tmp_path: Path, **more: str) -> dict[str, str]:
    """An environment in which no FinFlow runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FINFLOW_")}
    return {**kept, "FINFLOW_DATA": str(tmp_path / "none"), **more}


def finflow(stack: Stack, *words: str) -> str:
    """What another command prints."""
    command = [sys.executable, "-m", "finflow", *words]
    done = subprocess.run(command, env=stack.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _ledger(stack: Stack) -> tuple[str, dict[str, Any]]:
    """The synthetic ledger and its trial balance, by other commands."""
    listed = json.loads(finflow(stack, "ledger", "list", "--json"))
    [found] = [each for each in listed if each["name"] == "finflow-verify (synthetic)"]
    return found["ledger_id"], json.loads(
        finflow(stack, "ledger", "trial-balance", found["ledger_id"], "--json")
    )


def test_the_bank_is_verified_again_and_again(stack: Stack, tmp_path: Path) -> None:
    for _ in range(2):
        done = verify(stack.environment(), "--json", "--junit", str(tmp_path / "out.xml"))
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert (found["verified"], found["failed"]) == (True, 0)
        # No Alertmanager, no Prometheus and no TLS are here, and it says so.
        skipped = {each["id"] for each in found["checks"] if each["status"] == "skipped"}
        assert skipped == {"certificates", "alert-path", "watchdog"}
        assert found["duration_s"] < 300
        suite = ET.parse(tmp_path / "out.xml").getroot()[0]  # noqa: S314 - written just now
        assert len(suite) == len(found["checks"])
    _, balance = _ledger(stack)
    assert balance["balanced"] is True
    assert all(each["pending_debits"] == "0.00" for each in balance["currencies"])


def test_no_customer_of_a_run_keeps_an_account_or_money(stack: Stack) -> None:
    assert verify(stack.environment(), "--tag", "smoke").returncode == 0
    ledger_id, _ = _ledger(stack)
    accounts = json.loads(
        finflow(stack, "account", "list", "--ledger", ledger_id, "--limit", "1000", "--json")
    )
    customers = [each for each in accounts if "-customer" in (each["external_reference"] or "")]
    assert customers
    assert {each["status"] for each in customers} == {"closed"}


def test_a_tenant_s_token_is_enough_for_what_is_the_tenant_s(stack: Stack) -> None:
    environment = stack.environment() | {"FINFLOW_TOKEN": stack.tenant_token()}
    done = verify(environment, "--json")
    assert done.returncode == 0, done.stderr
    found = {each["id"]: each["status"] for each in json.loads(done.stdout)["checks"]}
    assert (found["post"], found["tenant"], found["limits"]) == ("passed", "skipped", "skipped")
    assert verify(environment, "--strict").returncode == 1
    assert environment["FINFLOW_TOKEN"] not in done.stdout + done.stderr


def test_settlement_is_accepted_on_a_clone(stack: Stack) -> None:
    done = verify(stack.environment(), "acceptance", "--orders", "60", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["accepted"], found["orders"], found["differences"]) == (True, 60, [])
    tenants = finflow(stack, "tenant", "list")
    assert "acceptance" not in tenants, "production has not heard of it"


def test_a_foreign_service_is_verified(notes: str, tmp_path: Path) -> None:
    words = ("--spec", str(_EXAMPLE / "notes.yaml"), "--url", notes)
    done = verify(plain(tmp_path), *words, "--set", "author=somebody")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed, 0 failed, 1 skipped" in done.stdout
    assert "notes of http" in done.stdout.splitlines()[-1]


def test_a_failure_is_exit_code_one(notes: str, tmp_path: Path) -> None:
    spec = tmp_path / "bad.yaml"
    spec.write_text(
        "name: x\nchecks:\n  - {id: a, kind: http, path: /gone}\n  - {id: b, kind: http, path: /health}\n"
    )
    done = verify(plain(tmp_path), "--spec", str(spec), "--url", notes)
    assert done.returncode == 1
    assert "FAILED  a" in done.stdout
    assert "status 404, not 2xx" in done.stdout
    assert "IS NOT VERIFIED: 1 passed, 1 failed" in done.stdout


@pytest.mark.parametrize(
    ("text", "words", "code", "said"),
    [
        ("name: x\nchecks:\n  - id: a\n    knd: http\n", (), 2, "s.yaml:3"),
        ("name: x\nchecks: [\n", (), 2, "s.yaml:3: "),
        ("name: x\nchecks:\n  - {id: a, kind: http, path: /}\n", ("--tag", "smoke"), 2, "there are: none"),
        ("name: x\nchecks:\n  - {id: a, kind: http, path: /}\n", ("--set", "a=b"), 2, "no input 'a'"),
        ("name: x\nchecks:\n  - {id: a, kind: http, path: /}\n", ("--url", "nonsense"), 2, "not an http"),
        ("name: x\nchecks:\n  - {id: a, kind: http, path: /}\n", ("--deadline-s", "0"), 2, "--deadline-s"),
        ("name: x\nchecks:\n  - {id: a, kind: http, path: /}\n", (), 1, "no URL of the service is given"),
    ],
)
def test_wrong_input_is_explained(
    tmp_path: Path, text: str, words: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "s.yaml").write_text(text)
    done = verify(plain(tmp_path), "--spec", str(tmp_path / "s.yaml"), *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_there_is_exit_code_three(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    spec = ("--spec", str(_EXAMPLE / "notes.yaml"))
    for words in ((*spec, "--url", url), ("--url", url)):
        done = verify(plain(tmp_path), *words)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "cannot be reached" in done.stderr
    nothing = verify(plain(tmp_path))
    assert nothing.returncode == 1
    assert "finflow up" in nothing.stderr
    assert verify(plain(tmp_path), "acceptance").returncode == 1
    missing = verify(plain(tmp_path), "--spec", str(tmp_path / "none.yaml"))
    assert missing.returncode == 2
    assert "No such file" in missing.stderr


def test_somebody_else_s_bank_needs_a_token(stack: Stack, tmp_path: Path) -> None:
    done = verify(plain(tmp_path), "--url", stack.url)
    assert done.returncode == 1
    assert "FINFLOW_TOKEN" in done.stderr


def test_what_is_no_bank_is_not_verified_as_one(notes: str, tmp_path: Path) -> None:
    spoiled = plain(tmp_path) | {"FINFLOW_TOKEN": "not-a-token"}
    done = verify(spoiled, "--url", notes)
    assert done.returncode == 1
    assert "FAILED  inputs" in done.stdout
    assert "FAILED  health" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_dry_run_asks_nobody(tmp_path: Path) -> None:
    done = verify(plain(tmp_path), "--dry-run", "--tag", "smoke", "--json")
    assert done.returncode == 0
    checks = json.loads(done.stdout)["checks"]
    assert sum("smoke" in each["tags"] for each in checks) == 12


async def test_the_bank_s_smoke_set_is_a_gate_of_a_rollout(stack: Stack, tmp_path: Path) -> None:
    url = stack.url
    shown = finflow(stack, "info", "--json")
    [data] = [each["value"] for each in json.loads(shown)["settings"] if each["name"] == "data"]
    config = Config.load({"data": data}, {})
    judged = await smoke_check(Smoke(spec="bank", base_url=url), config, environ={}).judge()
    assert (judged.verdict, judged.numbers["failed"]) == (Verdict.PASS, 0), judged.words
    assert int(judged.numbers["passed"]) >= 12
    nobody = Config.load({"data": str(tmp_path / "none")}, {})
    refused = await smoke_check(Smoke(spec="bank", base_url=url), nobody, environ={}).judge()
    assert (refused.verdict, refused.words.partition(":")[0]) == (Verdict.ERROR, "token_missing")


async def test_a_foreign_smoke_set_is_a_gate_of_a_rollout(notes: str) -> None:
    config = Config.load({}, {})
    smoke = Smoke(spec="notes.yaml", base_url=notes, headers={"X-Canary": "1"})
    judged = await smoke_check(smoke, config, _EXAMPLE, environ={}).judge()
    assert judged.verdict is Verdict.PASS, judged.words
    with pytest.raises(FinFlowError) as raised:
        smoke_check(Smoke(spec="nothing.yaml", base_url=notes), config, _EXAMPLE)
    assert raised.value.kind.code == "file_unreadable"
