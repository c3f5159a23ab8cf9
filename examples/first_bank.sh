#!/usr/bin/env bash
# A bank's first day: two customers, a deposit, a transfer, one payment too many, a fee in one batch with interest.
# Needs a FinFlow that runs (`finflow up`), bash, curl and python3. What it prints is beside it: first_bank.out.
set -euo pipefail
. "$(dirname "$0")/shell.sh"

open_ledger "First bank"
cash=$(open_account asset SGD '"overdraft_limit": null')
fees=$(open_account income SGD)
interest=$(open_account expense SGD)
alice=$(open_account liability SGD '"external_reference": "alice"')
bob=$(open_account liability SGD '"external_reference": "bob"')

echo "Alice pays in 500.00"
post /v1/transactions "$(transaction "$cash" "$alice" 500.00)" deposit-1

echo "Alice sends Bob 120.50"
post /v1/transactions "$(transaction "$alice" "$bob" 120.50 '"description": "Dinner", "reference": "INV-7"')" transfer-1
show seq status description reference

echo "Bob tries to withdraw 1,000.00"
post /v1/transactions "$(transaction "$bob" "$cash" 1000.00)" withdrawal-1
show code param

echo "The evening's batch: a fee for each, interest for Alice"
member() { # DEBIT CREDIT AMOUNT
  printf '{"entries": [{"account_id": "%s", "direction": "debit", "amount": "%s", "currency": "SGD"},
    {"account_id": "%s", "direction": "credit", "amount": "%s", "currency": "SGD"}]}' "$1" "$3" "$2" "$3"
}
post /v1/transactions:batch "{\"ledger_id\": \"$ledger\", \"transactions\": [$(member "$alice" "$fees" 2.00),
  $(member "$bob" "$fees" 2.00), $(member "$interest" "$alice" 0.41)]}" evening-1
show posted refused replayed

for name in alice bob; do
  get "/v1/accounts/${!name}/balance" > /dev/null
  echo "$name has $(field balance) SGD"
done

echo "The books"
get "/v1/ledgers/$ledger/trial-balance" > /dev/null
show seq balanced currencies
