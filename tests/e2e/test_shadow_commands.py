"""A release that books wrong amounts, from its first posting to books that are right again: by commands."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_STUBS = Path(__file__).parents[1] / "stubs"
# The nouns as they hang below `finflow rollout`, whatever else hangs there.
_NOUNS = """
import finflow.cli as cli
cli.COMMANDS["shadow"] = ("finflow.cli.rollout_shadow:shadow", "")
cli.COMMANDS["repair"] = ("finflow.cli.rollout_repair:repair", "")
cli.main()
"""


class Shell:
    """A user with one data folder; the release that runs on it is the baseline, or the wrong one."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FINFLOW_")},
            "FINFLOW_DATA": str(data), "FINFLOW_WORKERS": "1", "FINFLOW_KEEP_COMMANDS": "yes",
            "PYTHONPATH": str(_STUBS),
        }  # fmt: skip
        self.running: subprocess.Popen[str] | None = None

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _NOUNS, *words]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=120)

    def made(self, *words: str) -> str:
        done = self(*words, "--id")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def read(self, *words: str, status: int = 0) -> Any:
        done = self(*words, "--json")
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout)

    def up(self, target: str = "finflow.api.asgi:application") -> None:
        self.running = subprocess.Popen(
            [sys.executable, "-m", "finflow", "up", "--json"],
            env={**self.environ, "FINFLOW_TARGET": target}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.running.stdout is not None
        assert self.running.stdout.readline()

    def down(self) -> None:
        if self.running is not None:
            self.running.terminate()
            self.running.wait(60)
            assert self.running.stdout is not None
            self.running.stdout.close()
            self.running = None

    def until(self, words: list[str], reached: Any) -> Any:
        for _ in range(300):
            found = json.loads(self(*words, "--json").stdout)
            if reached(found):
                return found
            time.sleep(0.1)
        raise AssertionError(found)


@pytest.fixture
def shell() -> Iterator[Shell]:
    data = Path(tempfile.mkdtemp(prefix="ff-"))
    shell = Shell(data)
    yield shell
    shell("shadow", "stop")
    shell.down()
    shutil.rmtree(data, ignore_errors=True)


def test_a_wrong_release_is_found_explained_repaired_and_proven(shell: Shell) -> None:
    nothing = shell("shadow", "report")
    assert (nothing.returncode, "hint:" in nothing.stderr) == (1, True)
    shell.up()
    tenant = shell.made("tenant", "create", "bank")
    ledger = shell.made("ledger", "create", "main", "--tenant", tenant)
    opening = ("account", "open", "--ledger", ledger, "--currency", "SGD", "--kind")
    vault = shell.made(*opening, "asset", "--overdraft-limit", "unlimited")
    ada = shell.made(*opening, "liability")
    paying = ("transaction", "post", "--debit", vault, "--credit", ada, "--amount")
    shell.made(*paying, "100")
    assert "Would shadow" in shell("shadow", "start", "--dry-run").stdout
    started = shell.read("shadow", "start", "--baseline", "1.0")
    assert Path(f"/proc/{started['pid']}").exists()
    shell.made(*paying, "5")
    clean = shell.until(["shadow", "report"], lambda found: found["compared"] == 1)
    assert (clean["wrong"], clean["bound"], clean["running"]) == (0, 1.0, True)
    # The wrong release takes over; the shadow stays through the restart.
    shell.down()
    shell.up("finflow_wrong_release:application")
    wrong = shell.made(*paying, "7")
    found = shell.until(["shadow", "report"], lambda found: found["wrong"] == 1)
    assert found["outcomes"] == {"match": 1, "mismatch": 1}
    assert shell("shadow", "report", "--cases").returncode == 1
    case = shell.read("shadow", "explain", "1")
    assert case["currencies"] == ["SGD"]
    assert {d["place"] for d in case["case"]["differences"]} == {"entries[0]", "entries[1]"}
    text = shell("shadow", "explain", "1").stdout
    assert "amount_minor=7000" in text
    assert "amount_minor=700 " in text
    assert shell("shadow", "explain", "99").returncode == 1
    assert shell.read("shadow", "verify", status=1)["accounts_apart"] == 2
    # It is taken back, and what it did is put right.
    shell.down()
    shell.up()
    assert shell.read("account", "balance", ada)["balance"] == "175.00"
    plan = shell.read("repair", "plan")
    assert [(item["transaction_id"], item["action"]) for item in plan["items"]] == [(wrong, "reverse")]
    path = str(shell.data / "shadow" / "repair.json")
    assert "reverse" in shell("repair", "show", path).stdout
    assert shell("repair", "apply", path).returncode == 130, "without an answer nothing is done"
    assert shell.read("repair", "apply", path, "--dry-run")["digest"] == plan["digest"]
    done = shell.read("repair", "apply", path, "--yes")
    assert (done["repaired"], done["refused"], done["for_people"]) == (1, 0, 0)
    assert shell.read("repair", "apply", path, "--yes")["items"][0]["replayed"] is True
    assert shell.read("account", "balance", ada)["balance"] == "112.00"
    proven = shell.read("shadow", "verify")
    assert (proven["equal"], proven["unexplained"], proven["accounts_apart"]) == (True, 0, 0)
    assert shell.read("shadow", "stop")["wrong"] == 1
    assert not (shell.data / "shadow" / "clone").exists()
    assert shell("shadow", "stop").returncode == 1
