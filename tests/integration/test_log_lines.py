"""The log of a running application: failed write transactions once each, access lines, no payload."""

import io
import json
from typing import Any

import asyncpg
import pytest

from finflow.api.asgi import build
from finflow.app import Config, services
from finflow.ledger import writer
from finflow.ledger.writer import LedgerWriter
from oracles.http import Bank, client_of, lifespan, line
from oracles.tokens import FLAGS


def lines(log_stream: io.StringIO, logger: str) -> list[dict[str, Any]]:
    found = [json.loads(text) for text in log_stream.getvalue().splitlines()]
    return [each for each in found if each["logger"] == logger]


async def test_a_failed_write_transaction_is_one_line_with_its_code_and_nothing_of_it(
    database_url: str, log_stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RETRY_FOR_S", 0.0)
    config = Config.load({"database_url": database_url, **FLAGS}, {})
    app = build(lambda: services(config))
    async with lifespan(app), client_of(app) as client:
        bank = await Bank(client).found()
        tenant = (await client.get(f"/v1/ledgers/{bank.ledger_id}")).json()["tenant_id"]
        a, b = [await bank.open() for _ in range(2)]

        async def lost(*_: Any) -> Any:
            raise asyncpg.ConnectionDoesNotExistError("gone")

        with monkeypatch.context() as patch:
            patch.setattr(LedgerWriter, "_transact", lost)
            body = {
                "ledger_id": bank.ledger_id,
                "description": "Salary of Tan Ah Kow",
                "entries": [line(a, "debit", "987.65"), line(b, "credit", "987.65")],
            }
            answer = await client.post("/v1/transactions", json=body, headers={"Idempotency-Key": "k-secret"})
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unreachable")
        # A refusal is an answer, not a failure: the journal keeps it.
        body["entries"] = [line(a, "debit", "1.00"), line(b, "credit", "2.00")]
        refused = await client.post("/v1/transactions", json=body, headers={"Idempotency-Key": "k-2"})
        assert refused.json()["code"] == "unbalanced"
    [said] = lines(log_stream, "finflow.ledger.traced")
    assert (said["level"], said["message"]) == ("error", "write transaction failed")
    assert (said["code"], said["commands"], said["jobs"], said["release"]) == (
        "database_unreachable", 1, 1, "2026.11",
    )  # fmt: skip
    assert said["ledger_no"] >= 1
    assert said["tenant"] == tenant
    for private in ("Tan Ah Kow", "987.65", "k-secret", a):
        assert private not in log_stream.getvalue()


async def test_access_lines_are_asked_for_and_name_the_request(
    database_url: str, log_stream: io.StringIO
) -> None:
    config = Config.load({"database_url": database_url, **FLAGS}, {})
    for ratio, expected in ((0.0, 0), (1.0, 2)):
        app = build(lambda: services(config), access_ratio=ratio)
        async with lifespan(app), client_of(app) as client:
            headers = {"X-Request-Id": f"seen-{ratio}"}
            await client.get("/v1/tenants?limit=5", headers=headers)
            await client.get("/v1/accounts/nobody", headers=headers)
        assert len(lines(log_stream, "finflow.access")) == expected
    listed, missing = lines(log_stream, "finflow.access")
    assert (listed["method"], listed["status"], listed["request_id"]) == ("GET", 200, "seen-1.0")
    assert listed["path"] == listed["route"] == "/v1/tenants"
    assert listed["duration_ms"] > 0
    # The operator has no accounts.
    assert (missing["status"], missing["route"]) == (403, "/v1/accounts/{account_id}")
    assert len(missing["trace_id"]) == 32
