"""Tokens, assertions, keys and bodies never reach what a worker writes, whatever goes wrong with them."""

import asyncio
import os
import signal
import tempfile
from typing import Any

import asyncpg
import httpx

from finflow.telemetry.redaction import redact
from oracles import oauth
from oracles.http import Bank, bearer
from oracles.tokens import expired_token, operator_token, tenant_token
from oracles.workers import worker

# Stands in bodies, names and queries; a log line that has it has somebody's data.
MARK = "Zq7-customer-secret"


async def test_what_is_secret_is_not_written_to_the_logs(database_url: str) -> None:
    with tempfile.TemporaryFile() as output:
        async with worker(database_url, output, log_level="debug") as (child, client):
            secrets = await _use(client, database_url)
            child.send_signal(signal.SIGTERM)
            await asyncio.wait_for(child.wait(), 30)
        written = os.pread(output.fileno(), 64 << 20, 0).decode()
    assert "request failed" in written, "something was written about what broke"
    assert [secret for secret in secrets if secret in written] == []
    # Nor any part of a token that another one could be made of.
    parts = {part for secret in secrets if secret.count(".") == 2 for part in secret.split(".")[1:]}
    assert [part for part in parts if part and part in written] == []
    assert "Bearer ey" not in written


async def _use(client: httpx.AsyncClient, database_url: str) -> list[str]:
    """Everything that has a secret in it, good and bad; the secrets."""
    one = await Bank(client).found()
    tokens = [tenant_token(one.tenant_id, *_ALL), expired_token(one.tenant_id), operator_token()]
    good, *_ = tokens
    tokens += [good[:-4] + "AAAA", good[5:], f"{good}.x", "x" * 9000]
    key = oauth.key()
    private: dict[str, Any] = key.as_dict(private=True)
    new = {"name": "c", "scopes": ["accounts:read"], "jwk": oauth.public(key)}
    made = await one.make("/v1/clients", new, bearer(good))
    proofs = [oauth.assertion(made["client_id"], key), oauth.assertion("cli_x", key)]
    proofs += [oauth.assertion(made["client_id"], oauth.key()), proofs[0], proofs[0][:-3]]
    granted = [await oauth.ask(client, proof) for proof in proofs]
    assert [answer.status_code for answer in granted] == [200, 401, 401, 401, 401]
    tokens.append(granted[0].json()["access_token"])
    a, b = await one.open(), await one.open()
    bodies = [one.transfer(a, b, "1", description=MARK), one.transfer(a, b, MARK), {MARK: MARK}]
    for token in tokens:
        for number, body in enumerate(bodies):
            headers = bearer(token) | {"Idempotency-Key": f"{MARK}{number}"}
            await client.post("/v1/transactions", json=body, headers=headers)
        await client.get(
            f"/v1/transactions?reference={MARK}&ledger_id={one.ledger_id}", headers=bearer(token)
        )
    await _break(database_url)
    broken = await one.post(one.transfer(a, b, "2", description=MARK))
    assert broken.status_code >= 500
    assert (await client.get(f"/v1/accounts/{a}", headers=bearer(good))).status_code >= 500
    assert (await oauth.ask(client, oauth.assertion(made["client_id"], key))).status_code >= 200
    return [*tokens, *proofs, private["d"], MARK]


_ALL = (
    "accounts:read", "accounts:write", "transactions:read", "transactions:write", "ledgers:read", "admin",
)  # fmt: skip


async def _break(database_url: str) -> None:
    """From now on statements fail inside the server, which is where an error quotes what it was given."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("alter table entries rename to elsewhere")
    finally:
        await connection.close()


def test_a_token_that_slipped_into_a_line_is_masked() -> None:
    token = operator_token()
    line = redact(f'{{"message": "refused {token} from x", "assertion": "{token[:-3]}"}}')
    assert token[:-3] not in line
    assert not [part for part in token.split(".")[1:] if part[:-3] in line]
    assert "from x" in line
    assert redact("eyes.are.fine, eyJust.a.word") == "eyes.are.fine, eyJust.a.word"
