"""`finflow settlement send` and `reconcile` from a shell: files in, figures out, and how they end."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from console import Stack, started

from oracles.letters import entry, notification, payment, transfers

Done = subprocess.CompletedProcess[str]
URL = "/v1/settlement"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with started() as stack:
        yield stack


class Shell:
    """Commands about one ledger with two members, a rail and its nostro."""

    def __init__(self, stack: Stack) -> None:
        self.environment = stack.environment()
        tenant_id = self("tenant", "create", "Letters", "--id").stdout.strip()
        self.ledger_id = self("ledger", "create", "Letters", "--tenant", tenant_id, "--id").stdout.strip()
        token = self("token", "--tenant", tenant_id).stdout.strip()
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=self.environment["FINFLOW_URL"], headers=headers) as client:
            for name, kind in (("ALFA", "member"), ("BETA", "member"), ("RAIL", "rail")):
                member = {"name": name, "kind": kind, "currencies": ["SGD"], "overdraft_limit": None}
                self._post(client, "participants", member)
            nostro = {"participant": "RAIL", "currency": "SGD", "account": "N-1", "owner": "treasury"}
            self._post(client, "nostros", nostro)

    def _post(self, client: httpx.Client, path: str, body: dict[str, Any]) -> None:
        answer = client.post(f"{URL}/{path}", json=body | {"ledger_id": self.ledger_id})
        assert answer.status_code == 201, answer.text

    def __call__(self, *words: str, typed: str = "") -> Done:
        command = [sys.executable, "-m", "finflow", *words]
        return subprocess.run(
            command, env=self.environment, input=typed, capture_output=True, text=True, timeout=120
        )


@pytest.fixture(scope="module")
def shell(stack: Stack) -> Shell:
    return Shell(stack)


def test_a_message_is_sent_and_sent_again(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "pacs.008.xml"
    file.write_bytes(transfers("M-1", [payment("E-1", "12.50"), payment("E-2", "1")], "2020-01-06"))
    words = ("settlement", "send", str(file), "--ledger", shell.ledger_id, "--sender", "ALFA")
    sent = shell(*words, "--json")
    assert sent.returncode == 0, sent.stderr
    told = json.loads(sent.stdout)
    assert (told["orders"], told["accepted"], told["refusals"]) == (2, 2, [])
    assert shell(*words, "--json").stdout == sent.stdout
    assert "message_id  M-1" in shell(*words).stdout
    piped = shell(*words[:2], "-", *words[3:], typed=file.read_text())
    assert piped.returncode == 0, piped.stderr


def test_a_refused_payment_and_a_refused_message_end_with_1(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "twice.xml"
    file.write_bytes(transfers("M-2", [payment("E-1", "3")], "2020-01-06"))
    words = ("settlement", "send", str(file), "--ledger", shell.ledger_id, "--sender")
    refused = shell(*words, "BETA")
    assert refused.returncode == 1, refused.stdout
    assert shell(*words, "NOBODY").returncode == 1
    assert "participant_unknown" in shell(*words, "NOBODY").stderr
    assert shell("settlement", "send", "no-such-file", *words[3:], "ALFA").returncode == 2


def test_reports_are_handed_over_and_breaks_shown(shell: Shell, tmp_path: Path) -> None:
    words = ("settlement", "reconcile", "--ledger", shell.ledger_id)
    clean = shell(*words, "--json")
    assert (clean.returncode, json.loads(clean.stdout)["breaks"]) == (0, 0), clean.stderr
    file = tmp_path / "camt.054.xml"
    file.write_bytes(notification("C-1", [entry("10", EndToEndId="E-9")]))
    broken = shell(*words, str(file))
    assert broken.returncode == 1, broken.stderr
    assert "1 breaks" in broken.stdout
    assert "unexpected" in broken.stdout
    assert "-10.00" in broken.stdout
    assert "treasury" in broken.stdout
    assert shell(*words, "no-such-file").returncode == 2
