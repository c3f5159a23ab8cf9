"""`finflow token|client|key` from a shell, and in whose name the other commands ask."""

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from console import Stack, started
from test_cli_nouns import Shell, finflow


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with started() as stack:
        yield stack


@pytest.fixture(scope="module")
def shell(stack: Stack) -> Shell:
    return Shell(stack)


def claims(token: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))


def test_a_token_is_alone_on_standard_output_and_says_what_was_asked(shell: Shell) -> None:
    done = shell("token", "--tenant", shell.tenant_id, "--scope", "accounts:read ledgers:read", "--ttl", "60")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    found = claims(done.stdout.strip())
    assert found["tenant"] == shell.tenant_id
    assert found["scope"] == "accounts:read ledgers:read"
    assert found["exp"] - found["iat"] == 60
    assert "in 60 seconds" in done.stderr
    assert "eyJ" not in done.stderr
    operator = claims(shell("token").stdout)
    assert (operator.get("tenant"), operator["scope"]) == (None, "admin")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--ttl", "901"), 2, "901"),
        (("--tenant", "acme"), 2, "no tenant's id"),
        (("--scope", "accounts:read"), 1, "It may have: admin."),
        (("--tenant", "ten_01m82g0ssteh4r000000000001", "--scope", "all"), 1, "It may have"),
    ],
)
def test_tokens_that_nobody_may_have_are_not_made(
    shell: Shell, words: tuple[str, ...], status: int, said: str
) -> None:
    done = shell("token", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr


def test_without_keys_there_are_no_tokens(shell: Shell, tmp_path: Path) -> None:
    done = finflow({**shell.environment, "FINFLOW_DATA": str(tmp_path)}, "token")
    assert (done.returncode, done.stdout) == (3, "")
    assert "no signing key" in done.stderr


def test_a_client_from_its_making_to_its_end(shell: Shell, tmp_path: Path) -> None:
    key = tmp_path / "teller.pem"
    scopes = ("--scope", "ledgers:read", "--scope", "accounts:read")
    made = shell(
        "client", "create", "Teller", "--tenant", shell.tenant_id, *scopes, "--key", str(key), "--id"
    )
    assert made.returncode == 0, made.stderr
    client_id = made.stdout.strip()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "PRIVATE" not in made.stdout + made.stderr
    own = {**shell.environment, "FINFLOW_CLIENT_ID": client_id, "FINFLOW_CLIENT_KEY": str(key)}
    listed = finflow(own, "ledger", "list", "--json")
    assert [each["ledger_id"] for each in json.loads(listed.stdout)] == [shell.ledger_id]
    refused = finflow(own, "ledger", "create", "More")
    assert (refused.returncode, "scope_insufficient" in refused.stderr) == (1, True)

    second = tmp_path / "second.pem"
    assert shell("client", "rotate", client_id, "--key", str(second)).returncode == 0
    shown = shell.read("client", "show", client_id)
    assert len(shown["keys"]) == 2
    first_kid = shown["keys"][0]["kid"]
    assert shell("client", "revoke", client_id, "--kid", first_kid, "--yes").returncode == 0
    gone = finflow(own, "ledger", "list")
    assert (gone.returncode, "client_unauthenticated" in gone.stderr) == (1, True)
    own["FINFLOW_CLIENT_KEY"] = str(second)
    assert finflow(own, "ledger", "list").returncode == 0

    kept = shell("client", "revoke", client_id, typed="n\n")
    assert kept.returncode == 130
    assert finflow(own, "ledger", "list").returncode == 0
    assert shell("client", "revoke", client_id, "--yes").returncode == 0
    assert finflow(own, "ledger", "list").returncode == 1
    assert client_id in shell("client", "list").stdout


def test_a_key_is_printed_only_when_asked_for_and_a_refused_client_leaves_none(
    shell: Shell, tmp_path: Path
) -> None:
    printed = shell("client", "create", "Printed", "--scope", "admin", "--key", "-", "--id")
    assert printed.stdout.count("BEGIN PRIVATE KEY") == 1
    key = tmp_path / "refused.pem"
    refused = shell("client", "create", "Refused", "--scope", "accounts:read", "--key", str(key))
    assert (refused.returncode, "scope_not_granted" in refused.stderr) == (1, True)
    assert not key.exists()
    key.write_text("nonsense")
    broken = shell("client", "create", "Broken", "--scope", "admin", "--key", str(key))
    assert (broken.returncode, "file_unreadable" in broken.stderr or "cannot be read" in broken.stderr) == (
        2,
        True,
    )
    assert key.read_text() == "nonsense"


def test_half_of_a_client_is_a_mistake(shell: Shell) -> None:
    done = finflow({**shell.environment, "FINFLOW_CLIENT_ID": "cli_x"}, "ledger", "list")
    assert (done.returncode, "belong together" in done.stderr) == (2, True)


def test_a_token_of_the_environment_is_used_as_it_is(shell: Shell) -> None:
    other = shell.made("tenant", "create", "Other")
    token = shell("token", "--tenant", other).stdout.strip()
    environment = {**shell.environment, "FINFLOW_TOKEN": token}
    assert json.loads(finflow(environment, "ledger", "list", "--json").stdout) == []
    done = finflow(environment, "ledger", "trial-balance", shell.ledger_id)
    assert (done.returncode, "ledger_unknown" in done.stderr) == (1, True)


def test_an_api_elsewhere_wants_credentials(shell: Shell, tmp_path: Path) -> None:
    environment = {**shell.environment, "FINFLOW_DATA": str(tmp_path)}
    url = ("--url", shell.environment["FINFLOW_URL"])
    done = finflow(environment, "ledger", "list", *url)
    assert (done.returncode, "FINFLOW_TOKEN" in done.stderr) == (1, True)
    assert "token_missing" in done.stderr


def test_keys_are_listed_rotated_and_revoked_under_a_running_api(shell: Shell) -> None:
    [first] = shell.read("key", "list")
    assert first["state"] == "signing"
    fresh = shell("key", "rotate")
    assert fresh.returncode == 0
    kid = fresh.stdout.strip()
    assert [(each["kid"], each["state"]) for each in shell.read("key", "list")] == [
        (kid, "next"),
        (first["kid"], "signing"),
    ]
    assert shell("ledger", "list").returncode == 0
    assert shell("key", "revoke", first["kid"], "--yes").returncode == 0
    assert [(each["kid"], each["state"]) for each in shell.read("key", "list")] == [(kid, "signing")]
    assert shell("ledger", "list").returncode == 0
    unknown = shell("key", "revoke", first["kid"], "--yes")
    assert (unknown.returncode, "no key" in unknown.stderr) == (3, True)
