"""Money moves once, however often the answer is lost: the same request with the same key, until it is known.

Needs a FinFlow that runs (`finflow up`) and nothing but Python's standard library. What it prints is beside
it: retry.out. FINFLOW_URL names the API, FINFLOW_TOKEN holds a tenant's token: `finflow token --tenant ID`.
"""

import http.client
import json
import os
import time
import urllib.parse
from typing import Any

API = urllib.parse.urlsplit(os.environ.get("FINFLOW_URL", "http://127.0.0.1:8400"))
TOKEN = os.environ["FINFLOW_TOKEN"]


class AnswerLost(Exception):
    """The request was sent, and the connection ended before its answer was read."""


def attempt(
    path: str, body: object, key: str | None, lose_answer: bool = False
) -> tuple[int, dict[str, Any]]:
    """Status and body of the answer. `lose_answer` hangs up once the request is out."""
    connection = http.client.HTTPConnection(API.hostname or "", API.port, timeout=30)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    headers |= {"Idempotency-Key": key} if key else {}
    try:
        connection.request("POST", path, json.dumps(body), headers)
        if lose_answer:
            raise AnswerLost
        response = connection.getresponse()
        return response.status, json.load(response)
    finally:
        connection.close()


def post(path: str, body: object, key: str, lost: int) -> tuple[int, dict[str, Any]]:
    """Tries until there is an answer that is not retryable; the first `lost` answers get lost."""
    for number in range(10):
        try:
            status, answer = attempt(path, body, key, lose_answer=number < lost)
        except (AnswerLost, OSError):
            print(f"attempt {number + 1}: no answer, so nobody knows")
        else:
            if status < 400 or not answer["retryable"]:
                return status, answer
        time.sleep(0.2 * 2**number)
    raise SystemExit("no answer in ten attempts")


def opened(path: str, body: object, name: str) -> str:
    return str(attempt(path, body, None)[1][name])


def main() -> None:
    ledger_id = opened("/v1/ledgers", {"name": "Retries"}, "ledger_id")
    account = {"ledger_id": ledger_id, "currency": "SGD"}
    cash = opened("/v1/accounts", {**account, "kind": "asset", "overdraft_limit": None}, "account_id")
    alice = opened("/v1/accounts", {**account, "kind": "liability"}, "account_id")
    entries = [
        {"account_id": cash, "direction": "debit", "amount": "25.00", "currency": "SGD"},
        {"account_id": alice, "direction": "credit", "amount": "25.00", "currency": "SGD"},
    ]
    body = {"ledger_id": ledger_id, "entries": entries, "reference": "order-4711"}
    status, answer = post("/v1/transactions", body, "order-4711", lost=2)
    entry = answer["entries"][1]
    print(f"attempt 3: {status}, seq {answer['seq']}")
    print(f"alice has {entry['balance']} SGD and {entry['version']} entry")


if __name__ == "__main__":
    main()
