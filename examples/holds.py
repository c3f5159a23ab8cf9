"""A card payment's life: held, captured in part, the rest released; another one released by the shop.

Needs a FinFlow that runs (`finflow up`) and nothing but Python's standard library. What it prints is beside
it: holds.out. FINFLOW_URL names the API, FINFLOW_TOKEN holds a tenant's token: `finflow token --tenant ID`.
"""

import json
import os
import urllib.error
import urllib.request
from typing import Any

API = os.environ.get("FINFLOW_URL", "http://127.0.0.1:8400")
TOKEN = os.environ["FINFLOW_TOKEN"]


def send(method: str, path: str, body: object = None, key: str | None = None) -> dict[str, Any]:
    """The answer's body; a refusal's body too, since it has a code to look at."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    headers |= {"Idempotency-Key": key} if key else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(API + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            answer: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        answer = json.load(error)
    return answer


def open_account(ledger_id: str, kind: str, overdraft_limit: str | None = "0") -> str:
    body = {"ledger_id": ledger_id, "kind": kind, "currency": "SGD", "overdraft_limit": overdraft_limit}
    return str(send("POST", "/v1/accounts", body)["account_id"])


def move(
    ledger_id: str, debit: str, credit: str, amount: str, key: str, pending: bool = False
) -> dict[str, Any]:
    entries = [
        {"account_id": debit, "direction": "debit", "amount": amount, "currency": "SGD"},
        {"account_id": credit, "direction": "credit", "amount": amount, "currency": "SGD"},
    ]
    body = {"ledger_id": ledger_id, "entries": entries, "pending": pending}
    return send("POST", "/v1/transactions", body, key)


def say(what: str, account_id: str) -> None:
    found = send("GET", f"/v1/accounts/{account_id}/balance")
    print(f"{what:<32} balance {found['balance']:>7}   available {found['available']:>7}")


def main() -> None:
    ledger_id = send("POST", "/v1/ledgers", {"name": "Cards"})["ledger_id"]
    cash = open_account(ledger_id, "asset", overdraft_limit=None)
    shop, alice = open_account(ledger_id, "liability"), open_account(ledger_id, "liability")
    move(ledger_id, cash, alice, "200.00", "salary")
    say("salary", alice)

    hotel = move(ledger_id, alice, shop, "150.00", "hotel", pending=True)
    say("the hotel holds 150.00", alice)
    refused = move(ledger_id, alice, shop, "60.00", "dinner")
    say(f"60.00 more: {refused['code']}", alice)

    captured = send(
        "POST", f"/v1/transactions/{hotel['transaction_id']}/post", {"amount": "95.00"}, "hotel-bill"
    )
    say(f"the bill: {captured['status']} 95.00", alice)
    again = send("POST", f"/v1/transactions/{hotel['transaction_id']}/post", {}, "hotel-bill-2")
    say(f"once more: {again['code']}", alice)

    fuel = move(ledger_id, alice, shop, "80.00", "fuel", pending=True)
    say("the petrol pump holds 80.00", alice)
    voided = send("POST", f"/v1/transactions/{fuel['transaction_id']}/void", {}, "fuel-void")
    say(f"driven off: {voided['status']}", alice)
    say("the shop", shop)


if __name__ == "__main__":
    main()
